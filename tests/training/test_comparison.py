"""The benchmark: each model is a model of that size, each row is what it says; no time is asserted."""

import json
import shlex
import time
import types

import altair as alt
import pytest
import torch
from resformer.recipes.benchmark import main
from torch.distributed._tools.mem_tracker import MemTracker

from resformer.training import benchmark, comparison, growth

SHAPE = {
    "vocab_size": 32, "hidden_size": 16, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
    "max_position_embeddings": 16, "tie_word_embeddings": True,
}  # fmt: skip


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(comparison, "start_up", lambda: {"import resformer": 0.1})


@pytest.mark.parametrize("name", comparison.OTHERS)
def test_models_of_other_packages_are_of_equal_size_and_learn(name):
    if name == "x-transformers":
        pytest.importorskip("x_transformers")
    ours = comparison.ours("pre", SHAPE)()
    theirs = comparison._THEIRS[name](SHAPE)()
    sizes = [sum(p.numel() for p in model.parameters() if p.ndim > 1) for model in (ours, theirs)]
    positions = SHAPE["max_position_embeddings"] * SHAPE["hidden_size"] if name == "gpt2" else 0
    assert sizes[1] - positions == sizes[0]
    tokens = torch.arange(16)[None]
    step = comparison.BareStep(theirs, tokens)
    before = theirs(input_ids=tokens, labels=tokens, use_cache=False).loss
    for _ in range(20):
        step()
    assert theirs(input_ids=tokens, labels=tokens, use_cache=False).loss < before


def test_every_model_has_a_row_and_pre_is_always_there(quick):
    found = comparison.compare(["hyper"], SHAPE, 2, 2, ["llama"], ["eager"], new_tokens=4)
    assert list(found.table.model) == ["pre", "hyper", "llama"]
    rows = found.table.set_index("model")
    assert rows.to_pre["pre"] == 1
    assert rows.peak_bytes["hyper"] > rows.peak_bytes["pre"]
    assert set(found.generation) == {"pre", "llama"}
    assert min(found.ceiling.values()) > 0
    found.table.loc[0, "peak_bytes"] = float("nan")  # as of a compiled step on a CPU
    assert json.loads(json.dumps(found.as_dict(), allow_nan=False))["table"][0]["peak_bytes"] is None
    for format in ("text", "markdown"):
        text = comparison.rendered(found, format)
        assert "hyper" in text and str(found.about["commit"]) in text
    assert comparison.rendered(found, "markdown").splitlines()[1].startswith("| ---")


@pytest.mark.parametrize("name", ["pre", *comparison.OTHERS])
def test_operations_of_all_models_are_counted_by_one_formula(name):
    if name == "x-transformers":
        pytest.importorskip("x_transformers")
    make = comparison.ours("pre", SHAPE) if name == "pre" else comparison._THEIRS[name](SHAPE)
    block = 4 * 16 * 16 + 3 * 16 * 48
    expected = 6 * (2 * block + 32 * 16) * 3 * 16 + 12 * 2 * 16 * 16**2 * 3
    assert comparison.operations(make(), SHAPE, batch_size=3) == expected
    if name == "pre":
        untied = SHAPE | {"tie_word_embeddings": False}
        assert comparison.operations(comparison.ours("pre", untied)(), untied, batch_size=3) == expected


def test_memory_holds_weights_gradients_and_both_moments():
    model = comparison.ours("pre", SHAPE | {"vocab_size": 4000})()
    step = comparison.BareStep(model, torch.zeros(1, 2, dtype=torch.long))
    step()
    weights = sum(p.nbytes for p in model.parameters())
    # Nearly all of it the tied embedding, which has two gradients in the backward pass. Who learns of the moments with
    # the update finds four times the weights.
    assert 5 * weights < comparison.peak_bytes(step, torch.device("cpu")) < 6 * weights


def test_memory_grows_as_one_knows(quick):
    """Weights and moments of two thirds of a model are its embedding: bytes grow with the vocabulary, not faster."""
    table = growth.grow(["pre"], SHAPE, 1, 1, "vocab_size", [10_000, 20_000, 40_000])
    assert list(table["size"]) == [10_000, 20_000, 40_000]
    assert table.bytes_exponent[0] == pytest.approx(1, abs=0.1)
    with pytest.raises(ValueError, match="num_hidden_layers"):
        growth.grow(["pre"], SHAPE, 1, 1, "depth", [1, 2])


