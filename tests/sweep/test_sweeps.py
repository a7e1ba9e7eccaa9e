"""Sweeps as a person runs them: what is skipped, gone on with, retried, left alone; and every mistake in one line."""

import json
import math
import random
import re
import signal
import subprocess
import time

import pytest
from sweep_helpers import command, definition, environment, sweep

from resformer.sweeps import read_sweep


def runs(folder) -> dict[str, int]:
    """How often each trial was started."""
    return {file.parent.name: len(file.read_text()) for file in (folder / "sweep" / "trials").glob("*/runs")}


def table(result) -> list[str]:
    """The verdict table on the screen, without the line below it that tells how long the sweep's own work took."""
    lines = result.stdout.splitlines()
    start = next(i for i, line in enumerate(lines) if "verdict on" in line)
    found = [line.rstrip() for line in lines[start : start + 9]]
    return [line for line in found if not line.startswith("beyond the trials themselves")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    result = sweep(folder, definition(folder))
    assert result.returncode == 0, result.stderr
    return folder, result


def test_it_tunes_then_reports_then_says_what_is_better(whole):
    folder, result = whole
    names = set(runs(folder))
    assert len(names) == 2 * (4 * 3 + 4 * 6)  # two depths: four arms at three rates, then six seeds at the best
    assert set(runs(folder).values()) == {1}
    assert sum(name.startswith("post_num_hidden_layers=2_lr=0.003") and "seed=2" in name for name in names) == 1
    said = {tuple(line.split()[:2]): line for line in table(result)[1:]}
    assert "worse" in said["post", "num_hidden_layers=1"]
    assert "baseline" in said["pre", "num_hidden_layers=2"]
    assert "less stable" in said["plain", "num_hidden_layers=1"]
    assert not re.search("better|worse", said["again", "num_hidden_layers=1"])
    session = json.loads((folder / "sweep" / "session.json").read_text())
    assert session["finished"] == len(names)


def test_steps_are_timed_against_the_reference(whole):
    steps = {
        (entry["arm"], entry["point"]): entry
        for entry in json.loads((whole[0] / "sweep" / "steps.json").read_text())["steps"]
    }
    assert {arm for arm, _ in steps} == {"pre", "again", "post", "plain"}
    for point in ("num_hidden_layers=1", "num_hidden_layers=2"):
        assert steps["pre", point]["ratio"] == 1
        for arm in ("again", "post", "plain"):
            entry = steps[arm, point]
            assert entry["seconds"] == pytest.approx(entry["ratio"] * steps["pre", point]["seconds"])
            assert entry["ratio"] > 0


def test_a_step_s_memory_is_counted_tensor_by_tensor(whole):
    folder = whole[0] / "sweep"
    steps = {(e["arm"], e["point"]): e["memory"] for e in json.loads((folder / "steps.json").read_text())["steps"]}
    parameters = {
        (e["arm"], e["point"]): e["parameters"] for e in json.loads((folder / "plan.json").read_text())["ledgers"]
    }
    for key, memory in steps.items():
        assert memory > 4 * 4 * parameters[key]  # weights, gradients and Adam's two moments, and activations besides
    for point in ("num_hidden_layers=1", "num_hidden_layers=2"):
        assert steps["again", point] == steps["pre", point]
    assert steps["pre", "num_hidden_layers=2"] > steps["pre", "num_hidden_layers=1"]


def test_a_finished_sweep_runs_nothing_again(whole):
    folder, first = whole
    timed = (folder / "sweep" / "steps.json").read_text()
    result = sweep(folder, definition(folder))
    assert result.returncode == 0
    assert set(runs(folder).values()) == {1}
    assert (folder / "sweep" / "steps.json").read_text() == timed
    assert table(result) == table(first)


@pytest.mark.slow
def test_what_diverged_stays_what_died_is_retried_what_always_dies_is_given_up(tmp_path):
    arms = {
        "pre": {"model.residual": "pre"},
        "dies": {"optimizer.weight_decay": 0.5},
        "once": {"optimizer.weight_decay": 0.6},
        "diverges": {"optimizer.weight_decay": 0.7},
        "refuses": {"optimizer.weight_decay": 0.8},
    }
    seeds = {"tuning": [9], "reporting": [0, 1]}
    rates = {"grid": [3e-3], "extend_by": 0, "multiples": [1]}
    whole = definition(tmp_path, arms=arms, grid={}, controls={}, seeds=seeds, learning_rates=rates)
    result = sweep(tmp_path, whole, "--executor.retries", "1")
    assert result.returncode == 1
    started = runs(tmp_path)
    assert started["dies_lr=0.003_seed=9"] == 2
    assert started["refuses_lr=0.003_seed=9"] == 1
    for seed in (9, 0, 1):
        assert started[f"once_lr=0.003_seed={seed}"] == 2
        assert started[f"diverges_lr=0.003_seed={seed}"] == started[f"pre_lr=0.003_seed={seed}"] == 1
    warnings = result.stderr.splitlines()
    assert any("dies_lr=0.003_seed=9" in line and "SIGKILL" in line for line in warnings)
    assert any("refuses_lr=0.003_seed=9" in line and "no such thing" in line for line in warnings)
    assert "Traceback" not in result.stderr
    again = sweep(tmp_path, whole, "--executor.retries", "0")
    assert again.returncode == 1
    assert runs(tmp_path)["dies_lr=0.003_seed=9"] == 3
    assert runs(tmp_path)["diverges_lr=0.003_seed=9"] == 1


@pytest.mark.slow
def test_the_grid_extends_until_the_optimum_is_interior_or_the_budget_is_spent(tmp_path):
    few = {"grid": [1e-4, 2e-4], "extend_by": 1, "multiples": [1]}
    result = sweep(tmp_path, definition(tmp_path, grid={}, learning_rates=few))
    assert result.returncode == 0, result.stderr
    for arm in ("pre", "again", "post", "plain"):  # as many tuning runs for each
        rates = {name.split("_")[1] for name in runs(tmp_path) if name.startswith(arm) and "seed=9" in name}
        assert rates == {"lr=0.0001", "lr=0.0002", "lr=0.0004"}
    assert "edge of the grid" in table(result)[3]
    folder = tmp_path / "more"
    folder.mkdir()
    more = sweep(
        folder, definition(folder, grid={}, learning_rates={"grid": [1e-4, 1e-3], "extend_by": 4, "multiples": [1]})
    )
    assert "edge" not in more.stdout
    assert len({name.split("_")[1] for name in runs(folder) if "seed=9" in name}) == 3


def planned(folder, **changes):
    from resformer.sweeps.config import parse_sweep
    from resformer.sweeps.trials import Sweep

    return Sweep(parse_sweep(command(folder, definition(folder, grid={}, **changes))[3:]))


def bowl(arm: str, rate: float, best: float, seed: int, loss: float = 2.0):
    from resformer.sweeps.results import Result

    return Result(arm, "", rate, seed, loss + 0.3 * math.log10(rate / best) ** 2 + 1e-4 * (seed % 3), 5.5)


def test_reporting_seeds_run_at_multiples_of_the_fitted_best_rate_of_their_own_arm(tmp_path):
    from resformer.sweeps.wanted import wanted

    rates = {"grid": [1e-3, 3e-3, 1e-2, 3e-2], "extend_by": 0, "multiples": [1, 4]}
    plan = planned(tmp_path, learning_rates=rates)
    best = {"pre": 4e-3, "again": 4e-3, "post": 8e-3, "plain": 4e-3}
    results = [bowl(arm, rate, own, 9) for arm, own in best.items() for rate in rates["grid"]]
    reported = {(t.arm, t.learning_rate) for t in wanted(plan, results) if t.seed != 9}
    assert reported == {("pre", 4e-3), ("pre", 1.6e-2), ("again", 4e-3), ("again", 1.6e-2), ("post", 8e-3),
                        ("post", 3.2e-2), ("plain", 4e-3)}  # fmt: skip


def test_seeds_are_added_look_by_look_and_an_arm_of_which_all_is_said_runs_no_more(tmp_path):
    from resformer.sweeps.wanted import wanted

    rates = {"grid": [1e-3, 3e-3, 1e-2], "extend_by": 0, "multiples": [1]}
    seeds = {"tuning": [9, 12], "reporting": list(range(12)), "looks": [8, 12]}
    seeds["reporting"].remove(9)
    seeds["reporting"].append(20)
    statistics = {"stability_margin": 0.9}  # whose stability is said at once
    plan = planned(tmp_path, learning_rates=rates, seeds=seeds, statistics=statistics)
    results = [
        bowl(a, r, 3e-3, s, 2.5 if a == "post" else 2) for a in plan.arms for r in rates["grid"] for s in (9, 12)
    ]
    first = [trial for trial in wanted(plan, results) if trial.seed not in (9, 12)]
    assert {trial.seed for trial in first} == set(range(8))
    at = {trial.arm: trial.learning_rate for trial in first}
    noise = random.Random(0)
    for arm, rate in at.items():
        for seed in range(8):
            loss = {"post": 2.5, "plain": 4.0}.get(arm, 2.0) + noise.gauss(0, 0.01)
            results.append(bowl(arm, rate, 3e-3, seed, loss))
    second = {trial.arm for trial in wanted(plan, results) if trial.seed == 20}
    assert second == {"pre", "again", "plain"}


@pytest.mark.slow
def test_stopped_at_random_moments_and_gone_on_with_it_gives_the_same_table(whole, tmp_path):
    chance = random.Random(0)
    definition_here = definition(tmp_path)
    stops = 0
    for number in (signal.SIGKILL, signal.SIGINT, signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
        line = command(tmp_path, definition_here)
        process = subprocess.Popen(
            line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(TENTHS="3")
        )
        before, deadline = len(runs(tmp_path)), time.monotonic() + 60
        while len(runs(tmp_path)) < before + 2 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(chance.uniform(0, 1))
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
        assert "Traceback" not in errors
        if number == signal.SIGKILL:
            assert process.returncode == -number
        else:
            assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143}[number]
        stops += 1
    result = sweep(tmp_path, definition_here)
    assert result.returncode == 0, result.stderr
    assert stops == 5
    assert set(runs(tmp_path)) == set(runs(whole[0]))
    assert table(result) == table(whole[1])


@pytest.mark.slow
def test_torn_trials_run_anew_and_are_kept(tmp_path):
    rates = {"grid": [3e-3], "extend_by": 0, "multiples": [1]}
    small = definition(tmp_path, grid={}, learning_rates=rates)
    first = sweep(tmp_path, small)
    files = ["summary.json", "metrics.jsonl", "config.yaml"]
    torn = [tmp_path / "sweep" / "trials" / f"post_lr=0.003_seed={seed}" / file for seed, file in enumerate(files)]
    for file in torn:
        file.write_text(file.read_text()[:-9] + "{[")
    result = sweep(tmp_path, small)
    assert result.returncode == 0
    assert len(result.stderr.splitlines()) == 3
    for file, line in zip(torn, result.stderr.splitlines(), strict=True):
        assert f"{file} is torn" in line
        assert (file.parent.with_name(f"{file.parent.name}.torn-1") / file.name).exists()
    assert table(result) == table(first)


@pytest.mark.parametrize(
    ("changes", "flags", "named"),
    [
        ({"grid": {"model.hidden_sise": [1]}}, (), "model.hidden_size"),
        ({"grid": {"model.num_hidden_layers": []}}, (), "num_hidden_layers"),
        ({"seeds": {"tuning": [1], "reporting": []}}, (), "seeds.reporting"),
        ({"seeds": {"tuning": [1], "reporting": [1, 2]}}, (), "[1]"),
        ({"arms": {}}, (), "arms"),
        ({"statistics": {"margin": -1.0}}, (), "statistics.margin is -1.0"),
        ({"statistics": {"alpha": 5.0}}, (), "statistics.alpha"),
        ({"statistics": {"window": [1.0, 2.0]}}, (), "statistics.window"),
        ({"arms": {"pre": {"model.residual": "prre"}}, "controls": {}}, (), "'pre'"),
        ({"arms": {"pre": {"seed": 3}}, "controls": {}}, (), "seeds"),
        ({"arms": {"pre": {}, "a b": {}, "a-b": {}}, "controls": {}}, (), "'a-b'"),
        *[({"arms": {"pre": {}, name: {}}, "controls": {}}, (), "in quotes") for name in (1, None, math.nan, True)],
        ({"arms": {"pre": {}, "": {}}, "controls": {}}, (), "arms: '' names nothing"),
        ({"arms": {"pre": {}, " ": {}}, "controls": {}}, (), "arms: ' ' names nothing"),
        ({"arms": {"pre": {}, "a" * 300: {}}, "controls": {}}, (), "shorten the arm's name"),
        ({"arms": {"pre": {}, "\u00fc" * 51: {}}, "controls": {}}, (), "shorten the arm's name"),
        ({"grid": {1: [2]}}, (), "grid: 1 is no key"),
        ({"grid": {f"{group}_of_a_grid_that_varies_much_at_once": [1] for group in range(9)}}, (), "vary fewer keys"),
        ({"controls": {"a_a_control": "agian"}}, (), "agian"),
        ({"controls": {"same": "again"}}, (), "controls.a_a_control"),
        ({"controls": {"broken_at": {"model.num_hidden_layers": 2}}}, (), "controls.positive_control_at"),
        ({}, ("--controls.reference", "pre"), "controls.baseline"),
        ({"exclude": [{"arm": "pre"}]}, (), "baseline"),
        ({"exclude": [{"model.num_hidden_layers": 7}]}, (), "7"),
        ({"learning_rates": {"grid": [-1.0]}}, (), "learning_rates.grid"),
        ({"learning_rates": {"grid": [1e-3], "extend_by": 1}}, (), "extend_by"),
        ({"base": {"train.log_every": 5}}, (), "train.log_every"),
        ({}, ("--executor.workers", "0"), "executor.workers"),
        ({}, ("--executor.nome", "ray"), "executor.name"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(tmp_path, changes, flags, named):
    from resformer.sweeps.config import parse_sweep
    from resformer.sweeps.trials import Sweep

    with pytest.raises(ValueError) as error:
        file = command(tmp_path, definition(tmp_path, **changes))[-1]
        Sweep(parse_sweep(["--config", file, *flags])).runs  # noqa: B018
    assert named in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "sweep").exists()


def test_a_flag_sets_one_key_of_the_base_and_leaves_the_others(tmp_path):
    from resformer.sweeps.config import parse_sweep
    from resformer.sweeps.trials import Sweep

    file = command(tmp_path, definition(tmp_path))[-1]
    told = Sweep(parse_sweep(["--config", file, "--base.train.max_steps", "7", "--base.optimizer.betas=[0.8, 0.9]"]))
    plain = Sweep(parse_sweep(["--config", file]))
    one, other = (sweep.runs["pre", "num_hidden_layers=1"] for sweep in (told, plain))
    assert (one.train.max_steps, one.train.batch_size, one.optimizer.betas) == (7, other.train.batch_size, (0.8, 0.9))
    assert (other.train.max_steps, other.train.batch_size) == (4, 2)


def test_an_arm_named_twice_and_another_definition_are_refused_with_exit_code_two(whole, tmp_path):
    file = tmp_path / "twice.yaml"
    file.write_text("arms:\n  pre: {model.residual: pre}\n  pre: {model.residual: post}\n")
    line = [*command(tmp_path, definition(tmp_path))[:-1], str(file)]
    twice = subprocess.run(line, capture_output=True, text=True, env=environment(), check=False)
    other = sweep(whole[0], definition(whole[0], seeds={"tuning": [9], "reporting": [0, 1]}))
    more = sweep(whole[0], definition(whole[0], seeds={"tuning": [9], "reporting": list(range(7))}))
    for result, named in (
        (twice, "arms.pre is named twice, in lines 2 and 3"),
        (other, "seeds.reporting is [0, 1, 2, 3, 4, 5], not [0, 1]"),
        (more, "declare seeds.looks from the start"),
    ):
        assert result.returncode == 2
        assert named in result.stderr
        assert len(result.stderr.splitlines()) == 1
    assert set(runs(whole[0]).values()) == {1}


def test_a_dry_run_counts_prints_differences_and_writes_nothing(tmp_path):
    arms = {"pre": {"model.residual": "pre"}, "post": {"model.residual": "post", "schedule.warmup_steps": 3}}
    arms["post"]["because"] = "Xiong et al. 2020"
    result = sweep(tmp_path, definition(tmp_path, arms=arms, controls={}), "--dry_run")
    assert result.returncode == 0, result.stderr
    assert "36 to 44 trials, 0 finished" in result.stdout
    assert re.search(r"post \(because: Xiong et al. 2020\): schedule.warmup_steps: 3, the baseline 4", result.stdout)
    assert not (tmp_path / "sweep").exists()


@pytest.mark.slow
def test_seeds_grow_to_a_declared_look_in_the_same_folder_and_stop_where_nothing_is_open(tmp_path):
    def at(arms, **seeds):
        arms = {name: {"model.residual": name} for name in ("pre", *arms)} | {"again": {"model.residual": "pre"}}
        seeds = {"tuning": [9], "looks": [6, 8]} | seeds
        rates = {"grid": [1e-3, 3e-3, 1e-2], "multiples": [1]}
        margins = {"stability_margin": 0.9}  # within which six seeds say as stable
        return definition(tmp_path, arms=arms, grid={}, seeds=seeds, learning_rates=rates, statistics=margins)

    def seeds_of(arm):
        return {int(name.rpartition("=")[2]) for name in runs(tmp_path) if name.startswith(arm)}

    first = sweep(tmp_path, at(["post", "plain"], reporting=list(range(6))))
    assert first.returncode == 0, first.stderr
    assert "worse: adjusted p" in first.stdout
    again = sweep(tmp_path, at(["post", "plain"], reporting=list(range(8))))
    assert again.returncode == 0, again.stderr
    assert seeds_of("post") == {9, *range(6)}  # of which all was said
    assert seeds_of("pre") == seeds_of("plain") == {9, *range(8)}
    assert "worse: adjusted p" in again.stdout
    folder = tmp_path / "open"
    folder.mkdir()
    arms = {"pre": {}, "again": {}, "other": {"model.intermediate_size": 96}, "plain": {"model.residual": "plain"}}
    seeds = {"tuning": [9], "looks": [3, 5], "reporting": [0, 1, 2]}
    unclear = definition(folder, arms=arms, seeds=seeds, grid={})
    assert sweep(folder, unclear).returncode == 0
    unclear["seeds"]["reporting"] = [0, 1, 2, 3, 4]
    assert sweep(folder, unclear).returncode == 0
    assert {name.rpartition("=")[2] for name in runs(folder)} == {"9", "0", "1", "2", "3", "4"}


@pytest.mark.slow
def test_a_trial_that_hangs_is_ended_recorded_and_tried_again(tmp_path):
    arms = {"pre": {"model.residual": "pre"}, "hangs": {"optimizer.weight_decay": 0.9}}
    seeds = {"tuning": [9], "reporting": [0, 1]}
    rates = {"grid": [3e-3], "extend_by": 0}
    whole = definition(tmp_path, arms=arms, controls={}, grid={}, seeds=seeds, learning_rates=rates)
    limit = ("--executor.stall", "1", "--executor.stall_seconds", "30")
    given_up = sweep(tmp_path, whole, *limit, "--executor.retries", "0")
    assert given_up.returncode == 1
    assert "hangs_lr=0.003_seed=9 failed (ended after" in given_up.stderr
    assert "without progress, where 30 are allowed), tried once" in given_up.stderr
    assert set(runs(tmp_path)) == {"hangs_lr=0.003_seed=9", *(f"pre_lr=0.003_seed={seed}" for seed in (9, 0, 1))}
    more = sweep(tmp_path, whole, *limit, "--executor.retries", "1")
    assert more.returncode == 0, more.stderr
    attempts = tmp_path / "sweep" / "trials" / "hangs_lr=0.003_seed=9" / "attempts.jsonl"
    messages = [json.loads(line)["message"] for line in attempts.read_text().splitlines()]
    assert ["without progress" in message for message in messages] == [True, True, False]


@pytest.mark.slow
def test_what_ran_on_something_else_is_refused_run_again_or_mixed_and_said(tmp_path):
    rates = {"grid": [3e-3], "extend_by": 0, "multiples": [1]}
    small = definition(tmp_path, grid={}, learning_rates=rates)
    first = sweep(tmp_path, small)
    assert first.returncode == 0, first.stderr
    file = tmp_path / "sweep" / "provenance.json"
    for said in (file, *(tmp_path / "sweep" / "trials").glob("*/provenance.json")):
        facts = json.loads(said.read_text())
        assert len(facts) == 1
        said.write_text(json.dumps([facts[0] | {"device": "another", "code": "abc"}]))
    refused = sweep(tmp_path, small)
    assert refused.returncode == 2
    assert len(refused.stderr.splitlines()) == 1
    assert re.search(r"here is code \w+ .*not abc.*device .*, not another\. --on_difference rerun", refused.stderr)
    one = tmp_path / "sweep" / "trials" / "post_lr=0.003_seed=1"
    (one / "summary.json").unlink()
    kept = sweep(tmp_path, small, "--on_difference", "keep")
    assert kept.returncode == 0, kept.stderr
    rows = read_sweep(tmp_path / "sweep").analysis().rows
    said = {row.arm: " ".join(comparison.reason for comparison in row.comparisons) for row in rows}
    assert "mixes 1 runs on something else (code" in said["post"]
    assert "mixes" not in said["plain"] + said["pre"]
    assert sweep(tmp_path, small).returncode == 2
    again = sweep(tmp_path, small, "--on_difference", "rerun")
    assert again.returncode == 0, again.stderr
    assert "mixes" not in again.stdout
    assert len(list(one.parent.glob("*.differs-1"))) == 28  # the one that was gone on with here was begun there
    assert table(again) == table(first)
    assert sweep(tmp_path, small).returncode == 0


@pytest.mark.slow
def test_two_at_once_are_refused(tmp_path):
    slow = definition(tmp_path, grid={}, learning_rates={"grid": [3e-3], "extend_by": 0})
    first = subprocess.Popen(command(tmp_path, slow), stdout=subprocess.DEVNULL, env=environment(TENTHS="300"))
    try:
        deadline = time.monotonic() + 60
        while not runs(tmp_path) and time.monotonic() < deadline:
            time.sleep(0.1)
        second = sweep(tmp_path, slow)
    finally:
        first.terminate()
        assert first.wait(60) == 143
    assert second.returncode == 2
    assert "another process" in second.stderr
    assert len(second.stderr.splitlines()) == 1


def test_a_folder_is_read_without_the_classes_that_its_runs_were_of(tmp_path):
    from resformer.report.sweep import read_sweep as read_for_the_page
    from resformer.sweeps.config import parse_sweep
    from resformer.sweeps.trials import Sweep

    arms = {"pre": {"model.residual": "pre"}, "mine": {"model.residual": "module_that_is_gone:Mine"}}
    file = command(tmp_path, definition(tmp_path, arms=arms, controls={}, program="module_that_is_gone:Trainer"))[-1]
    sweep = Sweep(parse_sweep(["--config", file]))
    sweep.open_folder()
    assert {trial.arm for trial in read_sweep(sweep.folder).trials} == {"pre", "mine"}
    assert read_for_the_page(sweep.folder).verdicts.empty
    with pytest.raises(ValueError, match=r"arm 'mine' at num_hidden_layers=1: .*module_that_is_gone"):
        sweep.runs  # noqa: B018


@pytest.mark.parametrize("name", ["quick", "no_such_module:Trainer", "resformer.training:NoTrainer", "builtins:dict"])
def test_a_program_that_trains_nothing_is_one_line(name):
    from resformer.sweeps.program import find_program

    with pytest.raises(ValueError, match=r"^program: ") as error:
        find_program(name)
    assert "\n" not in str(error.value)
