"""Whole stacks of x-transformers, their weights copied over: float64, to 1e-9.

| kind | option of x-transformers' Decoder |
| --- | --- |
| pre, post, peri | default, pre_norm=False, sandwich_norm |
| scaled, deepnorm | scale_residual, scale_residual_constant, depth_scale_residual |
| keel | pre_and_post_norm, scale_residual_constant, its first block's exceptions made by hand |
| layerscale, gru, orthogonal | use_layerscale, gate_residual, orthog_residual |
| unet(mode=concat) | unet_skips; theirs skip from the inputs of blocks, ours from the outputs: moved by one block |
| value_residual=constant | add_value_residual without the learned mix |

What it also has and is no oracle, being another method: num_residual_streams (its mixing matrix is constant), and
attn_aggregated_residuals (keeps the cumulative stream), learned_value_residual_mix (a gate per token).
"""

import pytest
import torch
from oracle_helpers import hold_exactly, ours, randomise, set_equal
from parity_helpers import holds
from torch import nn
from x_transformers import Decoder

HIDDEN, HEADS = 16, 2


def build(residual, depth, **options):
    """Our model with branches like theirs: no positions, a plain MLP, no biases, and norms without epsilon."""
    shape = {"hidden_size": HIDDEN, "num_attention_heads": HEADS, "intermediate_size": 4 * HIDDEN}
    branches = {"position_embedding": "none", "gated_mlp": False, "hidden_act": "gelu", "norm_eps": 1e-30,
                "attn_implementation": "sdpa"}  # fmt: skip
    return ours(residual=residual, num_hidden_layers=depth, **(shape | branches | options)).eval()


def linears(module):
    return [m.weight for m in module.modules() if isinstance(m, nn.Linear)]


def pair_branches(model, decoder):
    pairs = []
    for i, block in enumerate(model.model.layers):
        mine = [getattr(block.attention, f"{name}_proj").weight for name in "qkvo"]
        pairs += zip(mine, linears(decoder.layers[2 * i][1]), strict=True)
        mine = [block.mlp.up_proj.weight, block.mlp.down_proj.weight]
        pairs += zip(mine, linears(decoder.layers[2 * i + 1][1]), strict=True)
    if hasattr(decoder.final_norm, "g"):
        pairs.append((model.model.norm.weight, decoder.final_norm.g))
    else:
        assert isinstance(model.model.norm, nn.Identity)
    return pairs


def sites(model, decoder):
    """Each of our connections with their norms (before, after the branch, after the sum), layer and residual."""
    residuals = [residual for block in model.model.layers for residual in block.residuals]
    return zip(residuals, decoder.layers, strict=True)


