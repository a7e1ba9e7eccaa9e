"""What a model starts from: keyed draws, the residual connections' own starts, and who starts as whom."""

import math

import pytest
import torch
from model_helpers import EVERY_KIND, VOCABULARY, tokens

from resformer import ResformerConfig, ResformerForCausalLM
from resformer.checks import CHECKS, Subject

SHAPE = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2}


def fresh(residual="pre", seed: int = 0, **options) -> ResformerForCausalLM:
    torch.manual_seed(seed)
    return ResformerForCausalLM(ResformerConfig(**(SHAPE | options), residual=residual)).eval()


def parameters(model) -> dict[str, torch.Tensor]:
    return {name: p.detach() for name, p in model.named_parameters() if "_residual" not in name}


@pytest.mark.parametrize("residual", sorted(set(EVERY_KIND) - {"deepnorm", "admin", "b2t", "sub_ln"}))
def test_kinds_share_bit_identical_branches(residual):
    """All but those whose method prescribes the branches' start."""
    expected, found = parameters(fresh()), parameters(fresh(residual))
    shared = set(expected) & set(found)
    assert len([name for name in shared if "proj" in name]) == 7 * 4
    assert all(torch.equal(expected[name], found[name]) for name in shared)


def test_depth_and_what_else_was_drawn_change_no_tensor():
    expected = parameters(fresh())
    deep = parameters(fresh(num_hidden_layers=6))
    assert all(torch.equal(expected[name], deep[name]) for name in expected)
    torch.manual_seed(0)
    torch.rand(100)
    again = ResformerForCausalLM(ResformerConfig(**SHAPE))
    assert all(torch.equal(expected[name], p) for name, p in parameters(again).items())


def test_seeds_and_names_differ():
    one, other = parameters(fresh(seed=0)), parameters(fresh(seed=1))
    drawn = [name for name in one if "proj" in name or "embed" in name]
    assert not any(torch.equal(one[name], other[name]) for name in drawn)
    assert not torch.equal(one["model.layers.0.mlp.up_proj.weight"], one["model.layers.1.mlp.up_proj.weight"])


@pytest.mark.parametrize("scheme", ["normal", "depth_scaled", "xavier"])
def test_global_schemes(scheme):
    model = fresh(initialization=scheme, hidden_size=256, num_attention_heads=4, intermediate_size=512)
    block = model.model.layers[0]
    expected = {"normal": (0.02, 0.02), "depth_scaled": (0.02, 0.02 / math.sqrt(8)),
                "xavier": (math.sqrt(2 / 512), math.sqrt(2 / 768))}[scheme]  # fmt: skip
    assert block.attention.q_proj.weight.std().item() == pytest.approx(expected[0], rel=0.02)
    assert block.mlp.down_proj.weight.std().item() == pytest.approx(expected[1], rel=0.02)
    assert model.model.embed_tokens.weight.std().item() == pytest.approx(0.02, rel=0.05)


def residuals(model):
    return [residual for block in model.model.layers for residual in block.residuals]


def test_the_residual_connections_have_the_last_word():
    assert all((r.transform.bias == -2).all() for r in residuals(fresh("highway")))
    assert all((r.b == 2).all() for r in residuals(fresh("gtrxl")))
    assert all((r.v == 0.1).all() for r in residuals(fresh("layerscale", num_hidden_layers=18)))
    assert all((r.v == 1e-5).all() for r in residuals(fresh("layerscale", num_hidden_layers=24)))
    assert all((r.v == 1e-6).all() for r in residuals(fresh("layerscale", num_hidden_layers=25)))
    assert [p.item() for n, p in fresh("rezero").named_parameters() if n.endswith("residual.a")] == [0.0] * 4
    for layer, block in enumerate(fresh("denseformer").model.layers):
        assert block.mlp_residual.a.tolist() == [0.0] * (layer + 1) + [1.0]
    for site, residual in enumerate(residuals(fresh("hyper"))):
        assert residual.alpha[:, 0].tolist() == [float(i == site % 4) for i in range(4)]
        assert torch.equal(residual.alpha[:, 1:], torch.eye(4))
        assert residual.alpha_scale.item() == residual.beta_scale.item() == pytest.approx(0.01)
    for residual in residuals(fresh("mhc")):
        assert residual.scale.tolist() == pytest.approx([0.01] * 3)
        assert residual.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert all((r.attend.query == 0).all() for r in residuals(fresh("attn_res"))[1:])
    nanochat = [r for r in residuals(fresh("x0_mix(init=nanochat)")) if r.mixes]
    assert [r.a.item() for r in nanochat] == pytest.approx([1.15, 1.15 - 0.1 / 3, 1.15 - 0.2 / 3, 1.05])
    assert [r.b.item() for r in nanochat] == pytest.approx([0.2, 0.15, 0.1, 0.05])
    assert all(torch.equal(r.weight, torch.eye(32)) for r in residuals(fresh("projection")))


