"""What holds for every kind and every mix beside the checks of ``resformer.checks``."""

import itertools

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model_helpers import EVERY_KIND, MIXES, OPTIONS, VOCABULARY, build, subject, tokens

from resformer import ResformerConfig, ResformerForCausalLM
from resformer.checks import CHECKS

POSITIONS = pytest.mark.parametrize("position_embedding", ["rope", "learned", "none"])


@POSITIONS
def test_generation_for_every_position_embedding(position_embedding):
    CHECKS["cache"](subject(position_embedding=position_embedding))


@pytest.mark.parametrize("residual", ["pre", "post", *MIXES], ids=str)
@POSITIONS
def test_left_padding_changes_nothing(residual, position_embedding):
    model = build(residual, position_embedding=position_embedding)
    short, long = tokens(1, 5), tokens(1, 9, seed=1)
    batch = torch.cat([torch.nn.functional.pad(short, (4, 0), value=0), long])
    mask = (torch.arange(9) >= torch.tensor([[4], [0]])).long()
    together = model.generate(batch, attention_mask=mask, max_new_tokens=6, do_sample=False, pad_token_id=0)
    assert torch.equal(together[0, 9:], model.generate(short, max_new_tokens=6, do_sample=False)[0, 5:])
    assert torch.equal(together[1, 9:], model.generate(long, max_new_tokens=6, do_sample=False)[0, 9:])


DEEP = [*EVERY_KIND, *(pytest.param(options, marks=pytest.mark.slow) for options in OPTIONS)]


@pytest.mark.parametrize("residual", DEEP)
def test_64_blocks_in_bfloat16_stay_finite(residual):
    shape = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 64, "num_attention_heads": 2}
    config = ResformerConfig(**shape, residual=residual)
    model, ids = ResformerForCausalLM(config).to(torch.bfloat16), tokens()
    loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_attention_over_depth_has_its_softmax_in_float32_in_a_bfloat16_model():
    attend = build("attn_res").to(torch.bfloat16).model.layers[-1].mlp_residual.attend
    sources = torch.randn(24, 2, 3, 32, dtype=torch.bfloat16).unbind()
    weights = attend.weights(sources)
    torch.testing.assert_close(weights.sum(0), torch.ones(2, 3, 1), atol=1e-6, rtol=0)
    assert attend(sources).dtype == torch.bfloat16


def test_attention_backends_agree():
    ids = tokens()
    eager, sdpa = (build(attn_implementation=name).double()(input_ids=ids).logits for name in ("eager", "sdpa"))
    torch.testing.assert_close(eager, sdpa, atol=1e-6, rtol=1e-6)


def test_positions_that_start_again_separate_documents():
    model = build().double()
    first, second = tokens(1, 7), tokens(1, 5, seed=3)
    positions = torch.cat([torch.arange(7), torch.arange(5)])[None]
    packed = model(input_ids=torch.cat([first, second], 1), position_ids=positions, use_cache=False).logits
    torch.testing.assert_close(packed[:, :7], model(input_ids=first).logits, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(packed[:, 7:], model(input_ids=second).logits, atol=1e-6, rtol=1e-6)


def test_hidden_states_are_one_stream_before_and_after_each_block():
    model, ids = build(MIXES[0]), tokens()
    output = model(input_ids=ids, output_hidden_states=True)
    assert [h.shape for h in output.hidden_states] == [(2, 12, 32)] * 5
    assert torch.equal(output.hidden_states[0], model.model.embed_tokens(ids))
    assert torch.equal(model.lm_head(output.hidden_states[-1]), output.logits)


WHOLE_BLOCKS = ("b2t", "denseformer", "mudd", "unet", "x0_mix")
ANYWHERE = [kind for kind in [*EVERY_KIND, *OPTIONS] if not kind.startswith(WHOLE_BLOCKS)]
by_sublayer = st.builds(
    lambda attention, mlp: [{"attention": attention, "mlp": mlp}], st.sampled_from(ANYWHERE), st.sampled_from(ANYWHERE)
)
whole_blocks = st.builds(lambda kind, count: [kind] * count, st.sampled_from(WHOLE_BLOCKS), st.integers(2, 3))
patterns = st.lists(by_sublayer | whole_blocks, min_size=1, max_size=3).map(lambda parts: [*itertools.chain(*parts)])


@settings(max_examples=20, suppress_health_check=[HealthCheck.too_slow])
@given(patterns)
def test_every_check_holds_for_any_mix(residual):
    mix = subject(residual, num_hidden_layers=len(residual))
    for name in ("cache", "padding", "causality", "rows", "checkpointing", "save_and_load", "precision"):
        CHECKS[name](mix)
