"""Pages of runs: what their figures show is what the files say, failed, torn and forged runs included."""

import json
import math
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from resformer.report import drawing, runs
from resformer.report.depth import branches, depth_figures, gradients, learning, noise_scale
from resformer.report.maps import contour, stream_maps
from resformer.report.study import compared, read_run

PROGRAM = str(Path(__file__).parents[2] / "recipes" / "report.py")
STEPS = (0, 50, 100, 150)
SITES = [(-1, "embedding"), (0, "attention"), (0, "mlp"), (1, "attention"), (1, "mlp")]
HOSTILE = '<!--<script>alert("x")</script>'


def write_run(folder, end_state="ok", broken=False, seed=0, residual="pre", sites=SITES):
    """A run whose stream grows as (depth + 1) (step + 1)."""
    rows = []
    for step in STEPS:
        for depth, site in enumerate(sites):
            rms = (depth + 1.0) * (step + 1)
            if broken and step == 150:
                rms = math.inf
            values = {"stream_rms": rms, "stream_gradient_rms": 2.0**-depth}
            if depth:
                values |= {"branch_ratio": 0.5, "branch_cosine": 0.1, "update_to_weight": 1e-3,
                           "attention_entropy_share_min": 0.9, "attention_logit_max": 3.0, "internal.gate.mean": 0.2,
                           "internal.a[0]": 1.0, "internal.a[1]": -0.5, "gradient_norm.down_proj": 1.0,
                           "coordinate_weights.q_proj": step + depth, "coordinate_weights.k_proj": step + depth + 2,
                           "coordinate_inputs.q_proj": 7.0, "gradient_snr": 0.3}  # fmt: skip
            rows += [(step, *site, metric, value) for metric, value in values.items()]
        whole = {"accumulated_update": 0.01 * step, "log_z_mean": 5.0, "log_z_max": 6.0,
                 "stream_growth_linear_r2": 0.9, "stream_growth_exponential_r2": 0.7,
                 "gradient_noise_trace": 8.0, "gradient_noise_signal": step - 40.0}  # fmt: skip
        rows += [(step, -1, "model", metric, value) for metric, value in whole.items()]
    rows += [(step, -1, "model", "train_loss", 5.0 - step / 100) for step in range(1, 151)]
    folder.mkdir(parents=True)
    pd.DataFrame(rows, columns=["step", "layer", "sublayer", "metric", "value"]).to_parquet(folder / "layers.parquet")
    summary = {
        "end_state": end_state,
        "val_loss": 3.5,
        "unigram_entropy": 4.0,
        "divergence_step": 140 if broken else None,
        "spikes": {"loss": [{"step": 60}], "grad_norm": [], "not_finite": []},
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "metrics.jsonl").write_text('{"step": 100, "val_loss": 3.6}\n{"step": 150, "val_loss": 3.5}\n')
    config = {
        "seed": seed,
        "run_dir": str(folder),
        "model": {"residual": residual},
        "optimizer": {"learning_rate": 1e-3},
    }
    (folder / "config.yaml").write_text(json.dumps(config))
    return folder


@pytest.fixture(autouse=True)
def without_pictures(monkeypatch, request):
    """The picture library takes seconds to start; one test lets it."""
    if "pictures" not in request.fixturenames:
        monkeypatch.setattr("resformer.report.page.draw", lambda *arguments: None)


@pytest.fixture
def pictures():
    """For a test that draws."""


def html(*folders: Path, out: Path | None = None) -> str:
    page, trouble = runs.write_page(folders, out)
    assert trouble is None
    return page.read_text()


def specs(page: str) -> dict:
    return json.loads(re.search(r'id="specs">(.*?)</script>', page, re.S)[1])


def rows_of(*charts) -> list[dict]:
    return [row for chart in charts for data in chart.to_dict()["datasets"].values() for row in data]


def test_sites_are_in_the_order_of_the_stream(tmp_path):
    study = compared([write_run(tmp_path / "run")])
    order = study.of("stream_rms").drop_duplicates("depth").sort_values("depth")
    assert list(zip(order.layer, order.sublayer, strict=True)) == SITES


