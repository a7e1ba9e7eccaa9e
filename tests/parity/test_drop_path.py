"""Stochastic depth (Huang et al. 2016): each sample's output must be that of some set of kept branches, written out by
the formulas with these branches divided by the share that stays, and each set must come as often as its probability.
"""

import itertools
import math

import pytest
import torch
from parity_helpers import assert_near, build, expected_logits, runs, some_tokens
from test_formulas import FORMULAS

RATE, DEPTH, SAMPLES = 0.6, 3, 4000
KEEP = [1 - RATE * layer / (DEPTH - 1) for layer in range(DEPTH)]  # 1, 0.7, 0.4
KINDS = [
    "pre", "post", "res_post", "deepnorm", "keel", "gtrxl", "concat", "denseformer", "attn_res", "unet", "momentum",
    "residual_dual", "hyper", "mhc",
]  # fmt: skip


def with_kept(model, tokens, kept):
    """Logits with the branches ``kept`` (by site) divided by their share, and the others nothing."""
    factors = iter(kept)

    def factor_of(layer, branch):
        factor = next(factors) / KEEP[layer]
        return lambda x: branch(x) * factor

    def branches(layer):
        (run,) = runs(model)
        attention, mlp = run.places[2 * layer], run.places[2 * layer + 1]
        return factor_of(layer, attention.attention), factor_of(layer, mlp.mlp)

    return expected_logits(model, tokens, FORMULAS, branches)


def sets_of_branches():
    """(set of kept branches at the sites after the first block, its probability)."""
    for kept in itertools.product([0.0, 1.0], repeat=2 * (DEPTH - 1)):
        shares = [KEEP[1 + site // 2] for site in range(len(kept))]
        yield kept, math.prod(share if k else 1 - share for k, share in zip(kept, shares, strict=True))


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_every_set_of_branches_as_often_as_it_should(kind):
    model = build({"kind": kind, "drop_path": RATE}, DEPTH)
    one = some_tokens(1, 2)
    tokens = one.expand(SAMPLES, -1)
    torch.manual_seed(0)
    got = model.train()(input_ids=tokens, use_cache=False).logits
    unexplained = torch.ones(SAMPLES, dtype=torch.bool)
    for kept, probability in sets_of_branches():
        expected = with_kept(model, one, (1.0, 1.0, *kept))
        same = (got - expected).abs().amax((1, 2)) < 1e-9
        unexplained &= ~same
        share, deviation = same.double().mean().item(), (probability * (1 - probability) / SAMPLES) ** 0.5
        assert abs(share - probability) < 5 * deviation, f"{kept}: {share}, not {probability}"
    assert not unexplained.any()


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_evaluation_keeps_every_branch(kind):
    model, tokens = build({"kind": kind, "drop_path": RATE}, DEPTH), some_tokens()
    assert_near(model.eval()(input_ids=tokens).logits, expected_logits(model, tokens, FORMULAS), "logits")


@torch.no_grad()
def test_a_branch_is_what_it_was_on_average():
    site = build("plain(norm=none, drop_path=0.6)", 2).model.layers[1].mlp_residual.train()
    draws = 200_000
    torch.manual_seed(0)
    mean = site.step(torch.zeros(draws, 1, 4), torch.ones_like).mean().item()
    assert abs(mean - 1) < 5 * (RATE / (1 - RATE) / draws) ** 0.5


def test_training_is_repeatable_by_its_seed():
    model, tokens = build("pre(drop_path=0.5)", DEPTH).train(), some_tokens(16)
    outputs = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        outputs.append(model(input_ids=tokens).logits)
    assert torch.equal(outputs[0], outputs[1]) and not torch.equal(outputs[0], outputs[2])
