"""Every name that is written stands in the glossary, and no other is let through."""

import dataclasses
import re

import pytest
import torch
from stability_helpers import Recorded, batch, build

from resformer import Residual
from resformer.stability.curvature import Curvature
from resformer.stability.endstate import StabilityWatch
from resformer.stability.instruments import SCALARS
from resformer.stability.lens import lens
from resformer.stability.lesion import lesion
from resformer.stability.metrics import METRICS, metric
from resformer.stability.propagation import Propagation
from resformer.stability.reuse import Read


class Swinging(Residual):
    """A person's own: shows what nobody else has."""

    def forward(self, h, f):
        return h + f(h)

    def internals(self, state, written=None):
        return {"swing": state.mean(-1, keepdim=True), "gate": torch.sigmoid(state)}


KINDS = ["highway*1,hyper(n=2)*1,mhc(n=2)*1", "denseformer*1,gru*1,gtrxl*1", "attn_res*1,laurel*1,deepnorm*1",
         f"{__name__}:Swinging*3", "siamese(gpas=false)*1,residual_dual*1,lns*1"]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_the_recorder_writes_no_name_that_the_glossary_lacks(kind, tmp_path):
    run = Recorded(kind, tmp_path)
    run.instruments.begin(0)
    written = set(run.train(1, 3).metric)
    assert {"stream_rms", "update_to_weight", "rms_t.embed_tokens", "train_loss", "clip_coefficient"} <= written
    assert all(metric(name).name == name for name in written)
    if "Swinging" in kind:
        assert {"internal.swing[0]", "internal.gate.saturated"} <= written or "internal.swing.mean" in written


def test_probes_and_summary_write_no_name_that_the_glossary_lacks():
    model, inputs = build(), batch()
    summary = StabilityWatch(1.0).summary(1.0, 3.0)
    names = [name for *_, name, _ in lesion(model, inputs) + lens(model, inputs)]
    names += [name for name in summary if name != "spikes"] + [*SCALARS]
    names += [name for name in summary["spikes"] if name not in ("loss", "grad_norm", "not_finite")]
    names += [field.name for field in dataclasses.fields(Curvature)]
    conditions = ("depth", "dtype", "seed", "finite", "seconds", "reader", "source")
    for probe, of in (("init", Propagation), ("reuse", Read)):
        names += [f"{probe}.{field.name}" for field in dataclasses.fields(of) if field.name not in conditions]
    assert all(metric(name) is METRICS[name] for name in names)


def test_a_member_of_a_family_is_its_parent_under_its_own_name():
    assert metric("update_to_weight.q_proj").title == "update over weight: q_proj"
    assert metric("rms_t.residual.norm.weight").healthy == METRICS["rms_t"].healthy
    assert metric("internal.gate.mean").title == "gate: mean"
    assert metric("internal.mixing[0,1]").title == "stream mixing: [0,1]"
    assert metric("internal.something.of.ones.own[3]").source == METRICS["internal"].source
    assert metric("layers/probe_loss") is METRICS["probe_loss"]


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("strem_rms", "stream_rms"), ("stream_rms.mlp", "stream_rms"), ("update_to_wait.q_proj", "update_to_weight"),
     ("", ""), ("[", ""), ("nothing of the kind", "")],
)  # fmt: skip
def test_an_unknown_name_is_one_line_with_the_nearest(name, nearest):
    with pytest.raises(ValueError, match=f"there is no metric .*{re.escape(nearest)}") as error:
        metric(name)
    assert "\n" not in str(error.value)


def test_entries_are_complete_and_no_range_stands_without_a_source():
    for name, entry in METRICS.items():
        assert entry.name == name and entry.title and entry.formula and entry.reading, name
        assert re.search(r"\d{4}|common practice|defined here|paper of the kind", entry.source), name
        if entry.healthy is not None:
            assert re.search(r"arXiv:\d{4}\.\d{5}", entry.healthy.source), name