def test_the_map_shows_every_cell_of_the_table(tmp_path):
    (panel,) = stream_maps(compared([write_run(tmp_path / "run")]))
    cells = {(row["step"], row["depth"]): row for row in rows_of(panel.chart) if "log" in row}
    assert len(cells) == len(STEPS) * len(SITES)
    for (step, depth), row in cells.items():
        assert row["value"] == pytest.approx((depth + 1) * (step + 1))
        assert row["log"] == pytest.approx(math.log10((depth + 1) * (step + 1)), abs=1e-4)
        assert row["times"] == pytest.approx(step + 1)
        assert row["until"] == step + 50


def test_contours_run_between_what_has_grown_so_far_and_what_has_not(tmp_path):
    """The stream is step + 1 times its start at every depth: all pass 10 and 60 at once."""
    frame = compared([write_run(tmp_path / "run")]).of("stream_rms")
    frame = frame.assign(until=frame.step + 50, above=frame.depth + 1, times=frame.step + 1.0)
    for times, first in ((10, 50), (60, 100)):
        edges = contour(frame, times)
        assert set(map(tuple, edges.to_numpy())) == {(first, depth, first, depth + 1) for depth in range(5)}
    frame.loc[frame.depth >= 2, "times"] = 1.0
    assert (50, 2, 100, 2) in set(map(tuple, contour(frame, 10).to_numpy()))


def test_the_noise_scale_divides_averages(tmp_path):
    found = noise_scale(compared([write_run(tmp_path / "run")])).set_index("step").value
    weights = [0.7**3, 0.7**2, 0.7, 1.0]
    signal = sum(w * s for w, s in zip(weights, (-40, 10, 60, 110), strict=True)) / sum(weights)
    assert found[150] == pytest.approx(8 / signal)


def test_gradient_flow_prints_the_slope(tmp_path):
    assert f"{-math.log(2):+.3f} at start" in gradients(compared([write_run(tmp_path / "run")])).note


def test_what_was_learned_and_what_was_carried_up_are_of_the_last_look(tmp_path):
    panel = learning(compared([write_run(tmp_path / "run")])).panels[0]
    rows = [row for row in rows_of(panel.chart) if row.get("part") in ("learned here", "carried up")]
    learned = {row["depth"]: row["value"] for row in rows if row["part"] == "learned here"}
    assert learned == {depth: 151 + depth for depth in range(1, 5)}  # the median of the two matrices
    assert {row["value"] for row in rows if row["part"] == "carried up"} == {7.0}


def test_seeds_are_one_arm_with_its_range_and_a_failed_one_shows(tmp_path):
    folders = [write_run(tmp_path / f"seed-{i}", seed=i) for i in range(3)]
    for i, folder in enumerate(folders):
        layers = pd.read_parquet(folder / "layers.parquet")
        layers.loc[layers.metric == "branch_ratio", "value"] = [0.2, 0.3, 0.7][i]
        layers.to_parquet(folder / "layers.parquet")
    study = compared(folders)
    assert len(study.arms) == 1
    rows = [row for row in rows_of(branches(study).panels[0].chart) if "low" in row]
    assert {(row["low"], row["value"], row["high"], row["seeds"]) for row in rows} == {(0.2, 0.3, 0.7, 3)}
    folders.append(write_run(tmp_path / "seed-3", end_state="diverged", broken=True, seed=3))
    assert "seed-3: It diverged from step 140 on" in html(*folders, out=tmp_path / "all")
    (panel,) = stream_maps(compared(folders))
    failed = {row["depth"] for row in rows_of(panel.chart) if "above" in row and "log" not in row}
    assert failed == set(range(5))


