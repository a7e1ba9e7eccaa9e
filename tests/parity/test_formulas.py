"""Each kind against its published formula, written here as a plain loop that shares no code with the classes.

The branches (attention, MLP) are taken from the model as black boxes; everything the connection does, its norms
included, is written out again. Forward and gradients, float64.
"""

import pytest
import torch

from resformer import ResformerConfig, ResformerForCausalLM


def rms(x, weight):
    return x / torch.sqrt((x * x).sum(-1, keepdim=True) / x.shape[-1] + 1e-6) * weight


def gate(weight, bias, h):
    return 1 / (1 + torch.exp(-((h @ weight.T if weight.ndim == 2 else h * weight) + bias)))


def gru(cell, y, h):
    x, s = y @ cell.weight_ih.T + cell.bias_ih, h @ cell.weight_hh.T + cell.bias_hh
    (xr, xz, xn), (hr, hz, hn) = x.chunk(3, -1), s.chunk(3, -1)
    r, z = 1 / (1 + torch.exp(-(xr + hr))), 1 / (1 + torch.exp(-(xz + hz)))
    return (1 - z) * torch.tanh(xn + r * hn) + z * h


# kind -> (own parameters p, stream h, branch f, layer from 0, number of blocks L) -> new stream
FORMULAS = {
    "plain": lambda p, h, f, layer, L: f(rms(h, p.norm.weight)),
    "plain(norm=none)": lambda p, h, f, layer, L: f(h),
    "pre": lambda p, h, f, layer, L: h + f(rms(h, p.norm.weight)),
    "post": lambda p, h, f, layer, L: rms(h + f(h), p.norm.weight),
    "res_post": lambda p, h, f, layer, L: h + rms(f(h), p.norm.weight),
    "peri": lambda p, h, f, layer, L: h + rms(f(rms(h, p.norm_in.weight)), p.norm_out.weight),
    "scaled(skip=0.9,branch=0.4)": lambda p, h, f, layer, L: 0.9 * h + 0.4 * f(rms(h, p.norm.weight)),
    "scaled(learned=true,per=vector)": lambda p, h, f, layer, L: p.a * h + p.b * f(rms(h, p.norm.weight)),
    "granite(multiplier=0.22)": lambda p, h, f, layer, L: h + 0.22 * f(rms(h, p.norm.weight)),
    "minicpm": lambda p, h, f, layer, L: h + 1.4 / L**0.5 * f(rms(h, p.norm.weight)),
    "sqrt_depth": lambda p, h, f, layer, L: h + f(rms(h, p.norm.weight)) / (2 * L) ** 0.5,
    "completep": lambda p, h, f, layer, L: h + f(rms(h, p.norm.weight)) / L,
    "rezero(share=site)": lambda p, h, f, layer, L: h + p.a * f(h),
    "rezero(norm=pre,share=site)": lambda p, h, f, layer, L: h + p.a * f(rms(h, p.norm.weight)),
    "layerscale(init=0.3)": lambda p, h, f, layer, L: h + p.v * f(rms(h, p.norm.weight)),
    "deepnorm": lambda p, h, f, layer, L: rms((2 * L) ** 0.25 * h + f(h), p.norm.weight),
    "lns": lambda p, h, f, layer, L: h + f(rms(h, p.norm.weight) / (layer + 1) ** 0.5),
    "highway": lambda p, h, f, layer, L: (
        (t := gate(p.transform.weight, p.transform.bias, h)) * f(rms(h, p.norm.weight)) + (1 - t) * h
    ),
    "highway(gate=diagonal,norm=none)": lambda p, h, f, layer, L: (
        (t := gate(p.transform.weight, p.transform.bias, h)) * f(h) + (1 - t) * h
    ),
    "highway(gate=scalar,coupled=false)": lambda p, h, f, layer, L: (
        gate(p.transform.weight, p.transform.bias, h) * f(rms(h, p.norm.weight))
        + gate(p.carry.weight, p.carry.bias, h) * h
    ),
    "gru": lambda p, h, f, layer, L: gru(p.cell, f(h), h),
    "gru(norm=pre)": lambda p, h, f, layer, L: gru(p.cell, f(rms(h, p.norm.weight)), h),
}
ENDS_WITHOUT_NORM = ("post", "deepnorm")


def build(residual, depth):
    torch.manual_seed(3)
    shape = {"vocab_size": 31, "hidden_size": 16, "num_hidden_layers": depth, "num_attention_heads": 2}
    model = ResformerForCausalLM(ResformerConfig(**shape, residual=residual)).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def loop(model, formula, tokens, residual):
    body, depth = model.model, model.config.num_hidden_layers
    h = body.embed_tokens.weight[tokens]
    positions = body.rotary_emb(h, position_ids=torch.arange(tokens.shape[1])[None])
    for layer, block in enumerate(body.layers):

        def attention(x, block=block):
            return block.attention(x, positions, None, None)[0]

        h = formula(block.attention_residual, h, attention, layer, depth)
        h = formula(block.mlp_residual, h, block.mlp, layer, depth)
    if not residual.startswith(ENDS_WITHOUT_NORM):
        h = rms(h, body.norm.weight)
    return h @ body.embed_tokens.weight.T


@pytest.mark.parametrize("depth", [1, 2, 5])
@pytest.mark.parametrize("residual", FORMULAS)
def test_kind_equals_its_formula(residual, depth):
    model = build(residual, depth)
    tokens = torch.randint(31, (2, 9), generator=torch.Generator().manual_seed(0))
    direction = torch.randn(2, 9, 31, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    parameters = dict(model.named_parameters())
    got, expected = model(input_ids=tokens).logits, loop(model, FORMULAS[residual], tokens, residual)
    torch.testing.assert_close(got, expected, atol=1e-10, rtol=1e-10)
    for name, a, b in zip(
        parameters,
        torch.autograd.grad((got * direction).sum(), parameters.values()),
        torch.autograd.grad((expected * direction).sum(), parameters.values()),
        strict=True,
    ):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-7, msg=lambda text, name=name: f"{name}: {text}")


def test_rezero_shares_one_scalar_in_a_block():
    model = build("rezero", 2)
    names = [name for name, _ in model.named_parameters() if name.endswith("residual.a")]
    assert names == ["model.layers.0.attention_residual.a", "model.layers.1.attention_residual.a"]
    tokens = torch.arange(9)[None]

    def formula(p, h, f, layer, depth):
        return h + model.model.layers[layer].attention_residual.a * f(h)

    torch.testing.assert_close(model(input_ids=tokens).logits, loop(model, formula, tokens, "rezero"))
