"""What comes out of a forward pass, as transformers' own test-suite asks of every causal language model."""

import pytest
import torch
from model_helpers import build, tokens

from resformer import ResformerForCausalLM

KINDS = pytest.mark.parametrize("residual", ["pre", "hyper", "attn_res", "siamese", "gru", "unet*2,concat*2"])


@KINDS
def test_a_tuple_holds_what_the_output_holds(residual):
    model, ids = build(residual), tokens()
    for part in (model, model.model):
        whole = part(input_ids=ids, output_hidden_states=True, use_cache=False)
        as_tuple = part(input_ids=ids, output_hidden_states=True, use_cache=False, return_dict=False)
        assert isinstance(as_tuple, tuple)
        assert torch.equal(as_tuple[0], whole[0])
        assert all(torch.equal(a, b) for a, b in zip(as_tuple[1], whole.hidden_states, strict=True))
    loss, *_ = model(input_ids=ids, labels=ids, return_dict=False)
    assert torch.equal(loss, model(input_ids=ids, labels=ids).loss)
    model.config.return_dict = False
    assert isinstance(model(input_ids=ids), tuple)


@KINDS
def test_hidden_states_and_attentions_where_the_configuration_asks(residual, tmp_path):
    model, ids = build(residual, attn_implementation="eager"), tokens()
    expected = model(input_ids=ids, output_hidden_states=True, output_attentions=True)
    model.config.output_hidden_states = model.config.output_attentions = True
    model.save_pretrained(tmp_path)
    again = ResformerForCausalLM.from_pretrained(tmp_path, attn_implementation="eager")
    for found in (model(input_ids=ids), again(input_ids=ids)):
        assert len(found.hidden_states) == 5
        assert len(found.attentions) == 4
        for name in ("hidden_states", "attentions"):
            assert all(torch.equal(a, b) for a, b in zip(found[name], expected[name], strict=True))
    assert model(input_ids=ids, output_hidden_states=False).hidden_states is None


@KINDS
def test_gradients_reach_hidden_states_and_attentions(residual):
    model, ids = build(residual, attn_implementation="eager"), tokens()
    found = model(input_ids=ids, output_hidden_states=True, output_attentions=True)
    for kept in (found.hidden_states[0], found.attentions[0]):
        kept.retain_grad()
    found.logits.flatten()[0].backward(retain_graph=True)
    assert found.hidden_states[0].grad.abs().sum() > 0
    assert found.attentions[0].grad is not None


@KINDS
def test_chosen_hidden_states_alone_are_kept(residual):
    model, ids = build(residual), tokens()
    whole = model(input_ids=ids, output_hidden_states=True).hidden_states
    for asked, kept in ((0, {0}), ([1, -1, 99], {1, 4}), ([-2], {3})):
        found = model(input_ids=ids, output_hidden_states=asked).hidden_states
        assert {index for index, state in enumerate(found) if state is not None} == kept
        assert all(torch.equal(found[index], whole[index]) for index in kept)


@KINDS
def test_checkpointing_asked_to_be_reentrant_loses_no_gradient(residual):
    model, ids = build(residual).train(), tokens()
    model(input_ids=ids, labels=ids).loss.backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    model.activation_checkpointing_enable({"use_reentrant": True})
    model(input_ids=ids, labels=ids).loss.backward()
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad, expected[name], rtol=0, atol=1e-12 if p.dtype == torch.float64 else 1e-7)