@pytest.mark.parametrize("kind, gain", [("deepnorm", (8 * 4) ** -0.25), ("sub_ln", math.sqrt(math.log(8)))])
def test_gains_on_the_branches(kind, gain):
    model = fresh(kind, hidden_size=256, num_attention_heads=4, intermediate_size=512)
    for block in model.model.layers:
        for name, linear in [*block.attention.named_children(), *block.mlp.named_children()]:
            if isinstance(linear, torch.nn.Linear):
                xavier = math.sqrt(2 / sum(linear.weight.shape))
                expected = xavier if name in ("q_proj", "k_proj") else xavier * gain
                assert linear.weight.std().item() == pytest.approx(expected, rel=0.02), name


def test_bottom_to_top_shrinks_its_matrices():
    usual, shrunk = parameters(fresh(initialization="xavier")), parameters(fresh("b2t"))
    for name in usual:
        factor = 0.5 if "proj" in name else 1.0  # 1 / sqrt(4 blocks)
        torch.testing.assert_close(shrunk[name], usual[name] * factor) if name in shrunk else None


@pytest.mark.parametrize("residual", [
    "hyper", "hyper(dynamic=false)", "hyper(n=1)", "frac", "frac(m=2, dynamic=false)", "mhc(variant=paper)",
    "mhc(eps=0.0, n=3)", "attn_res", "attn_res(block=3)", "denseformer", "denseformer(dilation=2, period=2)",
    "momentum(gamma=0.0)", "pre(gpas=true)", "laurel(mode=lr)", "unet(init=0.0)", "x0_mix", "projection", "scaled",
    "scaled(learned=true)", "pre*2,hyper*1,mhc(variant=paper)*1", "denseformer*2,unet(init=0.0)*2",
])  # fmt: skip
def test_equal_to_pre_at_the_start(residual):
    """The cards' section 10, in float64, where each branch reads its input through a norm."""
    options = {"norm_eps": 1e-30, "embedding_initializer_range": 1.0, "initializer_range": 0.1}
    expected, model = fresh(**options).double(), fresh(residual, **options).double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("_residual.weight") and "mhc" in residual:
                parameter.zero_()  # all logits 0; their small random start only tells the streams apart
    ids = tokens()
    difference = (model(input_ids=ids).logits - expected(input_ids=ids).logits).abs().max().item()
    assert difference < 1e-10


@pytest.mark.parametrize(
    "residual", ["rezero", "rezero(norm=pre, share=site)", "layerscale(init=0.0)", "scaled(branch=0.0)"]
)
def test_identity_at_the_start(residual):
    model, ids = fresh(residual), tokens()
    assert torch.equal(
        model.model(input_ids=ids, output_hidden_states=True).hidden_states[-2], model.model.embed_tokens(ids)
    )


@pytest.mark.parametrize("residual", ["hyper", "mhc", "frac", "attn_res", "denseformer", "unet", "momentum", "two_lane",
                                      "reversible", "x0_mix", "b2t"])  # fmt: skip
def test_entering_and_leaving_changes_nothing(residual):
    h = torch.randn(2, 3, 32, dtype=torch.float64)
    for connection in residuals(fresh(residual).double()):
        torch.testing.assert_close(connection.exit(connection.enter(h)), h, rtol=1e-15, atol=1e-15)


METHODS = ["deepnorm", "sub_ln", "b2t"]


@pytest.mark.parametrize("kind", METHODS)
def test_the_start_of_a_method_without_its_wiring_and_the_wiring_without_its_start(kind):
    """Bit for bit: the branches of the one stack are those of the other."""
    for wiring, start in (("pre", kind), (kind, "pre"), ("hyper", kind)):
        found = parameters(fresh(f"{wiring}(initialization={start})"))
        expected = parameters(fresh(start))
        matrices = [name for name in expected if "_proj" in name]
        assert len(matrices) == 7 * 4
        assert all(torch.equal(found[name], expected[name]) for name in matrices)


@pytest.mark.parametrize("scheme", ["normal", "depth_scaled", "xavier"])
@pytest.mark.parametrize("kind", ["pre", "deepnorm", "hyper(scale_output=true, {})"])
def test_any_kind_takes_any_scheme_at_its_site(kind, scheme):
    written = kind.format(f"initialization={scheme}") if "{}" in kind else f"{kind}(initialization={scheme})"
    found, expected = parameters(fresh(f"{written}*2,pre*2")), parameters(fresh(initialization=scheme))
    for name in (name for name in expected if "_proj" in name):
        there = expected if ".layers.0." in name or ".layers.1." in name else parameters(fresh())
        assert torch.equal(found[name], there[name]), name


def test_a_crossed_start_is_drawn_after_loading_too():
    for crossed in ("pre(initialization=deepnorm)", "deepnorm(initialization=xavier)"):
        for name in ("starts", "save_and_load"):
            CHECKS[name](Subject(crossed))


def test_an_unknown_initialization_names_the_nearest():
    with pytest.raises(
        ValueError, match=r"layer 0, attention: unknown initialization 'deepnrom' \(did you mean 'deepnorm'"
    ):
        fresh("pre(initialization=deepnrom)")
