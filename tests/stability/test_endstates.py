"""The five end states, each reached by a curve that a person would call so."""

import json

import numpy as np
import pytest
import torch

from resformer.stability.endstate import BAD_ENDS, END_STATES, FAILED, StabilityWatch, end_state_of

UNIGRAM = 4.7


def watched(losses, gradients=None) -> StabilityWatch:
    watch = StabilityWatch(max_grad_norm=1.0)
    for step, loss in enumerate(losses, 1):
        watch.update(step, float(loss), float(1.0 if gradients is None else gradients[step - 1]))
    return watch


def descent(steps=300, end=2.0, seed=0, start=7.0):
    t = np.arange(steps)
    return end + (start - end) * np.exp(-t / 40) + 0.02 * np.random.default_rng(seed).standard_normal(steps)


def spiked():
    losses = descent()
    losses[150:] += 1.5 * np.exp(-np.arange(150) / 8)
    return losses


def exploded():
    losses = descent()
    losses[250:] = 2 + 0.2 * np.arange(50)
    return losses


CASES = {
    "ok": (descent(), 2.0),
    "spiked-recovered": (spiked(), 2.0),
    "stuck": (descent(end=UNIGRAM), 4.65),
    "diverged": (exploded(), 12.0),
}


@pytest.mark.parametrize("state", CASES)
def test_each_state(state):
    losses, val_loss = CASES[state]
    summary = watched(losses).summary(val_loss, UNIGRAM)
    assert summary["end_state"] == state
    assert (summary["divergence_step"] is not None) == (state == "diverged")
    json.dumps(summary, allow_nan=False)


@pytest.mark.parametrize("state", CASES)
def test_a_summary_without_an_end_state_is_judged_by_its_losses(state):
    losses, val_loss = CASES[state]
    summary = {"status": "completed", "val_loss": val_loss, "unigram_entropy": UNIGRAM}
    assert end_state_of(summary, losses) == state
    assert end_state_of(summary | {"end_state": "degraded"}, losses) == "degraded"
    assert end_state_of(summary | {"status": "diverged", "val_loss": None}) == "diverged"
    assert end_state_of(summary | {"val_loss": None}, losses) == "diverged"
    assert end_state_of(summary | {"status": "interrupted"}, losses) is None


def test_what_is_a_bad_end_and_what_a_failure():
    assert FAILED == ("stuck", "diverged")
    assert set(END_STATES) - set(BAD_ENDS) == {"ok", "spiked-recovered"}
    assert set(END_STATES) - set(CASES) == {"degraded"}  # which takes other runs to say


def test_divergence_is_dated_to_its_first_step():
    losses = exploded()
    # The smoothed loss crosses 1 nat above its minimum where a loop says so.
    smoothed, crossed, lowest = losses[0], None, losses[0]
    for step, loss in enumerate(losses, 1):
        smoothed = loss if step == 1 else 0.9 * smoothed + 0.1 * loss
        lowest = min(lowest, smoothed)
        crossed = step if crossed is None and smoothed > lowest + 1 else crossed
    assert watched(losses).divergence_step == crossed
    assert 255 < crossed < 275


def test_not_finite_at_the_end_is_divergence_and_earlier_a_spike():
    losses = descent()
    losses[299] = np.nan
    assert watched(losses).divergence_step == 300
    losses = descent()
    losses[100] = np.inf
    watch = watched(losses)
    assert watch.divergence_step is None
    assert watch.summary(2.0, UNIGRAM)["end_state"] == "spiked-recovered"
    gradients = np.ones(300)
    gradients[298] = np.nan
    assert watched(descent(), gradients).divergence_step == 299


def test_a_lasting_excursion_diverges_and_a_short_one_does_not():
    lasting, short = descent(), descent()
    lasting[250:] += 2.0
    short[200:215] += 2.0
    assert watched(lasting).divergence_step is not None
    assert watched(short).divergence_step is None


def test_the_plateau_of_frequencies_is_stuck_although_its_loss_is_low_for_the_vocabulary():
    """10.8 nats at initialisation, 7.2 at the end: the failed cells of published tables."""
    assert watched(descent(end=7.2, start=10.8)).summary(7.15, 7.2)["end_state"] == "stuck"


def test_a_run_that_did_not_get_there_has_no_end_state():
    assert watched(descent()[:50]).summary(None, UNIGRAM)["end_state"] is None


def test_clip_rate_is_the_share_of_clipped_steps():
    assert watched(descent(4), [0.5, 1.5, 2.0, 1.0]).clip_rate == 0.5
    assert StabilityWatch(0.0).clip_rate is None


def test_the_clip_coefficient_is_what_torch_multiplies_by():
    for length in (0.5, 4.0):
        weight = torch.nn.Parameter(torch.zeros(4))
        weight.grad = torch.full((4,), length / 2)
        norm = float(torch.nn.utils.clip_grad_norm_([weight], 1.0))
        assert StabilityWatch(1.0).clip_coefficient(norm) == pytest.approx(weight.grad.norm().item() / length, rel=1e-5)
    assert StabilityWatch(0.0).clip_coefficient(3.0) is None
