"""Whole stacks against the formulas: parallel blocks, widths by block, GPAS, presets, mixes of kinds."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from parity_helpers import build, ends_without_norm, expected_logits, holds, some_tokens
from test_formulas import FORMULAS, OPTIONS, PARALLEL_ONLY, SHALLOWEST, hold

from resformer.model.specification import KINDS

ONE_STREAM = [
    "plain", "pre", "post", "res_post", "peri", "depth_sandwich", "norm_add", "keel", "sub_ln", "scaled", "granite",
    "minicpm",
    "sqrt_depth", "completep", "rezero", "layerscale", "deepnorm", "admin", "lns", "highway", "gtrxl", "gru", "gated",
    "orthogonal", "projection", "laurel", "prores",
]  # fmt: skip
WHOLE_BLOCKS = {"b2t", "x0_mix", "denseformer", "unet", "mudd"}
MIXABLE = sorted(set(FORMULAS) - PARALLEL_ONLY - WHOLE_BLOCKS)


@pytest.mark.parametrize("depth", [1, 2, 3, 6])
@pytest.mark.parametrize("kind", sorted(set(FORMULAS) - PARALLEL_ONLY))
def test_parallel_blocks(kind, depth):
    """One site a block, whose branch is attention plus MLP of the same input."""
    hold(kind, max(depth, SHALLOWEST.get(kind, 1)), parallel_block=True)


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("kind", ONE_STREAM)
def test_gpas(kind, depth):
    hold({"kind": kind, "gpas": True}, depth)
    hold({"kind": kind, "gpas": True}, depth, parallel_block=True)


def test_gpas_with_two_norms():
    hold({"kind": "two_norms", "gpas": True}, 3, parallel_block=True)


def test_gpas_is_for_one_stream():
    for kind in sorted(set(KINDS) - set(ONE_STREAM) - PARALLEL_ONLY - {"sandwich"}):
        with pytest.raises(ValueError, match="gpas"):
            build({"kind": kind, "gpas": True}, 2)


@holds("its parts", "mix_ln")
@pytest.mark.parametrize("alpha, posts", [(0.25, 1), (0.0, 0), (0.5, 2), (1.0, 5), (0.41, 2), (0.6, 3)])
def test_mix_ln_is_post_then_pre(alpha, posts):
    model, tokens = build({"kind": "mix_ln", "alpha": alpha}, 5), some_tokens()
    stack = ["post"] * posts + ["pre"] * (5 - posts)
    other = build(stack, 5)
    assert other.state_dict().keys() == model.state_dict().keys()
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(model(input_ids=tokens).logits, expected_logits(other, tokens, FORMULAS))


@pytest.mark.parametrize("kind", sorted(set(FORMULAS) - PARALLEL_ONLY))
def test_widths_change_through_a_projection(kind):
    """A run of one kind on each side of the change: each ends and begins with its own exit and enter."""
    for parallel in (False, True):
        hold([kind, kind, "projection", kind, kind], 5, hidden_size="16*2,24*3", tie_word_embeddings=False,
             parallel_block=parallel)  # fmt: skip


@pytest.mark.parametrize("norm", ["layernorm", "dyt", "none"])
@pytest.mark.parametrize("kind", ["pre", "post", "peri", "keel", "siamese", "residual_dual", "attn_res", "hyper"])
def test_other_norms(kind, norm):
    hold(kind, 3, norm=norm)


@pytest.mark.parametrize("first", MIXABLE)
@pytest.mark.parametrize("second", ["pre", "hyper", "attn_res"])
def test_a_kind_beside_another(first, second):
    """As the attention's connection, as the MLP's, below and above: every boundary between them."""
    hold({"attention": first, "mlp": second}, 3)
    hold([first, second, {"attention": second, "mlp": first}], 3)


KIND = st.sampled_from(sorted(set(FORMULAS) - PARALLEL_ONLY - {"unet"}))


@st.composite
def connection(draw, kinds=KIND):
    kind = draw(kinds)
    gpas = {"gpas": st.booleans()} if kind in ONE_STREAM else {}
    return {"kind": kind, **draw(st.fixed_dictionaries({}, optional=OPTIONS.get(kind, {}) | gpas))}


@st.composite
def block(draw):
    if draw(st.booleans()):
        return draw(connection())
    mixable = st.sampled_from(MIXABLE)
    return {"attention": draw(connection(mixable)), "mlp": draw(connection(mixable))}


@settings(max_examples=150, derandomize=True)
@given(stack=st.lists(block(), min_size=1, max_size=3), repeats=st.integers(1, 3), seed=st.integers(0, 99))
def test_random_mixes(stack, repeats, seed):
    """Any kinds with any options in any order; runs of up to three blocks."""
    stack = [entry for entry in stack for _ in range(repeats)]
    hold(stack, len(stack), seed)


@settings(max_examples=60, derandomize=True)
@given(
    stack=st.lists(connection(st.one_of(KIND, st.just("two_norms"))), min_size=1, max_size=3),
    repeats=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_random_mixes_of_parallel_blocks(stack, repeats, seed):
    stack = [entry for entry in stack for _ in range(repeats)]
    hold(stack, len(stack), seed, parallel_block=True)


def test_which_stacks_end_without_a_norm():
    for kind in sorted(set(KINDS) - PARALLEL_ONLY):
        assert isinstance(build(kind, 2).model.norm, torch.nn.Identity) == ends_without_norm(kind, {}), kind
    for norm in ("none", "pre"):
        ends_bare = isinstance(build({"kind": "rezero", "norm": norm}, 2).model.norm, torch.nn.Identity)
        assert ends_bare == ends_without_norm("rezero", {"norm": norm})


@pytest.mark.parametrize("parallel", [False, True])
def test_every_stack_of_one_block_ends_normed_but_rezero(parallel):
    """Keel's first attention has no outer norm, but a parallel block is an MLP too."""
    for kind in sorted(set(KINDS) - PARALLEL_ONLY - {"unet", "rezero"}):
        model = build(kind, 1, parallel_block=parallel)
        last = model.model.layers[-1].residuals[-1]
        normed = [model.model.norm, getattr(last, "norm", None), getattr(last, "norm_dual", None)]
        assert any(isinstance(norm, torch.nn.RMSNorm) for norm in normed), kind