def test_runs_side_by_side_begin_with_what_differs(tmp_path):
    folders = [write_run(tmp_path / name, residual=name, seed=i) for i, name in enumerate(("pre", "post", "highway"))]
    study = compared(folders)
    assert study.arms == ["pre", "post", "highway"]
    page = html(*folders, out=tmp_path / "out")
    assert page.index("In what the runs&#39; configurations differ") < page.index('class="figure"')
    table = re.search(r'<table id="differences".*?</table>', page, re.S)[0]
    assert "model.residual" in table and "seed" not in table and "run_dir" not in table
    arms = {row["arm"] for row in specs(page)["branches"][0]["datasets"].popitem()[1]}
    assert arms <= {"pre", "post", "highway"}
    with pytest.raises(ValueError, match="given twice"):
        compared([folders[0], folders[0]])


def test_of_many_arms_the_first_the_best_and_the_worst_stand_in_front(tmp_path):
    folders = [write_run(tmp_path / f"r{i}", residual=f"kind_{i}") for i in range(13)]
    for i, folder in enumerate(folders):
        summary = json.loads((folder / "summary.json").read_text())
        loss = None if i == 7 else 3 + ((i + 6) % 13) / 10  # the best is 7, which has none: so 8 to 11; the worst 6
        (folder / "summary.json").write_text(json.dumps(summary | {"val_loss": loss}))
    front = [f"kind_{i}" for i in (0, 6, 7, 8, 9, 10, 11)]
    assert compared(folders).focus == front
    assert compared(folders[:12]).focus == []
    page = html(*folders, out=tmp_path / "out")
    assert "and 6 more, drawn pale" in page and "6 more, of the other arms" in page
    assert {tuple(p["value"]) for p in specs(page)["loss"][0]["params"] if p["name"] == "lit"} == {tuple(front)}


def test_the_first_sentence_says_how_it_ended_and_what_stands_out(tmp_path):
    first, *_ = runs.page_of(compared([write_run(tmp_path / "run")])).answer
    assert str(first).startswith("It trained to the end, without a spike; held-out loss 3.5000 nats per token")
    assert str(first).endswith("What stands out most: the embedding has grown 151-fold since step 0.")
    assert first.figure == "stream" and first.source


def test_what_is_one_number_everywhere_is_said_and_not_drawn(tmp_path):
    figure = next(f for f in depth_figures(compared([write_run(tmp_path / "run")])) if f.name == "internals")
    assert [panel.title for panel in figure.panels] == ["a"]
    assert "One number at every site and step: gate.mean 0.2." in figure.how


def test_gradients_lost_beside_eps_are_an_alarm(tmp_path):
    folder = write_run(tmp_path / "run")
    layers = pd.read_parquet(folder / "layers.parquet")
    row = pd.DataFrame([(150, -1, "model", "gradients_below_eps", 0.25)], columns=layers.columns)
    pd.concat([layers, row]).to_parquet(folder / "layers.parquet")
    assert "25 % of the tensors" in html(folder)


def test_nothing_is_drawn_where_there_is_nothing(tmp_path):
    folder = write_run(tmp_path / "run")
    layers = pd.read_parquet(folder / "layers.parquet")
    layers[~layers.metric.str.startswith(("attention", "log_z", "internal"))].to_parquet(folder / "layers.parquet")
    page = html(folder)
    assert "no attention was recorded" in page and "no parameters or gates of their own" in page
    assert "attention" not in specs(page) and "internals" not in specs(page)


def test_a_failed_run_is_visible(tmp_path):
    page = html(write_run(tmp_path / "run", end_state="diverged", broken=True))
    assert "It diverged from step 140 on" in page
    assert "tensors that AdamW moves" not in page
    assert "Infinity" not in json.dumps(specs(page)) and "NaN" not in json.dumps(specs(page))


def test_a_run_under_way_has_a_page(tmp_path):
    folder = write_run(tmp_path / "run")
    (folder / "summary.json").unlink()
    assert "has not ended" in html(folder)


@pytest.mark.parametrize("file", ["layers.parquet", "summary.json", "metrics.jsonl", "config.yaml"])
@pytest.mark.parametrize("content", [b"", b"\x00\xff", b"[1, 2]", b"{'a': <b>"])
def test_a_torn_file_is_a_problem_that_is_named(tmp_path, file, content):
    folder = write_run(tmp_path / "run")
    (folder / file).write_bytes(content)
    problems = read_run(folder).problems
    if file == "metrics.jsonl" and content in (b"", b"[1, 2]", b"{'a': <b>"):  # no whole line yet: a run under way
        assert problems == []
    else:
        assert len(problems) == 1 and problems[0].startswith(f"{file} cannot be read") and "\n" not in problems[0]


