"""Wirings of transformers around our branches, where whole models cannot be matched: their layer classes with our
attention, MLP and norms put in, their parameters being ours. Float64, to 1e-9.

| kind | oracle |
| --- | --- |
| mhc | DeepseekV4DecoderLayer with DeepseekV4HyperConnection; head=learned DeepseekV4HyperHead |
| mhc(variant=identity) | HYV4DecoderLayer with HYV4HyperConnection; head=learned HYV4HyperHead |
| attn_res(roles=separate) | Inkling2FullDecoderLayer gives query, key and value what they read; so compared too |
| attn_res | Inkling2SlidingDecoderLayer keeps the blocks' books; its softmax over depth also norms the values and divides by sqrt(hidden), so it is compared on sources of length one |
| peri(layer_scalar=true) | Gemma4TextDecoderLayer |
| depth_sandwich | AfmoeDecoderLayer, Arcee's Trinity |
| minicpm | MiniCPM3DecoderLayer |
| laurel(mode=lr) | Gemma3nTextLaurelBlock, whose own norm is taken out |
| reversible | ReformerLayer, forward |
"""  # noqa: E501

from types import SimpleNamespace

import pytest
import torch
from parity_helpers import assert_near, assert_same, build, holds, normalise, runs, some_tokens
from torch import nn
from transformers import MiniCPM3Config, ReformerConfig
from transformers.models.afmoe.modeling_afmoe import AfmoeDecoderLayer
from transformers.models.deepseek_v4.modeling_deepseek_v4 import (
    DeepseekV4DecoderLayer,
    DeepseekV4HyperConnection,
    DeepseekV4HyperHead,
)
from transformers.models.gemma3n.modeling_gemma3n import Gemma3nTextLaurelBlock
from transformers.models.gemma4.modeling_gemma4 import Gemma4TextDecoderLayer
from transformers.models.hy_v4.modeling_hy_v4 import (
    HYV4DecoderLayer,
    HYV4HyperConnection,
    HYV4HyperHead,
)
from transformers.models.inkling2.modeling_inkling2 import (
    Inkling2BlockAttentionResidual,
    Inkling2FullDecoderLayer,
    Inkling2SlidingDecoderLayer,
)
from transformers.models.minicpm3.modeling_minicpm3 import MiniCPM3DecoderLayer
from transformers.models.reformer.modeling_reformer import ReformerLayer

DEPTHS = pytest.mark.parametrize("depth", [1, 2, 5])


