"""The ledger of floating-point operations is held to what torch dispatches."""

import pytest
import torch
from model_helpers import ALL, build, tokens
from torch.utils.flop_counter import FlopCounterMode

from resformer import ResformerConfig, ResformerForCausalLM
from resformer.model import Residual
from resformer.model.operations import Operations
from resformer.model.residual_custom import CUSTOM

LENGTH = 16


def counted(counter, model, length=LENGTH):
    with counter:
        hidden_states = model.model(input_ids=tokens(1, length), use_cache=False).last_hidden_state
        hidden_states.backward(torch.ones_like(hidden_states))
    return counter


@pytest.mark.parametrize("residual", ALL, ids=str)
def test_the_ledger_is_what_is_dispatched(residual):
    """A whole forward and backward pass with numbers, beside the count that needs none."""
    model = build(residual, attn_implementation="eager")
    read_out = 6 * model.lm_head.weight.numel() * LENGTH
    ledger = model.floating_point_operations_per_token(LENGTH) * LENGTH - read_out
    ours = counted(Operations(), model)
    assert ours.products == counted(FlopCounterMode(display=False), model).get_total_flops()
    with torch.no_grad(), Operations() as forward:
        model.model(input_ids=tokens(1, LENGTH), use_cache=False)
    # Attention over depth has a product in its backward pass, for the gradient of its query, and none in its forward.
    assert 3 * forward.products == pytest.approx(ours.products, rel=0.02 if "attn_res" in str(residual) else 0)
    assert ours.products < ledger
    assert ledger == pytest.approx(ours.total, rel=0.05)  # the CPU's norms and masks are other operations


def per_token(residual) -> int:
    with torch.device("meta"):
        return ResformerForCausalLM(ResformerConfig(residual=residual)).floating_point_operations_per_token(128)


@pytest.mark.parametrize("residual, n, width, read", [
    ("hyper", 4, 256, 1), ("hyper(n=8)", 8, 256, 1), ("frac", 4, 64, 4),
])  # fmt: skip
def test_maps_act_on_every_stream_and_mixing_counts(residual, n, width, read):
    """By hand, eight sites 256 wide, forward and twice that backward: the maps of each stream, and what they mix."""
    maps, mixing = n * width * (read + n + 1), (read + n) * n * width
    added = per_token(residual) - per_token("pre")
    products = 8 * 3 * 2 * (maps + mixing)
    assert products < added < 1.25 * products


def test_six_for_each_weight_and_the_attention_are_palms_convention():
    config = ResformerConfig()
    with torch.device("meta"):
        model = ResformerForCausalLM(config)
    attention = 12 * config.num_hidden_layers * config.hidden_size * 128
    assert per_token("pre") == pytest.approx(6 * model.num_parameters() + attention, rel=0.005)


class Waits(Residual):
    def forward(self, h, f):
        return h + f(h) * (1.0 if h.sum() > 0 else 0.5)


def test_a_class_that_asks_for_numbers_is_estimated(monkeypatch):
    monkeypatch.setitem(CUSTOM, "mine:Waits", Waits)
    found = ResformerForCausalLM(ResformerConfig(residual="mine:Waits")).floating_point_operations_per_token(128)
    assert found == pytest.approx(per_token("pre"), rel=0.01)
