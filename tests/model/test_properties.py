"""What holds for every kind and every mix."""

import copy
import itertools
import tempfile

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model_helpers import BLOCKS, EVERY_KIND, MIXES, OPTIONS, VOCABULARY, build, tokens

from resformer import ResformerConfig, ResformerForCausalLM

ALL = [*EVERY_KIND, *OPTIONS, *MIXES, *BLOCKS]
every_kind = pytest.mark.parametrize("residual", ALL, ids=str)
POSITIONS = pytest.mark.parametrize("position_embedding", ["rope", "learned", "none"])


def greedy(model, ids, steps, mask=None):
    """Without a cache: the whole sequence through the model for each new token."""
    for _ in range(steps):
        positions = None if mask is None else (mask.cumsum(-1) - 1).clamp(min=0)
        logits = model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False).logits
        ids = torch.cat([ids, logits[:, -1:].argmax(-1)], dim=1)
        mask = None if mask is None else torch.nn.functional.pad(mask, (0, 1), value=1)
    return ids


def assert_generation_with_cache_equals_full_forward(residual, **options):
    model, ids = build(residual, **options), tokens()
    generated = model.generate(ids, max_new_tokens=8, do_sample=False)
    assert torch.equal(generated, greedy(model, ids, 8))


@every_kind
def test_generation_with_cache_equals_full_forward(residual):
    assert_generation_with_cache_equals_full_forward(residual)


@POSITIONS
def test_generation_for_every_position_embedding(position_embedding):
    assert_generation_with_cache_equals_full_forward("pre", position_embedding=position_embedding)


def assert_chunked_prefill_equals_one_forward(model):
    model, ids = model.double(), tokens(length=15)
    whole = model(input_ids=ids, use_cache=False).logits
    cache, parts = None, []
    for chunk in ids.split([4, 1, 7, 3], dim=1):
        output = model(input_ids=chunk, past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        parts.append(output.logits)
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-6, rtol=1e-6)


@every_kind
def test_chunked_prefill_equals_one_forward(residual):
    assert_chunked_prefill_equals_one_forward(build(residual))


def assert_left_padding_changes_no_logits(model):
    """The row alone, and behind four padded places beside a longer one."""
    model, short, long = model.double(), tokens(1, 5), tokens(1, 9, seed=1)
    batch = torch.cat([torch.nn.functional.pad(short, (4, 0), value=0), long])
    mask = (torch.arange(9) >= torch.tensor([[4], [0]])).long()
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    together = model(input_ids=batch, attention_mask=mask, position_ids=positions, use_cache=False).logits
    for row, alone in ((together[:1, 4:], short), (together[1:], long)):
        torch.testing.assert_close(row, model(input_ids=alone, use_cache=False).logits, atol=1e-6, rtol=1e-6)


@every_kind
def test_left_padding_changes_no_logits(residual):
    assert_left_padding_changes_no_logits(build(residual))


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


def assert_no_token_sees_a_later_one(model):
    model = model.double()
    embedded = model.model.embed_tokens(tokens(1, 10)).detach().requires_grad_()
    logits = model(inputs_embeds=embedded, use_cache=False).logits
    for position in (0, 4, 9):
        (gradient,) = torch.autograd.grad(logits[0, position].sum(), embedded, retain_graph=True)
        seen = gradient[0].abs().amax(-1) > 0
        assert seen[position], "a token must at least see itself"
        assert not seen[position + 1 :].any()
        if position:
            assert seen[:position].all()


@every_kind
def test_no_token_sees_a_later_one(residual):
    assert_no_token_sees_a_later_one(build(residual))


# GPAS leaves out a part of the gradient on purpose.
@pytest.mark.parametrize("residual", [kind for kind in ALL if kind != "pre(gpas=true)"], ids=str)
def test_gradients_are_those_of_the_loss(residual):
    """The directional derivative by central differences, in float64."""
    model, ids = build(residual).double(), tokens()
    parameters = [p for p in model.parameters() if p.requires_grad]
    generator = torch.Generator().manual_seed(2)
    direction = [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in parameters]

    def loss(step):
        with torch.no_grad():
            for p, d in zip(parameters, direction, strict=True):
                p.add_(d, alpha=step)
        return model(input_ids=ids, labels=ids).loss

    gradients = torch.autograd.grad(loss(0.0), parameters)
    expected = sum((g * d).sum() for g, d in zip(gradients, direction, strict=True))
    size = 2e-8  # small, or a ReLU somewhere turns within the step
    plus, minus = loss(size), loss(-2 * size)
    assert (plus - minus).item() / (2 * size) == pytest.approx(expected.item(), rel=2e-5)