def test_a_run_with_no_whole_file_has_a_page_that_says_so(tmp_path):
    folder = write_run(tmp_path / "run")
    for file in ("layers.parquet", "summary.json", "metrics.jsonl", "config.yaml"):
        (folder / file).write_bytes(b"\x00<b>")
    page = html(folder)
    assert all(f"{file} cannot be read" in page for file in ("layers.parquet", "summary.json", "config.yaml"))
    assert "the stream was not looked at" in page


def test_forged_values_and_names_with_markup_are_shown_as_text(tmp_path):
    folder = write_run(tmp_path / "run", residual=HOSTILE)
    summary = json.loads((folder / "summary.json").read_text())
    summary |= {"val_loss": HOSTILE, "end_state": HOSTILE, "spikes": HOSTILE, "parameters": [HOSTILE], "clip_rate": {}}
    (folder / "summary.json").write_text(json.dumps(summary))
    other = write_run(tmp_path / "other")
    for page in (html(folder), html(folder, other, out=tmp_path / "both")):
        assert HOSTILE not in page
        assert "&lt;!--&lt;script&gt;" in page
        inline = re.search(r'id="specs">(.*?)</script>', page, re.S)[1]
        assert "<" not in inline
        assert page.count("<script") == 3


def test_figures_are_files_for_print_and_the_script_is_shared(tmp_path, pictures):
    folder = write_run(tmp_path / "sweep" / "trials" / "run")
    (tmp_path / "sweep" / "sweep.yaml").write_text("{}")
    figures = [figure for figure in depth_figures(compared([folder])) if figure.name in ("stream", "playing")]
    library = tmp_path / "vega.js"
    assert drawing.draw(tmp_path / "figures", figures, library) is None
    assert library.stat().st_size > 500_000
    for name in ("stream", "playing"):
        for ending, start in (("svg", b"<svg"), ("png", b"\x89PNG"), ("pdf", b"%PDF")):
            assert (tmp_path / "figures" / f"{name}.{ending}").read_bytes().startswith(start)
    assert not (tmp_path / "figures" / "stream.gif").exists()
    with Image.open(tmp_path / "figures" / "playing.gif") as moving:
        assert moving.n_frames == len(STEPS)
    assert set(runs.figures(folder)) == {
        "loss", "stream", "gradients", "playing", "branches", "updates", "learning", "attention", "internals",
    }  # fmt: skip
    (tmp_path / "sweep" / "report").mkdir()
    shutil.copy(library, tmp_path / "sweep" / "report")
    assert '<script src="../../report/vega.js">' in html(folder)
    assert not (folder / "vega.js").exists()


def test_the_death_of_drawing_costs_a_line(tmp_path, monkeypatch, capsys, pictures):
    killed = subprocess.CompletedProcess([], -5, "", "")
    monkeypatch.setattr(drawing.subprocess, "run", lambda *arguments, **more: killed)
    folder = write_run(tmp_path / "run")
    runs.show_run_page(folder)
    said = capsys.readouterr()
    assert "report.html" in said.out and len(said.err.splitlines()) == 1 and "warning" in said.err
    assert "Loss over training" in (folder / "report.html").read_text()
    assert sorted(file.name for file in folder.iterdir() if file.name.startswith(".")) == []


def test_what_is_no_run_is_said_in_one_line(tmp_path):
    done = subprocess.run([sys.executable, PROGRAM, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1 and "no folder of a run" in done.stderr


def test_several_runs_and_a_sweep_do_not_go_together(tmp_path):
    (tmp_path / "sweep.yaml").write_text("{}")
    with pytest.raises(ValueError, match="is a sweep"):
        runpy.run_path(PROGRAM)["main"]([str(tmp_path), str(tmp_path)])
