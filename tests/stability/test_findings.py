"""Sentences about a run: on tables made so that a person knows the answer, and on real runs."""

import math
import re

import pandas as pd
import pytest
import torch
from stability_helpers import Recorded

from resformer import Residual
from resformer.stability.findings import GROWN, findings
from resformer.stability.metrics import metric

BLOCKS, LOOKS = 4, (0, 50, 100)


def table(**changed) -> pd.DataFrame:
    """A healthy run of four blocks; ``changed`` gives, by metric, a function of (step, layer, sublayer)."""
    sites = [(-1, "embedding")] + [(layer, of) for layer in range(BLOCKS) for of in ("attention", "mlp")]
    healthy = {"stream_rms": 1.0, "token_similarity": 0.3, "stream_gradient_rms": 0.1, "massive_activations": 0.0}
    values = {name: lambda *at, value=value: value for name, value in healthy.items()} | changed
    rows = []
    for step in LOOKS:
        for layer, sublayer in sites:
            rows += [(step, layer, sublayer, name, values[name](step, layer, sublayer)) for name in values]
    return pd.DataFrame(rows, columns=["step", "layer", "sublayer", "metric", "value"])


def only(frame: pd.DataFrame):
    found = findings(frame)
    assert len(found) == 1, found
    return found[0]


def test_of_a_healthy_run_nothing_is_said():
    assert findings(table()) == []
    assert findings(table().iloc[:0]) == []


def test_growth_in_the_first_block():
    found = only(table(stream_rms=lambda step, layer, of: 1.0 if layer < 0 else 900.0))
    assert found.sentence == "the stream grows 900-fold in the first block"
    assert (found.metric, found.step, found.layer, found.value) == ("stream_rms", 100, 0, 900)
    almost = table(stream_rms=lambda step, layer, of: 1.0 if layer < 0 else GROWN - 0.01)
    assert findings(almost) == []


def test_growth_over_the_steps():
    found = only(table(stream_rms=lambda step, layer, of: 60.0 + layer if step == 100 else 4.0))
    assert found.sentence == "the stream after the last block has grown 15.8-fold since step 0"


@pytest.mark.parametrize(
    ("at_embedding", "words"),
    [(300.0, "explodes on its way down: 300 times as large"), (1 / 300, "vanishes on its way down: 300 times smaller")],
)
def test_gradients_that_explode_or_vanish(at_embedding, words):
    assert words in only(table(stream_gradient_rms=lambda step, layer, of: at_embedding if layer < 0 else 1.0)).sentence


def test_fallen_attention_entropy():
    attention = [(step, layer, "attention", "attention_entropy_share", 0.2 if (step, layer) == (100, 3) else 0.9)
                 for step in LOOKS for layer in range(BLOCKS)]  # fmt: skip
    found = only(pd.concat([table(), pd.DataFrame(attention, columns=table().columns)]))
    assert found.sentence == "attention entropy fell from 0.9 to 0.2 in the last block"
    assert "arXiv:2303.06296" in found.source and "declared here" in found.source


def test_collapse_and_massive_activations():
    found = only(table(token_similarity=lambda step, layer, of: 0.999 if layer >= 1 else 0.2))
    assert found.sentence == "the tokens of a sequence are one direction in block 1 (cosine 0.999)"
    found = only(table(massive_activations=lambda step, layer, of: float(step > 0 and layer == 2)))
    assert found.sentence == "massive activations from step 50 on, first in block 2, attention (1 elements)"


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("attention_logit_max", 23000.0, "the largest attention logit rose to 23,000 in block 1, attention at step 50; "
         "healthy is up to 1,000"),
        ("rms_t.q_proj", 3.5, "the staleness of the second moment of q_proj rose to 3.5 in block 1, attention at step "
         "50; healthy is up to 2.3"),
        ("attention_logit_max", 900.0, None),
    ],
)  # fmt: skip
def test_values_outside_a_healthy_range(name, value, sentence):
    extra = pd.DataFrame([(50, 1, "attention", name, value), (50, 2, "attention", name, 1.0)], columns=table().columns)
    found = findings(pd.concat([table(), extra]))
    assert [one.sentence for one in found] == [sentence] * (sentence is not None)
    assert all(one.source == metric(name).healthy.source for one in found)


def test_what_is_not_finite_is_said_first_and_hides_no_other():
    def stream(step, layer, of):
        return math.nan if step == 100 and layer >= 1 else 1.0 if layer < 0 else 20.0

    first, second = findings(table(stream_rms=stream))
    assert first.sentence == "the RMS of the residual stream is not finite in block 1, attention at step 100"
    assert (second.metric, second.step, second.value) == ("stream_rms", 50, 20)  # of the last look that was finite


def test_the_order_of_rows_does_not_matter():
    grown = table(stream_rms=lambda step, layer, of: 1.0 if layer < 0 else 900.0)
    assert findings(grown.sample(frac=1, random_state=0)) == findings(grown)


class Fourfold(Residual):
    def forward(self, h, f):
        return 4 * h + f(h)


def test_of_real_runs(tmp_path):
    quiet, loud = Recorded("pre", tmp_path), Recorded(f"{__name__}:Fourfold", tmp_path / "loud")
    (tmp_path / "loud").mkdir()
    with torch.no_grad():
        loud.model.model.layers[1].attention.q_proj.weight.mul_(1e4)
    found = {}
    for name, run in (("quiet", quiet), ("loud", loud)):
        run.instruments.begin(0)
        frame = run.train(1, 3)
        found[name] = {one.metric: one for one in findings(frame)}
        for one in found[name].values():
            assert metric(one.metric) and re.search(r"arXiv|declared here|arithmetic", one.source)
            assert "{" not in one.sentence and "  " not in one.sentence
    assert "attention_logit_max" not in found["quiet"] and "stream_rms" not in found["quiet"]
    assert found["loud"]["attention_logit_max"].layer == 1
    assert found["loud"]["stream_rms"].value >= 16  # 4 at each of a block's two sites
