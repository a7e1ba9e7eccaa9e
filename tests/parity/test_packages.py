"""Other packages: hyper-connections (lucidrains) and rezero (its authors'). Float64, to 1e-9.

The package hyper-connections has an RMSNorm with gain before the dynamic weights, the paper and we a LayerNorm: it is
put in. Its reduce is the sum, ours the mean. Its ``num_fracs`` scrambles the fractions: for frac they are its streams,
and what the branch reads its views. Its ``mHC`` projects each stream by itself and is no oracle for mhc.
"""

import pytest
import torch
from hyper_connections import HyperConnections
from oracle_helpers import hold_exactly, ours, randomise, set_equal
from parity_helpers import assert_same, build, holds, normalise, runs, some_tokens
from rezero.transformer import RZTXEncoderLayer
from torch import nn

from resformer import ResformerConfig, ResformerForCausalLM

HIDDEN, HEADS = 16, 2
DEPTHS = pytest.mark.parametrize("depth", [1, 2, 5])


def theirs_with_our_parameters(place, n, dynamic, width=HIDDEN, views=1):
    connection = HyperConnections(n, dim=width, layer_index=place.index, tanh=True, num_input_views=views)
    connection.static_alpha, connection.static_beta = place["alpha"], place["beta"]
    weights = {"dynamic_alpha_fn": torch.zeros(width, n + views), "dynamic_beta_fn": torch.zeros(width)}
    scales = {"dynamic_alpha_scale": torch.zeros(()), "dynamic_beta_scale": torch.zeros(())}
    if dynamic:
        weights = {"dynamic_alpha_fn": place["alpha_weight"], "dynamic_beta_fn": place["beta_weight"][:, 0]}
        scales = {"dynamic_alpha_scale": place["alpha_scale"], "dynamic_beta_scale": place["beta_scale"]}
        connection.norm = nn.LayerNorm(width, eps=place.eps)
        connection.norm.weight, connection.norm.bias = place["stream_norm.weight"], place["stream_norm.bias"]
    for name, value in (weights | scales).items():
        delattr(connection, name)  # a parameter's place takes no view of another parameter
        setattr(connection, name, value.double())
    return connection.double()


def logits_from(model, h):
    h = normalise("rmsnorm", 1e-6, h, {"norm.weight": model.model.norm.weight}, "norm")
    return h @ model.lm_head.weight.T


@holds("hyper-connections HyperConnections", "hyper")
@pytest.mark.parametrize("n", [2, 4])
@pytest.mark.parametrize("dynamic", [True, False])
@DEPTHS
def test_hyper_connections(depth, dynamic, n):
    model, tokens = build({"kind": "hyper", "n": n, "dynamic": dynamic}, depth), some_tokens()
    expand, reduce = HyperConnections.get_expand_reduce_stream_functions(n)
    streams = expand(model.model.embed_tokens(tokens))
    (run,) = runs(model)
    for place in run.places:
        connection = theirs_with_our_parameters(place, n, dynamic)
        h, add = connection(streams)
        streams = add(place.f(place.norm("norm", h)))
    assert_same(model, model(input_ids=tokens).logits, logits_from(model, reduce(streams) / n))


@holds("hyper-connections HyperConnections", "frac")
@pytest.mark.parametrize("m", [2, 4, 8])
@pytest.mark.parametrize("dynamic", [True, False])
@DEPTHS
def test_frac_connections(depth, dynamic, m):
    model, tokens, width = build({"kind": "frac", "m": m, "dynamic": dynamic}, depth), some_tokens(), HIDDEN // m
    streams = torch.cat(model.model.embed_tokens(tokens).split(width, -1))
    (run,) = runs(model)
    for place in run.places:
        connection = theirs_with_our_parameters(place, m, dynamic, width, views=m)
        # Theirs has the streams inside the batch: [batch, stream], ours were stacked [stream, batch].
        mine = streams.unflatten(0, (m, -1)).transpose(0, 1).flatten(0, 1)
        views, carried, kwargs = connection.width_connection(mine)
        f = place.f(place.norm("norm", torch.cat(list(views), -1)))
        # It writes one output to every stream; each fraction keeps what is its own.
        written = [connection.depth_connection(piece, carried, **kwargs) for piece in f.split(width, -1)]
        streams = torch.cat([each.unflatten(0, (-1, m))[:, j] for j, each in enumerate(written)])
    h = torch.cat(streams.chunk(m), -1)
    assert_same(model, model(input_ids=tokens).logits, logits_from(model, h))


def test_hyper_starts_where_the_package_starts():
    config = ResformerConfig(vocab_size=23, hidden_size=HIDDEN, num_hidden_layers=3, num_attention_heads=HEADS,
                             residual="hyper(n=4)")  # fmt: skip
    model = ResformerForCausalLM(config)
    (run,) = runs(model)
    for place in run.places:
        theirs = HyperConnections(4, dim=HIDDEN, layer_index=place.index, tanh=True)
        torch.testing.assert_close(place["alpha"], theirs.static_alpha)
        torch.testing.assert_close(place["beta"], theirs.static_beta)
        torch.testing.assert_close(place["alpha_weight"], theirs.dynamic_alpha_fn)
        torch.testing.assert_close(place["beta_weight"][:, 0], theirs.dynamic_beta_fn)
        torch.testing.assert_close(place["alpha_scale"][0], theirs.dynamic_alpha_scale)
        torch.testing.assert_close(place["beta_scale"][0], theirs.dynamic_beta_scale)


@holds("rezero RZTXEncoderLayer", "rezero")
@DEPTHS
def test_rezero(depth):
    """Its own package: one scalar for a block's attention and feed-forward, no norm."""
    layers = nn.ModuleList(RZTXEncoderLayer(HIDDEN, HEADS, 4 * HIDDEN, dropout=0.0) for _ in range(depth))
    randomise(layers)
    model = ours(
        residual="rezero", hidden_size=HIDDEN, num_hidden_layers=depth, num_attention_heads=HEADS,
        intermediate_size=4 * HIDDEN, position_embedding="none", gated_mlp=False, hidden_act="relu",
        attention_bias=True, mlp_bias=True, attn_implementation="sdpa",
    ).eval()  # fmt: skip
    pairs, fused = [], []
    for block, layer in zip(model.model.layers, layers, strict=True):
        inner = layer.self_attn
        for i, name in enumerate(("q_proj", "k_proj", "v_proj")):
            mine, rows = getattr(block.attention, name), slice(i * HIDDEN, (i + 1) * HIDDEN)
            fused += [(mine.weight, inner.in_proj_weight[rows]), (mine.bias, inner.in_proj_bias[rows])]
        for mine, theirs in (
            (block.attention.o_proj, inner.out_proj),
            (block.mlp.up_proj, layer.linear1),
            (block.mlp.down_proj, layer.linear2),
        ):
            pairs += [(mine.weight, theirs.weight), (mine.bias, theirs.bias)]
        pairs.append((block.attention_residual.a, layer.resweight))
    set_equal(pairs + fused)
    x = torch.randn(2, 7, HIDDEN, dtype=torch.float64, requires_grad=True)
    mask, expected = nn.Transformer.generate_square_subsequent_mask(7, dtype=torch.float64), x.transpose(0, 1)
    for layer in layers:
        expected = layer(expected, src_mask=mask)
    got = model.model(inputs_embeds=x, use_cache=False).last_hidden_state
    hold_exactly(got, expected.transpose(0, 1), pairs, x)