@pytest.fixture
def in_double(monkeypatch):
    """What these classes take through float32 goes through float64 instead."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)


class Branch(nn.Module):
    """A branch of ours in the place of theirs."""

    def __init__(self, branch, answer=lambda y: y):
        super().__init__()
        self.branch, self.answer = branch, answer

    def forward(self, hidden_states, **kwargs):
        return self.answer(self.branch(hidden_states))


def norm_of(place, name="norm"):
    norm = nn.RMSNorm(place[f"{name}.weight"].shape[0], eps=place.eps)
    norm.weight = place[f"{name}.weight"]
    return norm


def with_branches(layer, attention, mlp):
    """``layer`` with the branches and norms of a block of ours."""
    layer.self_attn = Branch(attention.f, lambda y: (y, None))
    layer.mlp = Branch(mlp.f)
    layer.input_layernorm, layer.post_attention_layernorm = norm_of(attention), norm_of(mlp)
    return layer


def bare(layer_class, **attributes):
    """A layer without its constructor, which would make an attention and experts that are then thrown away."""
    layer = layer_class.__new__(layer_class)
    nn.Module.__init__(layer)
    for name, value in attributes.items():
        setattr(layer, name, value)
    return layer


def blocks_of(model):
    """Pairs of places, an attention and an MLP."""
    (run,) = runs(model)
    return list(zip(run.places[::2], run.places[1::2], strict=True))


def logits_from(model, h):
    body = model.model
    h = normalise("rmsnorm", model.config.norm_eps, h, {"norm.weight": body.norm.weight}, "norm")
    return h @ model.lm_head.weight.T


@holds("transformers DeepseekV4HyperConnection (deepseek_v4)", "mhc")
@pytest.mark.parametrize("head", ["mean", "learned"])
@pytest.mark.parametrize("n, iters, eps", [(4, 20, 1e-6), (2, 1, 1e-3), (1, 3, 1e-6), (5, 7, 1e-4)])
@DEPTHS
def test_deepseek_v4_is_mhc(depth, n, iters, eps, head, in_double):
    model = build({"kind": "mhc", "n": n, "iters": iters, "eps": eps, "head": head}, depth)
    tokens, width = some_tokens(), model.config.hidden_size
    config = SimpleNamespace(hc_mult=n, hc_sinkhorn_iters=iters, hc_eps=eps, rms_norm_eps=1e-6, hidden_size=width)

    def connection(place):
        theirs = DeepseekV4HyperConnection(config)
        theirs.fn, theirs.base, theirs.scale = place["weight"], place["bias"], place["scale"]
        return theirs

    streams = model.model.embed_tokens(tokens).unsqueeze(2).repeat(1, 1, n, 1)
    for attention, mlp in blocks_of(model):
        layer = bare(DeepseekV4DecoderLayer, attn_hc=connection(attention), ffn_hc=connection(mlp))
        streams = with_branches(layer, attention, mlp)(streams)
    if head == "learned":
        theirs = DeepseekV4HyperHead(config)
        theirs.hc_fn, theirs.hc_base, theirs.hc_scale = mlp["head_weight"], mlp["head_bias"], mlp["head_scale"]
        h = theirs(streams)
    else:
        h = streams.mean(2)
    assert_same(model, model(input_ids=tokens).logits, logits_from(model, h))


@holds("transformers HYV4HyperConnection (identity)", "mhc")
@pytest.mark.parametrize("head", ["mean", "learned"])
@pytest.mark.parametrize("n, eps", [(4, 1e-6), (2, 1e-3), (1, 1e-6), (5, 1e-4)])
@DEPTHS
def test_hunyuan_v4_carries_the_streams_as_they_are(depth, n, eps, head, in_double):
    kind = {"kind": "mhc", "variant": "identity", "n": n, "eps": eps, "head": head}
    model, tokens = build(kind, depth), some_tokens()
    config = SimpleNamespace(hc_mult=n, hc_eps=eps, rms_norm_eps=1e-6, hidden_size=16, hc_magnitude=2.0)

    def theirs(theirs_class, place, prefix="", ours=("weight", "bias", "scale"), names=("fn", "base", "scale")):
        module = theirs_class(config)
        for name, own in zip(names, ours, strict=True):
            setattr(module, name, place[prefix + own])
        return module

    streams = model.model.embed_tokens(tokens).unsqueeze(2).repeat(1, 1, n, 1)
    for attention, mlp in blocks_of(model):
        connections = {"attn_hc": theirs(HYV4HyperConnection, attention), "ffn_hc": theirs(HYV4HyperConnection, mlp)}
        layer = with_branches(bare(HYV4DecoderLayer, **connections), attention, mlp)
        layer.self_attn.answer = lambda y: (y, None, None)
        streams, _ = layer(streams)
    h = streams.mean(2)
    if head == "learned":
        h = theirs(HYV4HyperHead, mlp, "head_", names=("hc_fn", "hc_base", "hc_scale"))(streams)
    assert_same(model, model(input_ids=tokens).logits, logits_from(model, h))


def test_deepseek_v4_maps_in_bfloat16():
    """Both take the maps through float32, whatever the model's dtype."""
    model = build("mhc", 2, hidden_size=32).bfloat16()
    place, streams = runs(model)[0].places[0], torch.randn(2, 5, 4, 32).bfloat16()
    config = SimpleNamespace(hc_mult=4, hc_sinkhorn_iters=20, hc_eps=1e-6, rms_norm_eps=1e-6, hidden_size=32)
    theirs = DeepseekV4HyperConnection(config)
    theirs.fn, theirs.base, theirs.scale = place["weight"], place["bias"], place["scale"]
    write, mixing, h = theirs(streams)
    read = []
    mine = model.model.layers[0].attention_residual
    mine.norm = nn.Identity()
    mine.exits = mine.reads_out = False
    found = mine(streams, lambda h: read.append(h) or torch.ones_like(h))
    assert found.dtype == read[0].dtype == torch.bfloat16
    torch.testing.assert_close(read[0], h, atol=0, rtol=2**-7)
    expected = mixing.bfloat16().mT @ streams + write.bfloat16().unsqueeze(-1)
    torch.testing.assert_close(found, expected, atol=2**-7, rtol=2**-7)
    torch.testing.assert_close(mine.maps(streams)[2], mixing, atol=1e-6, rtol=1e-6)