def test_the_program_prints_what_can_be_read_again(quick, capsys, tmp_path):
    small = "--hidden_size 64 --num_hidden_layers 2 --sequence_length 16 --batch_size 2 --steps 1"
    kept = tmp_path / "table.json"
    assert main(f"{small} --loop false --others none --format json --output {kept}".split()) == 0
    printed = capsys.readouterr().out
    assert [row["model"] for row in json.loads(printed)["table"]] == ["pre"]
    assert kept.read_text() == printed
    figure = tmp_path / "growth.svg"
    asked = ["--residual", "hyper(n=2,dynamic=false)", "--clock", "cpu", "--format", "json"]
    grown = ["--growth", "num_hidden_layers=1,2 vocab_size=8,16", "--output", str(figure)]
    assert main([*small.split(), *asked, *grown]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["axis"], row["size"]) for row in rows] == [
        ("num_hidden_layers", 1), ("num_hidden_layers", 2), ("vocab_size", 8), ("vocab_size", 16)
    ]  # fmt: skip
    assert {row["kind"] for row in rows} == {"hyper(n=2,dynamic=false)"}
    assert all(title in figure.read_text() for title in ("blocks", "vocabulary", "seconds of a step"))


def test_the_loop_is_timed_beside_the_same_model_by_the_clock_that_was_asked_for(monkeypatch):
    took = []

    def timed(step, clock):
        step()
        model = step.model if isinstance(step, benchmark.BareStep) else step.__self__.model
        took.append((type(step), model.num_parameters(), clock(), torch.get_num_threads()))
        return 3.0 if len(took) % 2 else 2.0

    monkeypatch.setattr(benchmark, "timed", timed)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    assert benchmark.loop_ratio(SHAPE | {"vocab_size": 1000}, 2, 1, lambda: 7.0) == 1.5
    torch.set_num_threads(threads)
    assert [one[0] for one in took[:2]] == [types.MethodType, benchmark.BareStep]
    assert {one[1:] for one in took} == {(took[0][1], 7.0, 2)}


def test_out_of_memory_is_answered_with_a_key_of_this_program(monkeypatch):
    def fails(step, device):
        raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB\nand more")

    monkeypatch.setattr(comparison, "peak_bytes", fails)
    small = "--hidden_size 16 --num_hidden_layers 1 --sequence_length 16 --batch_size 2 --steps 1"
    with pytest.raises(ValueError, match=r"^out of memory \(.*GiB\); try a smaller --batch_size$"):
        main(small.split())


def test_a_package_that_is_not_there_is_not_left_out_in_silence(monkeypatch):
    monkeypatch.setattr(comparison, "find_spec", lambda name: None)
    monkeypatch.setattr(comparison, "timed", None)
    with pytest.raises(ValueError, match="x-transformers is not installed"):
        comparison.compare(["pre"], SHAPE, 2, 1, ["x-transformers"], ["eager"])


def test_the_version_of_another_package_is_told(quick):
    pytest.importorskip("x_transformers")
    found = comparison.compare(["pre"], SHAPE, 2, 1, ["x-transformers"], ["eager"])
    assert f"x-transformers {found.about['versions']['x-transformers']}" in comparison.rendered(found, "text")


def test_the_first_step_is_timed(quick, monkeypatch):
    steps = []
    monkeypatch.setattr(comparison, "timed", lambda step, *_: steps.append(step.optimizer.state == {}) or 1.0)
    monkeypatch.setattr(comparison, "peak_bytes", lambda *_: 0)
    monkeypatch.setattr(comparison, "measure_ceiling", lambda *_: {"products_per_second": 1.0})
    comparison.compare(["pre"], SHAPE, 2, 1, [], ["eager"])
    assert steps[0]


def test_a_table_is_printed_before_its_figure_is_saved(monkeypatch, capsys, tmp_path):
    def fails(chart, file):
        raise OSError("no room")

    monkeypatch.setattr(growth, "_in_turn", lambda kinds, *_: {kind: (1.0, float("nan")) for kind in kinds})
    monkeypatch.setattr(alt.VConcatChart, "save", fails)
    with pytest.raises(OSError, match="no room"):
        main(["--growth", "vocab_size=8,16", "--output", str(tmp_path / "growth.png")])
    assert "vocab_size" in capsys.readouterr().out


def test_exponents_are_those_of_the_larger_sizes(monkeypatch):
    """Time that is constant below 4 and quadratic above."""

    def taken(kinds, shape, batch_size, steps, axis, size, clock):
        return {kind: (max(16, size**2), 2.0 * size) for kind in kinds}

    monkeypatch.setattr(growth, "_in_turn", taken)
    table = growth.grow(["pre", "hyper"], SHAPE, 1, 1, "num_hidden_layers", [16, 2, 1, 8, 4])
    assert table["size"].tolist()[::2] == [1, 2, 4, 8, 16]
    assert table.seconds_exponent.tolist() == pytest.approx([2] * 10)
    shown = growth.exponents(table)
    assert shown["bytes_exponent", "num_hidden_layers"].to_dict() == pytest.approx({"pre": 1, "hyper": 1})


