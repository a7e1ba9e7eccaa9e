"""The figures of a run and its page: what they show is what the files say, failed runs included."""

import json
import math
import runpy
from pathlib import Path

import pandas as pd
import pytest

from resformer.report.run_data import read_run
from resformer.report.run_figures import figures
from resformer.report.run_page import write_run_page

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
        whole = {"accumulated_update": 0.01 * step, "log_z_mean": 5.0, "log_z_max": 6.0}
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
    cells = {(row["step"], row["depth"]): row for row in data_of(figures(run)["stream_rms"]) if "log" in row}
    assert len(cells) == len(STEPS) * len(SITES)
    for (step, depth), row in cells.items():
        assert row["value"] == pytest.approx((depth + 1) * (step + 1))
        assert row["log"] == pytest.approx(math.log10((depth + 1) * (step + 1)))
        assert row["times"] == pytest.approx(step + 1)
        assert row["until"] == step + 50
    # 1 + 4d + 4d^2 is not linear: the title says how good the fits are.
    assert "linear in depth R2 0.9" in json.dumps(figures(run)["stream_rms"].to_dict())


def test_gradient_flow_prints_the_slope(tmp_path):
    chart = figures(read_run(write_run(tmp_path / "run")))["gradient_flow"].to_dict()
    assert f"{-math.log(2):+.3f} at 0" in json.dumps(chart)


def test_what_was_learned_and_what_was_carried_up_are_of_the_last_look(tmp_path):
    rows = [row for row in data_of(figures(read_run(write_run(tmp_path / "run")))["learning"]) if "cause" in row]
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


def test_a_failed_run_is_visible(tmp_path):
    folder = write_run(tmp_path / "run", end_state="diverged", broken=True)
    page = write_run_page(folder).read_text()
    assert "ended diverged from step 140 on" in page
    failed = [row for row in data_of(figures(read_run(folder))["stream_rms"]) if "log" not in row]
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