class OverDepth(nn.Module):
    """Kimi's operation in the place of Inkling's: keys normed with a gain, values as they are, no scale."""

    def __init__(self, place, name="attend"):
        super().__init__()
        self.query, self.norm = place[f"{name}.query"], norm_of(place, f"{name}.norm")

    def forward(self, block_states, partial):
        sources = torch.cat([block_states, partial.unsqueeze(-2)], -2)
        weights = torch.softmax(self.norm(sources) @ self.query, -1)
        return ((weights.unsqueeze(-1) * sources).sum(-2),)


@holds("transformers Inkling2SlidingDecoderLayer", "attn_res")
@pytest.mark.parametrize("layers_per_block", [1, 2, 3])
@pytest.mark.parametrize("depth", [1, 2, 3, 7])
def test_inkling_keeps_the_blocks_of_attn_res(depth, layers_per_block, in_double):
    """Theirs counts layers and ours sublayers."""
    model, tokens = build({"kind": "attn_res", "block": 2 * layers_per_block}, depth), some_tokens()
    h = model.model.embed_tokens(tokens)
    blocks = h.new_zeros(*h.shape[:-1], 0, h.shape[-1])
    for number, (attention, mlp) in enumerate(blocks_of(model)):
        boundary = number % layers_per_block == 0
        layer = bare(Inkling2SlidingDecoderLayer, is_block_boundary=boundary)
        layer.attention_input = OverDepth(attention) if number > 0 else None
        layer.mlp_input = OverDepth(mlp)
        layer.post_attention_convolution = layer.post_mlp_convolution = Branch(lambda y: y)
        before, h = h, with_branches(layer, attention, mlp)(h, blocks)
        if boundary:  # as its model does between layers
            blocks = torch.cat([blocks, before.unsqueeze(-2)], -2)
    assert_same(model, model(input_ids=tokens).logits, logits_from(model, OverDepth(mlp, "attend_out")(blocks, h)[0]))


class OverDepthForEach(OverDepth):
    """The same with a query each for what query, key and value read."""

    def forward(self, block_states, partial):
        sources = torch.cat([block_states, partial.unsqueeze(-2)], -2)
        weights = torch.softmax(self.norm(sources) @ self.query.T, -2)
        return torch.einsum("btsq,btsd->qbtd", weights, sources).unbind()


class Roles(nn.Module):
    """Our attention in the place of theirs, with what its keys and values read."""

    def __init__(self, attention):
        super().__init__()
        self.attention = attention

    def forward(self, hidden_states, key_hidden_states, value_hidden_states, **kwargs):
        return self.attention(hidden_states, key=key_hidden_states, value=value_hidden_states), None


