"""Figures of the probes draw what their tables say, and go on a page of the one engine."""

import numpy as np
import pandas as pd
import pytest

from resformer.report import probes

ROWS = ["layer", "sublayer", "metric", "value"]


def table(probe: str) -> pd.DataFrame:
    if probe == "init":
        columns = ("rms_first", "rms_last", "token_cosine", "gain", "weight_last", "weight_first", "gradient_first")
        lines = [{"depth": depth, "dtype": dtype, "seed": seed, "finite": depth < 100} | dict.fromkeys(columns, 1.0)
                 for depth in (6, 12, 100) for dtype in ("float32", "bfloat16") for seed in (0, 1)]  # fmt: skip
        return pd.DataFrame(lines)
    if probe == "landscape":
        at = np.linspace(-1, 1, 5)
        line = [(a, 0.0, a * a, "line") for a in at]
        plane = [(a, b, a * a + b * b, "plane") for a in at for b in at]
        return pd.DataFrame([*line, (2.0, 0.0, np.inf, "line"), *plane], columns=["a", "b", "loss", "kind"])
    if probe == "reuse":
        pairs = [(i, j) for i in range(3) for j in range(-1, i)]
        return pd.DataFrame(pairs, columns=["reader", "source"]).assign(weight=1.0, share=0.5)
    whole = {"lesion": {"useful_share": 0.75}, "lens": {}, "curvature": {"sharpness": 3.0, "trace": 9.0, "edge": 0.1}}
    sites = {
        "lesion": ["lesion_increase", "angular_distance", "above_increase"],
        "lens": ["lens_loss", "lens_kl", "cka"],
    }
    rows = [(-1, "model", metric, value) for metric, value in whole[probe].items()]
    rows += [(layer, "mlp", metric, 0.1 * layer) for metric in sites.get(probe, []) for layer in range(3)]
    return pd.DataFrame(rows, columns=ROWS)


@pytest.mark.parametrize("probe", list(probes.FIGURES))
def test_a_probe_has_its_page(tmp_path, monkeypatch, probe):
    monkeypatch.setattr("resformer.report.page.draw", lambda *arguments: None)
    assert probes.write_probe_page(probe, table(probe), tmp_path, "<model>", "8 sequences") is None
    page = (tmp_path / f"{probe}.html").read_text()
    assert "&lt;model&gt;" in page and "8 sequences" in page and f'id="{probe}"' in page
    probes.FIGURES[probe](table(probe)).chart().to_dict()  # a valid chart


def test_what_failed_is_said():
    assert "Not finite at 100 blocks" in probes.init(table("init")).note
    assert "1 points are not finite" in probes.landscape(table("landscape")).note
    assert "25 % of the branches" in probes.lesion(table("lesion")).note
