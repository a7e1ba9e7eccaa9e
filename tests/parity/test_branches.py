"""The branches' own options, written out: norms on heads, projections and values, a norm before the output projection,
grouped queries, rotations, and value residual in its three modes. Whole models around pre-norm connections.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from parity_helpers import assert_same, build, normalise, some_tokens

HEADS, DIM = 4, 4


def rotate(x, theta=10000.0):
    """``[batch, time, dim]``: each pair (i, i + dim / 2) turned by its position times theta^(-2 i / dim)."""
    half, turned = x.shape[-1] // 2, torch.empty_like(x)
    for time in range(x.shape[1]):
        for i in range(half):
            # The model keeps its angles in float32.
            frequency = 1 / torch.tensor(theta) ** (torch.tensor(2.0 * i) / x.shape[-1])
            angle = torch.tensor(float(time)) * frequency
            c, s = torch.cos(angle).double(), torch.sin(angle).double()
            turned[:, time, i] = x[:, time, i] * c - x[:, time, i + half] * s
            turned[:, time, i + half] = x[:, time, i + half] * c + x[:, time, i] * s
    return turned


def attend(own, config, x, first_values, layer, inner):
    """One attention, head by head; gives its output and the values it projected."""

    def norm(name, y):
        return normalise(config.norm, config.norm_eps, y, own, name)

    groups = config.num_attention_heads // config.num_key_value_heads
    q, k = x @ own["q_proj.weight"].T, x @ own["k_proj.weight"].T
    values = v = x @ own["v_proj.weight"].T if "v_proj.weight" in own else None
    if layer > 0 and config.value_residual == "constant":
        v = 0.5 * v + 0.5 * first_values
    elif layer > 0 and config.value_residual == "learned":
        v = own["value_mix"][0] * v + own["value_mix"][1] * first_values
    elif layer > 0 and config.value_residual == "svformer":
        assert values is None
        v = first_values
    if config.qk_norm == "projection":
        q, k = norm("q_norm", q), norm("k_norm", k)
    outputs = []
    for head in range(config.num_attention_heads):
        shared = head // groups
        at, shared_at = slice(head * DIM, (head + 1) * DIM), slice(shared * DIM, (shared + 1) * DIM)
        qh, kh, vh = q[..., at], k[..., shared_at], v[..., shared_at]
        if config.qkv_norm or config.qk_norm == "head":
            qh, kh = norm("q_norm", qh), norm("k_norm", kh)
        if config.qkv_norm:
            vh = norm("v_norm", vh)
        if config.position_embedding == "rope":
            qh, kh = rotate(qh), rotate(kh)
        scores = qh @ kh.transpose(-1, -2) / DIM**0.5
        future = torch.ones(x.shape[1], x.shape[1]).triu(1).bool()
        outputs.append(torch.softmax(scores.masked_fill(future, -float("inf")), -1) @ vh)
    output = torch.cat(outputs, -1)
    if inner:
        output = norm("inner_norm", output)
    return output @ own["o_proj.weight"].T, values


def mlp(own, config, x, inner):
    up = x @ own["up_proj.weight"].T
    if config.gated_mlp:
        gated = x @ own["gate_proj.weight"].T
        hidden = gated * torch.sigmoid(gated) * up
    else:
        hidden = up * torch.sigmoid(up)
    if inner:
        hidden = normalise(config.norm, config.norm_eps, hidden, own, "inner_norm")
    return hidden @ own["down_proj.weight"].T


def expected_logits(model, tokens):
    config, body, first = model.config, model.model, None
    h = body.embed_tokens.weight[tokens]
    for layer, block in enumerate(body.layers):
        for part in ("attention", "mlp"):
            own = dict(block.get_submodule(part).named_parameters())
            residual = block.get_submodule(f"{part}_residual")
            kind = config.connections()[layer][part].kind
            inner = kind == "sub_ln"
            g = h
            if config.connections()[layer][part].options.get("norm") != "none":
                g = normalise(config.norm, config.norm_eps, h, dict(residual.named_parameters()), "norm")
            if part == "attention":
                f, values = attend(own, config, g, first, layer, inner)
                first = values if first is None else first
            else:
                f = mlp(own, config, g, inner)
            h = (g if kind == "norm_add" else h) + f
    h = normalise(config.norm, config.norm_eps, h, {"w.weight": body.norm.weight}, "w")
    return h @ model.lm_head.weight.T


def hold(residual, depth, **options):
    model, tokens = build(residual, depth, num_attention_heads=HEADS, **options), some_tokens(length=5)
    assert_same(model, model(input_ids=tokens, use_cache=False).logits, expected_logits(model, tokens))
    return model


HYBRID_NORM = {"attention": "scaled(norm=none)", "mlp": "norm_add"}


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_hybrid_norm(depth):
    hold(HYBRID_NORM, depth, qkv_norm=True)


@pytest.mark.parametrize("mode", ["none", "constant", "learned", "svformer"])
@pytest.mark.parametrize("depth", [1, 2, 5])
def test_value_residual(mode, depth):
    model = hold("pre", depth, value_residual=mode)
    mixed = [hasattr(block.attention, "value_mix") for block in model.model.layers]
    assert mixed == [layer > 0 and mode in ("constant", "learned") for layer in range(depth)]


@pytest.mark.parametrize("mode", ["constant", "learned"])
def test_value_residual_starts_at_half_and_half(mode):
    model = build("pre", 3, noise=0.0, value_residual=mode)
    for block in list(model.model.layers)[1:]:
        assert block.attention.value_mix.tolist() == [0.5, 0.5]


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("depth", [1, 3])
def test_sub_ln_norms_inside_the_branches(depth, gated):
    hold("sub_ln", depth, gated_mlp=gated)


@settings(max_examples=60, derandomize=True)
@given(
    residual=st.sampled_from(["pre", "sub_ln", HYBRID_NORM, "norm_add"]),
    depth=st.integers(1, 4),
    seed=st.integers(0, 99),
    keys=st.sampled_from([1, 2, 4]),
    norms=st.sampled_from([{}, {"qk_norm": "head"}, {"qk_norm": "projection"}, {"qkv_norm": True}]),
    mode=st.sampled_from(["none", "constant", "learned", "svformer"]),
    position=st.sampled_from(["rope", "none"]),
    gated=st.booleans(),
)
def test_random_branches(residual, depth, seed, keys, norms, mode, position, gated):
    hold(residual, depth, seed=seed, num_key_value_heads=keys, value_residual=mode, position_embedding=position,
         gated_mlp=gated, **norms)  # fmt: skip


@pytest.mark.parametrize("mode", ["constant", "learned", "svformer"])
def test_value_residual_takes_the_first_values_whatever_wires_the_branch(mode):
    model, tokens = build("hyper(n=2)", 3, value_residual=mode, parallel_block=True), some_tokens()
    projected, seen = [], []
    first, *later = (block.attention for block in model.model.layers)
    first.v_proj.register_forward_hook(lambda module, inputs, output: projected.append(output))
    for attention in later:
        attention.register_forward_pre_hook(
            lambda module, inputs, named: seen.append(named["first_values"]), with_kwargs=True
        )
    model(input_ids=tokens)
    assert len(projected) == 1 and len(seen) == 2
    for values in seen:
        torch.testing.assert_close(values, projected[0], rtol=0, atol=0)
