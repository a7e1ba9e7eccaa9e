"""The detectors on curves whose spikes are known."""

import json
import math

import numpy as np
import pytest

from resformer.stability.endstate import StabilityWatch
from resformer.stability.spikes import OlmoSpikeScore, SpikeDetector, pair


def curve(steps: int, spikes=(), noise=0.03, tails=None, seed=0) -> np.ndarray:
    """A power-law descent from 10.8 nats, with noise (normal, or Student's t) and spikes ``(step, nats)`` that decay
    as exp(-t/8)."""
    random = np.random.default_rng(seed)
    t = np.arange(1, steps + 1)
    values = 1.8 + 9.0 * (1 + t / 10) ** -0.5
    values += noise * (random.standard_normal(steps) if tails is None else random.standard_t(tails, steps))
    for start, height in spikes:
        values += np.where(t >= start, height * np.exp(-(t - start) / 8), 0)
    return values


def detect(values, detector=None) -> SpikeDetector:
    detector = detector or SpikeDetector()
    for step, value in enumerate(values, 1):
        detector.update(step, float(value))
    return detector


def rates(steps, spikes, curves, tails=None) -> tuple[float, float]:
    """Share of the spikes that were found, and events per 1,000 steps that were none."""
    found = false = 0
    for seed in range(curves):
        events = detect(curve(steps, spikes, tails=tails, seed=seed)).events
        hits = [any(abs(event.step - start) <= 3 for event in events) for start, _ in spikes]
        found += sum(hits)
        false += sum(all(not start - 3 <= event.step <= start + 40 for start, _ in spikes) for event in events)
    return found / max(1, curves * len(spikes)), 1000 * false / (curves * steps)


CELLS = [
    (300, [(150, 0.5)]), (300, [(60, 1.0)]), (1000, [(150, 0.5)]), (1000, [(500, 0.5)]),
    (4000, [(500, 0.5)]), (4000, [(1500, 0.5)]),
]  # fmt: skip


@pytest.mark.parametrize(("steps", "spikes"), CELLS[:4])
def test_spikes_of_short_runs_are_found(steps, spikes):
    detection, false = rates(steps, spikes, 10)
    assert detection == 1
    assert false <= 0.3


def test_false_alarms_with_heavy_tails_are_rare():
    _, false = rates(1000, [], 10, tails=4)
    assert false <= 1.0


@pytest.mark.slow
def test_table_of_detection_and_false_alarms(capsys):
    """``pytest -m slow tests/stability/test_spikes.py -k table -s`` prints the table of the README."""
    lines = [
        "| steps | spike | found, normal noise | false alarms / 1,000 steps | found, t4 noise | false alarms |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for steps, spikes in [*CELLS, (1000, []), (4000, [])]:
        (found, false), (heavy_found, heavy_false) = (rates(steps, spikes, 20, tails) for tails in (None, 4))
        name = "; ".join(f"{height} nat at {start}" for start, height in spikes) or "none"
        shown = [f"{value:.2f}" if spikes else "-" for value in (found, heavy_found)]
        lines.append(f"| {steps} | {name} | {shown[0]} | {false:.2f} | {shown[1]} | {heavy_false:.2f} |")
        if spikes:
            assert found == 1
            assert heavy_found >= 0.9
        assert false <= 0.3
        assert heavy_false <= 1.0
    with capsys.disabled():
        print("\n" + "\n".join(lines))


def test_an_event_says_when_how_high_how_much_and_how_long():
    """On a flat curve of 3 nats the trend is 3 and the scale the smallest, 0.001 of the value: back within two scales
    means an excess of 3 (exp(0.002) - 1), which exp(-t/8) reaches at t = 41."""
    t = np.arange(1, 401)
    values = 3 + np.where(t >= 300, np.exp(-(t - 300) / 8), 0)
    event = detect(values).events[0]
    back = math.ceil(-8 * math.log(3 * math.expm1(0.002)))
    assert (event.step, event.recovery) == (300, back)
    assert event.amplitude == pytest.approx(1.0)
    assert event.area == pytest.approx(sum(math.exp(-i / 8) for i in range(back)))


def test_an_event_that_never_ends_has_no_recovery():
    values = curve(300, noise=0.01)
    values[250:] += 1.0
    event = detect(values).events[-1]
    assert event.step == 251
    assert event.recovery is None


def test_flags_less_than_ten_steps_apart_are_one_event():
    values = curve(400, noise=0.01)
    values[[199, 207, 260]] += 1.0
    events = detect(values).events
    assert [(e.step, e.last) for e in events] == [(200, 208), (261, 261)]


def test_a_value_that_is_not_finite_does_not_blind_it():
    values = curve(300, [(150, 0.5)])
    values[[99, 120, 148]] = np.nan, np.inf, np.nan
    assert [e.step for e in detect(values).events] == [150]


def test_a_gradient_spike_that_came_before_is_said():
    loss = detect(curve(300, [(150, 1.0)], noise=0.01))
    gradient = detect(curve(300, [(146, 3.0)], noise=0.01))
    assert pair(loss.events, gradient.events)[0].lead == 4


def olmo_by_a_loop(values) -> float:
    flags = [
        abs(values[i] - np.mean(values[i - 1000 : i])) >= 7 * np.std(values[i - 1000 : i])
        for i in range(1000, len(values))
    ]
    return 100 * sum(flags) / len(flags)


def test_olmo_score_is_the_papers():
    values = 3 + 0.01 * np.random.default_rng(0).standard_normal(3000)
    values[[1500, 1501, 2900]] += 1.0, -1.0, 1.0
    score = OlmoSpikeScore()
    for value in values:
        score.update(float(value))
    assert score.percent == pytest.approx(olmo_by_a_loop(values))
    assert score.flagged == 3  # two-sided: the dip counts


def test_olmo_score_judges_nothing_without_a_full_window():
    score = OlmoSpikeScore()
    for value in curve(1000, [(500, 5.0)]):
        score.update(float(value))
    assert score.percent is None


def test_killed_and_resumed_watches_alike():
    """A break inside a spike, through JSON, changes nothing."""
    values = curve(1400, [(150, 0.7), (1200, 0.7)])
    values[1302] = np.nan
    whole, first = StabilityWatch(1.0), StabilityWatch(1.0)
    for step, value in enumerate(values, 1):
        whole.update(step, float(value), float(value) / 4)
    for step, value in enumerate(values[:153], 1):
        first.update(step, float(value), float(value) / 4)
    second = StabilityWatch(1.0)
    second.load_state_dict(json.loads(json.dumps(first.state_dict(), allow_nan=False)))
    for step, value in enumerate(values[153:], 154):
        second.update(step, float(value), float(value) / 4)
    assert second.state_dict() == whole.state_dict()
    assert second.summary(2.0, 5.0) == whole.summary(2.0, 5.0)
    assert [event.step for event in whole.loss.events] == [150, 1200]
