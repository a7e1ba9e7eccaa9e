"""The figures of a run and its page: what they show is what the files say, failed runs included."""

import json
import math
import runpy
from pathlib import Path

import pandas as pd
import pytest

from resformer.report.run_charts import cells
from resformer.report.run_data import pool, read_run
from resformer.report.run_figures import branches, figures, gradient_flow, learning, noise_scale
from resformer.report.run_heatmaps import contour, stream_heatmap
from resformer.report.run_page import write_pooled_page, write_run_page

PROGRAM = str(Path(__file__).parents[2] / "recipes" / "report.py")
STEPS = (0, 50, 100, 150)
SITES = [(-1, "embedding"), (0, "attention"), (0, "mlp"), (1, "attention"), (1, "mlp")]


def write_run(folder, end_state="ok", broken=False):
    """A run whose stream grows as (depth + 1) (step + 1)."""
    rows = []
    for step in STEPS:
        for depth, site in enumerate(SITES):
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
    folder.mkdir()
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
    return folder


def data_of(chart) -> list[dict]:
    """All rows that stand in a figure."""
    return [row for rows in chart.to_dict()["datasets"].values() for row in rows]


def test_sites_are_in_the_order_of_the_stream(tmp_path):
    run = read_run(write_run(tmp_path / "run"))
    order = run.of("stream_rms").drop_duplicates("depth").sort_values("depth")
    assert list(zip(order.layer, order.sublayer, strict=True)) == SITES
    assert run.steps == list(STEPS)


def test_the_heat_map_shows_every_cell_of_the_table(tmp_path):
    run = read_run(write_run(tmp_path / "run"))
    cells = {(row["step"], row["depth"]): row for row in data_of(stream_heatmap(run)) if "log" in row}
    assert len(cells) == len(STEPS) * len(SITES)
    for (step, depth), row in cells.items():
        assert row["value"] == pytest.approx((depth + 1) * (step + 1))
        assert row["log"] == pytest.approx(math.log10((depth + 1) * (step + 1)))
        assert row["times"] == pytest.approx(step + 1)
        assert row["until"] == step + 50
    assert "linear R2 0.90, exponential R2 0.70" in json.dumps(stream_heatmap(run).to_dict())


def test_contours_run_between_what_has_grown_so_far_and_what_has_not(tmp_path):
    """The stream is step + 1 times its start at every depth: all pass 10 and 60 at once."""
    run = read_run(write_run(tmp_path / "run"))
    frame = cells(run.of("stream_rms"), run.steps)
    frame["times"] = frame.step + 1.0
    for times, first in ((10, 50), (60, 100)):
        edges = contour(frame, times)
        assert set(map(tuple, edges.to_numpy())) == {(first, depth, first, depth + 1) for depth in range(5)}
    frame.loc[frame.depth >= 2, "times"] = 1.0
    assert (50, 2, 100, 2) in set(map(tuple, contour(frame, 10).to_numpy()))


def test_the_noise_scale_divides_averages(tmp_path):
    found = noise_scale(read_run(write_run(tmp_path / "run"))).set_index("step").value
    weights = [0.7**3, 0.7**2, 0.7, 1.0]
    signal = sum(w * s for w, s in zip(weights, (-40, 10, 60, 110), strict=True)) / sum(weights)
    assert found[150] == pytest.approx(8 / signal)