@holds("transformers Inkling2FullDecoderLayer (separate)", "attn_res")
@pytest.mark.parametrize("layers_per_block", [1, 2])
@pytest.mark.parametrize("depth", [1, 2, 5])
def test_inkling_reads_query_key_and_value_apart(depth, layers_per_block, in_double):
    kind = {"kind": "attn_res", "block": 2 * layers_per_block, "roles": "separate"}
    model, tokens = build(kind, depth), some_tokens()
    h = model.model.embed_tokens(tokens)
    blocks = h.new_zeros(*h.shape[:-1], 0, h.shape[-1])
    for number, (attention, mlp) in enumerate(blocks_of(model)):
        boundary = number % layers_per_block == 0
        layer = bare(Inkling2FullDecoderLayer, is_block_boundary=boundary)
        layer.attention_input = OverDepthForEach(attention) if number > 0 else None
        layer.mlp_input = OverDepth(mlp)
        layer.q_input_layernorm = norm_of(attention)
        layer.k_input_layernorm = norm_of(attention, "norm_key" if number > 0 else "norm")
        layer.v_input_layernorm = norm_of(attention, "norm_value" if number > 0 else "norm")
        layer.self_attn, layer.post_attention_convolution = Roles(attention.attention), Branch(nn.Identity())
        layer.mlp, layer.post_attention_layernorm = Branch(mlp.f), norm_of(mlp)
        layer.post_mlp_convolution = Branch(nn.Identity())
        before, h = h, layer(h, blocks)
        if boundary:
            blocks = torch.cat([blocks, before.unsqueeze(-2)], -2)
    assert_same(model, model(input_ids=tokens).logits, logits_from(model, OverDepth(mlp, "attend_out")(blocks, h)[0]))