def decoder_of(depth, **options):
    """Theirs, without positions and biases, gains stored as they are, exact attention."""
    torch.manual_seed(depth)
    shape = {"dim": HIDDEN, "depth": depth, "heads": HEADS, "attn_dim_head": HIDDEN // HEADS, "ff_no_bias": True}
    return Decoder(**shape, use_rmsnorm=True, norm_add_unit_offset=False, attn_flash=True, **options)


def compare(residual, depth, site_pairs, model_options=None, prepare=None, length=7, **decoder_options):
    decoder = decoder_of(depth, **decoder_options)
    if prepare is not None:
        prepare(decoder)
    randomise(decoder)
    model = build(residual, depth, **(model_options or {}))
    pairs = pair_branches(model, decoder)
    for mine, (norms, layer, theirs) in sites(model, decoder):
        pairs += site_pairs(mine, norms, layer, theirs)
    set_equal(pairs)
    pairs = [pair for pair in pairs if pair[1].requires_grad and pair[1].is_leaf]
    x = torch.randn(2, length, HIDDEN, dtype=torch.float64, requires_grad=True)
    hold_exactly(model.model(inputs_embeds=x, use_cache=False).last_hidden_state, decoder(x), pairs, x)


def before(mine, norms, layer, theirs):
    return [(mine.norm.weight, norms[0].g)]


def after(mine, norms, layer, theirs):
    return [(mine.norm.weight, norms[2].g)]


def around(mine, norms, layer, theirs):
    return [(mine.norm_in.weight, norms[0].g), (mine.norm_out.weight, norms[1].g)]


DEPTHS = pytest.mark.parametrize("depth", [1, 2, 5])


@holds("x-transformers pre_norm", "pre")
@DEPTHS
def test_pre(depth):
    compare("pre", depth, before)


@holds("x-transformers pre_norm=False", "post")
@DEPTHS
def test_post(depth):
    compare("post", depth, after, pre_norm=False)


@holds("x-transformers sandwich_norm", "peri", "sandwich")
@pytest.mark.parametrize("kind", ["peri", "sandwich"])
@DEPTHS
def test_peri(depth, kind):
    compare(kind, depth, around, sandwich_norm=True)


@holds("x-transformers scale_residual", "scaled")
@DEPTHS
def test_scaled_skip(depth):
    compare("scaled(skip=0.7)", depth, before, scale_residual_constant=0.7)


@holds("x-transformers scale_residual", "scaled")
@DEPTHS
def test_scaled_branch(depth):
    compare("scaled(branch=0.3)", depth, before, depth_scale_residual=0.3)


@holds("x-transformers depth_scale_residual", "granite", "minicpm", "sqrt_depth", "completep")
@pytest.mark.parametrize("kind, factor", [
    ("granite(multiplier=0.4)", lambda depth: 0.4), ("minicpm", lambda depth: 1.4 * depth**-0.5),
    ("sqrt_depth", lambda depth: (2 * depth) ** -0.5), ("completep(base_depth=2)", lambda depth: 2 / depth),
])  # fmt: skip
@DEPTHS
def test_branch_factors(depth, kind, factor):
    compare(kind, depth, before, depth_scale_residual=float(factor(depth)))


@holds("x-transformers scale_residual", "scaled")
@DEPTHS
def test_scaled_by_learned_vectors(depth):
    """Theirs learns the skip's only."""

    def pairs(mine, norms, layer, theirs):
        one = torch.ones(HIDDEN, dtype=torch.float64)
        return [(mine.norm.weight, norms[0].g), (mine.a, theirs.residual_scale), (mine.b, one)]

    compare("scaled(learned=true, per=vector)", depth, pairs, scale_residual=True)


@holds("x-transformers scale_residual_constant", "deepnorm")
@DEPTHS
def test_deepnorm(depth):
    compare("deepnorm", depth, after, pre_norm=False, scale_residual_constant=(2 * depth) ** 0.25)


@holds("x-transformers pre_and_post_norm", "keel")
@DEPTHS
def test_keel(depth):
    """Theirs has no exceptions: the first attention loses its outer norm, the first block its factor."""

    def first_block(decoder):
        decoder.layers[0][0][2] = None
        decoder.layers[0][2].scale_residual_constant = decoder.layers[1][2].scale_residual_constant = 1

    def pairs(mine, norms, layer, theirs):
        outer = [(mine.norm.weight, norms[2].g)] if norms[2] is not None else []
        return [(mine.norm_in.weight, norms[0].g), *outer]

    compare("keel", depth, pairs, prepare=first_block, pre_and_post_norm=True, scale_residual_constant=2 * depth)


@holds("x-transformers pre_and_post_norm", "keel")
def test_keel_after_a_block_of_pre_has_no_exceptions():
    def first_block(decoder):
        for site in (0, 1):
            decoder.layers[site][0][2] = None
            decoder.layers[site][2].scale_residual_constant = 1

    def pairs(mine, norms, layer, theirs):
        if norms[2] is None:
            return before(mine, norms, layer, theirs)
        return [(mine.norm_in.weight, norms[0].g), (mine.norm.weight, norms[2].g)]

    options = {"pre_and_post_norm": True, "scale_residual_constant": 3.0}
    compare("pre*1,keel(alpha=3.0)*rest", 4, pairs, prepare=first_block, **options)


@holds("x-transformers use_layerscale", "layerscale")
@DEPTHS
def test_layerscale(depth):
    def pairs(mine, norms, layer, theirs):
        return [*before(mine, norms, layer, theirs), (mine.v, layer.gamma)]

    compare("layerscale", depth, pairs, use_layerscale=True, layerscale_init_value=0.3)


@holds("x-transformers gate_residual", "gru")
@pytest.mark.parametrize("norm", ["pre", "none"])
@DEPTHS
def test_gru(depth, norm):
    """Without a norm inside as well: theirs always has one there, so it is taken out."""

    def no_norms(decoder):
        for layer in decoder.layers:
            layer[0][0] = None if norm == "none" else layer[0][0]

    def pairs(mine, norms, layer, theirs):
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        found = [(getattr(mine.cell, name), getattr(theirs.gru, name)) for name in names]
        return found if norm == "none" else found + before(mine, norms, layer, theirs)

    compare(f"gru(norm={norm})", depth, pairs, prepare=no_norms, gate_residual=True)


@holds("x-transformers orthog_residual", "orthogonal")
@DEPTHS
def test_orthogonal(depth):
    """Sequences of one token: theirs (2.31) projects all tokens of a sequence as one vector, which looks ahead."""
    compare("orthogonal", depth, before, length=1, orthog_residual=True)


@holds("x-transformers unet_skips (concat)", "unet")
@pytest.mark.parametrize("depth", [2, 3, 4, 7])
def test_unet_concat(depth):
    def swap(weight):  # theirs puts the skip first
        return torch.cat([weight[:, HIDDEN:], weight[:, :HIDDEN]], -1)

    decoder = randomise(decoder_of(depth, unet_skips=True))
    for combine in decoder.skip_combines:
        if combine is not None:
            combine.prev_layer_ind += 2  # the input of the block after it, which is that block's output
    model = build("unet(mode=concat)", depth)
    same, swapped = pair_branches(model, decoder), []
    for (mine, (norms, layer, theirs)), combine in zip(sites(model, decoder), decoder.skip_combines, strict=True):
        same += before(mine, norms, layer, theirs)
        if combine is not None:
            swapped.append((mine.project.weight, combine.combine.weight))
            nn.init.zeros_(mine.project.bias)
    assert len(swapped) == depth // 2
    set_equal(same + [(mine, swap(theirs)) for mine, theirs in swapped])
    x = torch.randn(2, 7, HIDDEN, dtype=torch.float64, requires_grad=True)
    hold_exactly(model.model(inputs_embeds=x, use_cache=False).last_hidden_state, decoder(x), same, x)


@DEPTHS
def test_constant_value_residual(depth):
    options = {"add_value_residual": True, "learned_value_residual_mix": False}
    compare("pre", depth, before, {"value_residual": "constant"}, **options)