def test_seeds_are_pooled_to_their_median_and_range_and_a_failed_one_shows(tmp_path):
    runs = [write_run(tmp_path / f"seed-{i}") for i in range(3)]
    for i, folder in enumerate(runs):
        layers = pd.read_parquet(folder / "layers.parquet")
        layers.loc[layers.metric == "branch_ratio", "value"] = [0.2, 0.3, 0.7][i]
        layers.to_parquet(folder / "layers.parquet")
    run = pool([read_run(folder) for folder in runs], tmp_path)
    assert set(run.of("branch_ratio")[["value", "low", "high"]].itertuples(index=False, name=None)) == {(0.3, 0.2, 0.7)}
    assert any(row.get("low") == 0.2 for row in data_of(branches(run)))
    runs.append(write_run(tmp_path / "seed-3", end_state="diverged", broken=True))
    page = write_pooled_page(runs, tmp_path / "all", static=False).read_text()
    assert "Run seed-3 ended diverged from step 140 on" in page
    assert "4 runs" in page
    whole = pool([read_run(folder) for folder in runs], tmp_path)
    failed = [row for row in data_of(stream_heatmap(whole)) if "log" not in row]
    assert {row["depth"] for row in failed if "above" in row} == set(range(5))
    (runs[0] / "config.yaml").write_text("optimizer: {learning_rate: 1.0}")
    with pytest.raises(ValueError, match="differ in optimizer") as error:
        runpy.run_path(PROGRAM)["main"]([*map(str, runs), "--pooled", str(tmp_path / "all")])
    assert "\n" not in str(error.value)


def test_gradients_lost_beside_eps_are_an_alarm(tmp_path):
    folder = write_run(tmp_path / "run")
    layers = pd.read_parquet(folder / "layers.parquet")
    row = pd.DataFrame([(150, -1, "model", "gradients_below_eps", 0.25)], columns=layers.columns)
    pd.concat([layers, row]).to_parquet(folder / "layers.parquet")
    assert "25 % of the tensors" in write_run_page(folder).read_text()


def test_gradient_flow_prints_the_slope(tmp_path):
    chart = gradient_flow(read_run(write_run(tmp_path / "run"))).to_dict()
    assert f"{-math.log(2):+.3f} at 0" in json.dumps(chart)


def test_what_was_learned_and_what_was_carried_up_are_of_the_last_look(tmp_path):
    rows = [row for row in data_of(learning(read_run(write_run(tmp_path / "run")))) if "cause" in row]
    learned = {row["depth"]: row["value"] for row in rows if "learned" in row["cause"]}
    assert learned == {depth: 151 + depth for depth in range(1, 5)}  # the median of the two matrices
    assert {row["value"] for row in rows if "carried" in row["cause"]} == {7.0}


def test_every_figure_is_there_and_draws(tmp_path):
    folder = write_run(tmp_path / "run")
    assert set(figures(read_run(folder))) == {
        "loss", "stream_rms", "gradient_flow", "branches", "updates", "learning", "attention", "internals",
    }  # fmt: skip
    assert runpy.run_path(PROGRAM)["main"]([str(folder)]) == 0
    page = folder / "report.html"
    for name in figures(read_run(folder)):
        assert f'id="{name}"' in page.read_text()
        for ending in ("svg", "png", "pdf"):
            assert (folder / "figures" / f"{name}.{ending}").stat().st_size > 500
        assert "held-out probe batch" in (folder / "figures" / f"{name}.svg").read_text()  # how they were made


def test_a_failed_run_is_visible(tmp_path):
    folder = write_run(tmp_path / "run", end_state="diverged", broken=True)
    page = write_run_page(folder).read_text()
    assert "ended diverged from step 140 on" in page
    assert "tensors that AdamW moves" not in page
    failed = [row for row in data_of(stream_heatmap(read_run(folder))) if "log" not in row and "above" in row]
    assert {(row["step"], row["depth"]) for row in failed} == {(150, depth) for depth in range(5)}
    assert "Infinity" not in page.split("const specs")[1]


def test_a_run_under_way_has_a_page(tmp_path):
    folder = write_run(tmp_path / "run")
    (folder / "summary.json").unlink()
    assert "has not ended" in write_run_page(folder).read_text()


@pytest.mark.parametrize("recorded", [True, False])
def test_what_is_no_run_is_said_in_one_line(tmp_path, recorded):
    if recorded:
        (tmp_path / "config.yaml").write_text("{}")
    with pytest.raises(ValueError, match="recorder was off" if recorded else "no run's") as error:
        write_run_page(tmp_path)
    assert "\n" not in str(error.value)