def assert_rows_of_a_batch_do_not_meet(model):
    model, ids = model.double(), tokens(4)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(model(input_ids=ids[order]).logits, model(input_ids=ids).logits[order])


@every_kind
def test_rows_of_a_batch_do_not_meet(residual):
    assert_rows_of_a_batch_do_not_meet(build(residual))


def assert_save_and_load_are_bit_equal(model, folder):
    from transformers import AutoModelForCausalLM

    ids = tokens()
    model.save_pretrained(folder)
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    assert torch.equal(loaded(input_ids=ids).logits, model(input_ids=ids).logits)
    assert loaded.config.residual == model.config.residual
    if model.config.tie_word_embeddings:
        assert loaded.lm_head.weight is loaded.model.embed_tokens.weight


@every_kind
def test_save_and_load_are_bit_equal(residual, tmp_path):
    assert_save_and_load_are_bit_equal(build(residual), tmp_path)


def assert_gradient_checkpointing_changes_nothing(model):
    model, ids, gradients = model.train(), tokens(), []
    for checkpointing in (False, True):
        if checkpointing:
            model.activation_checkpointing_enable()
        torch.manual_seed(1)
        model.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    for a, b in zip(*gradients, strict=True):
        assert torch.equal(a, b)


@every_kind
def test_gradient_checkpointing_changes_nothing(residual):
    assert_gradient_checkpointing_changes_nothing(build(residual, hidden_dropout=0.2))


@every_kind
def test_copies_are_independent(residual):
    model, ids = build(residual), tokens()
    before = model(input_ids=ids).logits
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(1)
    assert torch.equal(model(input_ids=ids).logits, before)
    assert not torch.equal(twin(input_ids=ids).logits, before)


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


@pytest.mark.parametrize("residual", DEEP)
def test_compiled_blocks_share_graphs(residual, monkeypatch):
    """Six blocks of one kind must not compile six times: depth constants are buffers, not numbers.

    The first, the inner and the last block of a segment differ; with a kept middle so do the middle one, the next,
    which is handed one tensor twice, and those after it, which are handed one with a gradient; where the history
    grows, every block does.
    """
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    counter = CompileCounter()
    keeps_middle = "backout=true" in residual
    model, ids = build(residual, num_hidden_layers=12 if keeps_middle else 6).train(), tokens()
    expected = model(input_ids=ids, labels=ids).loss
    for block in model.model.layers:
        block.compile(backend=counter, fullgraph=True)
    assert torch.equal(model(input_ids=ids, labels=ids).loss, expected)
    grows = residual.startswith(("attn_res", "concat", "denseformer", "unet"))
    assert counter.frame_count <= (6 if grows or keeps_middle else 3)


WHOLE_BLOCKS = ("b2t", "denseformer", "unet", "x0_mix")
ANYWHERE = [kind for kind in [*EVERY_KIND, *OPTIONS] if not kind.startswith(WHOLE_BLOCKS)]
by_sublayer = st.builds(
    lambda attention, mlp: [{"attention": attention, "mlp": mlp}], st.sampled_from(ANYWHERE), st.sampled_from(ANYWHERE)
)
whole_blocks = st.builds(lambda kind, count: [kind] * count, st.sampled_from(WHOLE_BLOCKS), st.integers(2, 3))
patterns = st.lists(by_sublayer | whole_blocks, min_size=1, max_size=3).map(lambda parts: [*itertools.chain(*parts)])


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(patterns)
def test_every_property_holds_for_any_mix(residual):
    def model(**options):
        return build(residual, num_hidden_layers=len(residual), **options)

    assert_generation_with_cache_equals_full_forward(residual, num_hidden_layers=len(residual))
    assert_chunked_prefill_equals_one_forward(model())
    assert_left_padding_changes_no_logits(model())
    assert_no_token_sees_a_later_one(model())
    assert_rows_of_a_batch_do_not_meet(model())
    assert_gradient_checkpointing_changes_nothing(model(hidden_dropout=0.2))
    with tempfile.TemporaryDirectory() as folder:
        assert_save_and_load_are_bit_equal(model(), folder)