@holds("transformers Inkling2BlockAttentionResidual", "attn_res")
@pytest.mark.parametrize("sources", [2, 3, 6])
def test_inkling_softmax_over_depth(sources, in_double):
    """On sources of root mean square 1 its normed values are the values, and its scale goes into the query."""
    model = build("attn_res", (sources + 1) // 2, norm="none")  # branches read without a norm
    (run,) = runs(model)
    place, read = run.places[sources - 1], []
    drawn = torch.randn(sources, 2, 3, model.config.hidden_size, dtype=torch.float64)
    drawn = drawn / drawn.square().mean(-1, keepdim=True).sqrt()
    state = drawn[0]
    residuals = [residual for block in model.model.layers for residual in block.residuals][:sources]
    for residual, written in zip(residuals, [*drawn[1:], torch.zeros_like(drawn[0])], strict=True):
        residual.exits = residual.reads_out = False
        state = residual.step(state, lambda h, written=written: read.append(h) or written)
    theirs = Inkling2BlockAttentionResidual(SimpleNamespace(hidden_size=drawn.shape[-1]))
    theirs.norm.eps = 0.0
    query = place["attend.query"] * place["attend.norm.weight"] / (1 + place.eps) ** 0.5
    theirs.query = nn.Parameter(query * drawn.shape[-1] ** 0.5)
    (expected,) = theirs(drawn[:-1].movedim(0, -2), drawn[-1])
    assert_near(read[-1], expected, "what the last branch reads")


def sandwich_layer(layer_class, attention, mlp, **attributes):
    layer = bare(layer_class, **attributes)
    layer.self_attn, layer.mlp = Branch(attention.f, lambda y: (y, None)), Branch(mlp.f)
    layer.input_layernorm, layer.post_attention_layernorm = (
        norm_of(attention, "norm_in"),
        norm_of(attention, "norm_out"),
    )
    return layer, norm_of(mlp, "norm_in"), norm_of(mlp, "norm_out")


@holds("transformers Gemma4TextDecoderLayer (layer_scalar)", "peri", "sandwich")
@DEPTHS
def test_gemma_4_scales_what_leaves_a_block(depth):
    model, tokens = build("peri(layer_scalar=true)", depth), some_tokens()
    h = model.model.embed_tokens(tokens)
    for attention, mlp in blocks_of(model):
        layer, layer.pre_feedforward_layernorm, layer.post_feedforward_layernorm = sandwich_layer(
            Gemma4TextDecoderLayer, attention, mlp, enable_moe_block=False, hidden_size_per_layer_input=0
        )
        layer.layer_scalar = mlp["scalar"]
        h = layer(h)
    assert_same(model, model(input_ids=tokens).logits, logits_from(model, h))


@holds("transformers AfmoeDecoderLayer", "depth_sandwich")
@DEPTHS
def test_trinity_has_the_sandwich(depth):
    model, tokens = build("depth_sandwich", depth), some_tokens()
    h = model.model.embed_tokens(tokens)
    for attention, mlp in blocks_of(model):
        layer, layer.pre_mlp_layernorm, layer.post_mlp_layernorm = sandwich_layer(
            AfmoeDecoderLayer, attention, mlp, moe_enabled=False
        )
        h = layer(h)
    assert_same(model, model(input_ids=tokens).logits, logits_from(model, h))


@holds("transformers MiniCPM3DecoderLayer", "minicpm")
@pytest.mark.parametrize("scale_depth", [1.4, 0.7])
@DEPTHS
def test_minicpm(depth, scale_depth):
    model, tokens = build({"kind": "minicpm", "scale_depth": scale_depth}, depth), some_tokens()
    config = MiniCPM3Config(hidden_size=16, num_attention_heads=2, num_key_value_heads=2, intermediate_size=24,
                            num_hidden_layers=depth, scale_depth=scale_depth, kv_lora_rank=4, q_lora_rank=4,
                            qk_nope_head_dim=4, qk_rope_head_dim=4, vocab_size=23)  # fmt: skip
    h = model.model.embed_tokens(tokens)
    for number, (attention, mlp) in enumerate(blocks_of(model)):
        h = with_branches(MiniCPM3DecoderLayer(config, number), attention, mlp)(h)
    assert_same(model, model(input_ids=tokens).logits, logits_from(model, h))


@holds("transformers Gemma3nTextLaurelBlock (lr)", "laurel")
@DEPTHS
def test_gemma3n_is_the_low_rank_part_of_laurel(depth):
    model, tokens = build("laurel(mode=lr, rank=3)", depth), some_tokens()
    h = model.model.embed_tokens(tokens)
    (run,) = runs(model)
    for place in run.places:
        theirs = Gemma3nTextLaurelBlock(SimpleNamespace(hidden_size=16, laurel_rank=3, rms_norm_eps=1e-6))
        theirs.linear_left.weight, theirs.linear_right.weight = place["down"], place["up"]
        theirs.post_laurel_norm = nn.Identity()
        h = theirs(h) + place.f(norm_of(place)(h))
    assert_same(model, model(input_ids=tokens).logits, logits_from(model, h))


@holds("transformers ReformerLayer", "reversible")
@DEPTHS
def test_reformer_is_reversible(depth):
    """Forward only: theirs has a backward of its own, that recomputes. Our exit is the mean of the two halves."""
    model, tokens = build("reversible", depth), some_tokens()
    config = ReformerConfig(hidden_size=16, num_attention_heads=2, attention_head_size=8, feed_forward_size=24,
                            attn_layers=["local"] * depth, axial_pos_embds=False)  # fmt: skip
    first = second = model.model.embed_tokens(tokens)
    for number, (attention, mlp) in enumerate(blocks_of(model)):
        layer = ReformerLayer(config, number).eval()
        reads = [lambda h, place=place: place.f(norm_of(place)(h)) for place in (attention, mlp)]
        layer.attention = Branch(
            reads[0], lambda y: SimpleNamespace(hidden_states=y, attention_probs=None, buckets=None)
        )
        layer.feed_forward = Branch(reads[1])
        result = layer(first, second)
        first, second = result.attn_output, result.hidden_states
    assert_near(model(input_ids=tokens).logits, logits_from(model, (first + second) / 2), "logits")