def test_what_a_run_does_once_hardly_counts_in_its_mean_step(monkeypatch):
    told = []

    def launched(configuration, processes, keys, cpu):
        told.append(keys)
        return {"exit_code": 0, "tokens_per_second": 32.0}

    monkeypatch.setattr(growth, "launched_run", launched)
    table = growth.grow(["pre"], SHAPE, 4, 4, "processes", [2, 1])
    assert [keys["train.max_steps"] for keys in told] == [100, 100]
    assert table.seconds.tolist() == [2.0, 2.0]


@pytest.mark.slow
def test_a_step_of_several_processes_is_timed_too():
    table = growth.grow(["pre"], SHAPE, 4, 4, "processes", [1, 2])
    assert list(table["size"]) == [1, 2]
    assert (table.seconds > 0).all()


def test_the_clock_of_a_process_does_not_count_what_others_do(quick, monkeypatch):
    threads = torch.get_num_threads()
    _, timer = comparison.clock_and_device("cpu")
    assert torch.get_num_threads() == 1
    before = timer()
    time.sleep(0.2)
    assert timer() - before < 0.1
    torch.set_num_threads(threads)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("meta"))
    with pytest.raises(ValueError, match="wall"):
        comparison.clock_and_device("cpu")


UNTIMED = {
    "--growth depth": "num_hidden_layers=2,4,8",
    "--growth depth=1,2": "not 'depth'",
    "--growth ''": "num_hidden_layers=2,4,8",
    "--growth vocab_size=": "num_hidden_layers=2,4,8",
    "--growth vocab_size=2,4 --output growth.gif": r"\.svg or \.png",
    "--growth vocab_size=2,4 --output nowhere/growth.svg": "nowhere/growth.svg",
    "--output nowhere/table.txt": "nowhere/table.txt",
    "--preset gpu --output nowhere/gpu.json": "nowhere/gpu.json",
    "--output /tmp": "a folder",
    "--ways none": "none of eager, compiled",
    "--batch_size 0": "batch_size is 0",
    "--vocab_size 0": "vocab_size is 0",
    "--steps 0": "steps is 0",
    "--steps -1": "steps is -1",
    "--steps 0 --growth vocab_size=2,4": "steps is 0",
    "--sequence_length 1": "sequence_length is 1",
    "--new_tokens -1": "new_tokens is -1",
    "--new_tokens 32 --sequence_length 32": "new_tokens is 32",
    "--hidden_size 200": "hidden_size is 200.* multiple of 6",
    "--residual ''": "cannot read",
    "--residual hypre": "did you mean 'hyper'",
    "--residual 'hyper(n=2,dynamic=3)'": "dynamic",
    "--growth 'vocab_size=2,4 hidden_size=64,200'": "hidden_size is 200",
    "--growth num_hidden_layers=0,2": "num_hidden_layers is 0",
    "--growth processes=1,2 --batch_size 1": "2 processes cannot share a batch_size of 1",
    "--growth num_hidden_layers=2,2": "twice: 2, 2",
    "--growth 'vocab_size=2 vocab_size=4'": "vocab_size twice",
}


@pytest.mark.parametrize("words", ["--others lama", "--ways slow", *UNTIMED])
def test_what_cannot_be_timed_is_one_line(words, monkeypatch):
    monkeypatch.setattr(comparison, "timed", None)  # refused before anything is
    monkeypatch.setattr(growth, "timed", None)
    with pytest.raises((ValueError, OSError), match=UNTIMED.get(words, words.split()[-1])) as error:
        main(shlex.split(words))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["pre", "mhc", "attn_res"])
def test_the_peak_of_all_tensors_is_what_torch_s_own_tracker_finds(kind):
    shape = {"vocab_size": 64, "hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 3}
    step = benchmark.BareStep(comparison.ours(kind, shape)(), torch.randint(64, (2, 32)))
    step()
    tracker = MemTracker()
    tracker.track_external(step.model, step.optimizer)
    with tracker:
        step()
    theirs = sum(device["Total"] for device in tracker.get_tracker_snapshot("peak").values())
    assert benchmark.peak_of_tensors(step, step.model, [step.optimizer]) == pytest.approx(theirs, rel=0.01)
