"""Where kinds start: options that say so, branches by depth, equality with ``pre``. Defaults and their sources:
``test_papers.py``.
"""

import math

import pytest
import torch
from parity_helpers import assert_near, build, runs, some_tokens

OTHER_BIAS = 1.0  # of GTrXL's gates but the GRU


def places(residual, depth=4, **options):
    model = build(residual, depth, noise=0.0, **options)
    return [place for run in runs(model) for place in run.places], model


def assert_everywhere(residual, name, value, depth=4, **options):
    found = [place[name] for place in places(residual, depth, **options)[0] if name in place.own]
    assert found
    for parameter in found:
        torch.testing.assert_close(parameter.float(), torch.as_tensor(value).float().expand(parameter.shape))


@pytest.mark.parametrize("residual, name, value", [
    ("rezero(norm=pre, share=site)", "a", 0.0),
    ("layerscale(init=0.02)", "v", 0.02),
    ("highway(bias=-1.0, coupled=false)", "transform.bias", -1.0),
    ("gtrxl(gate=output)", "b", OTHER_BIAS),
    ("gtrxl(gate=highway)", "b", OTHER_BIAS),
    ("gtrxl(gate=sigtanh)", "b", OTHER_BIAS),
    ("gtrxl(bias=3.0)", "b", 3.0),
    ("gated(init=0.2)", "bias", math.log(0.2 / 0.8)),
    ("gated(init=0.2, data=true)", "bias", math.log(0.2 / 0.8)),
    ("laurel(bound=sigmoid, init=0.8)", "weights", [-math.log(4), math.log(4)]),
    ("unet(init=0.4)", "w", 0.4),
])  # fmt: skip
def test_own_parameters(residual, name, value):
    assert_everywhere(residual, name, value)


@pytest.mark.parametrize("depth, value", [(1, 0.1), (18, 0.1), (19, 1e-5), (24, 1e-5), (25, 1e-6), (36, 1e-6)])
def test_layerscale_starts_by_depth(depth, value):
    assert_everywhere("layerscale", "v", value, depth)


def test_projection_between_widths_is_orthogonal():
    for narrow, wide in ((16, 24), (24, 16)):
        found, _ = places(["pre", "projection"], 2, hidden_size=[narrow, wide], tie_word_embeddings=False)
        weight = found[2]["weight"]
        assert weight.shape == (wide, narrow)
        product = weight.T @ weight if wide > narrow else weight @ weight.T
        torch.testing.assert_close(product, torch.eye(16).to(product), atol=1e-6, rtol=0)


def spread(weight):
    return weight.std().item()


BIG = {"hidden_size": 96, "intermediate_size": 128}


def matrices(model):
    for block in model.model.layers:
        attention, mlp = block.attention, block.mlp
        yield {
            "q": attention.q_proj.weight, "k": attention.k_proj.weight, "v": attention.v_proj.weight,
            "o": attention.o_proj.weight, "gate": mlp.gate_proj.weight, "up": mlp.up_proj.weight,
            "down": mlp.down_proj.weight,
        }  # fmt: skip


def assert_gains(residual, gains, base, depth=6, **options):
    """Standard deviations of the matrices, against ``gains[name] * base(matrix)``."""
    for found in matrices(build(residual, depth, noise=0.0, **BIG, **options)):
        for name, weight in found.items():
            assert spread(weight) == pytest.approx(gains(name) * base(weight), rel=0.05), name


def xavier(weight):
    return math.sqrt(2 / sum(weight.shape))


@pytest.mark.parametrize("depth", [2, 12])
def test_deepnorm_scales_values_outputs_and_mlps_down(depth):
    beta = (8 * depth) ** -0.25
    assert beta < 1
    assert_gains("deepnorm", lambda name: 1 if name in "qk" else beta, xavier, depth)
    assert_gains("deepnorm(beta=0.5)", lambda name: 1 if name in "qk" else 0.5, xavier, depth)


@pytest.mark.parametrize("depth", [2, 12])
def test_sub_ln_scales_values_outputs_and_mlps_up(depth):
    gain = math.sqrt(math.log(2 * depth))
    assert gain > 1
    for found in matrices(build("sub_ln", depth, noise=0.0, **BIG)):
        for name in ("o", "gate", "up", "down"):
            assert spread(found[name]) == pytest.approx(gain * xavier(found[name]), rel=0.05), name
        assert spread(found["v"]) / spread(found["q"]) == pytest.approx(gain, rel=0.05)
        assert spread(found["k"]) / spread(found["q"]) == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize("depth", [2, 12])
def test_b2t_scales_all_matrices_of_a_layer(depth):
    """takase/b2t_connection, ``rescaling_init`` (fairseq/modules/transformer_layer.py:401): times
    ``layer_num ** -0.5``, here from Xavier with gain 1 throughout; whatever the model's own scheme is."""
    for scheme in ("normal", "depth_scaled", "xavier"):
        assert_gains("b2t", lambda name: depth**-0.5, xavier, depth, initialization=scheme)


@pytest.mark.parametrize("depth", [2, 12])
def test_gpt2_scales_what_adds_to_the_stream(depth):
    for kind in ("pre", "scaled", "hyper"):
        assert_gains(kind, lambda name: (2 * depth) ** -0.5 if name in ("o", "down") else 1, lambda weight: 0.02, depth,
                     initialization="depth_scaled")  # fmt: skip


@pytest.mark.parametrize("kind", ["lns", "pre", "keel", "momentum"])
def test_plain_normal_elsewhere(kind):
    """For lns that is the method: a depth-scaled start would undo it."""
    assert_gains(kind, lambda name: 1, lambda weight: 0.02)


def test_hyper_may_scale_outputs_by_the_root_of_the_streams():
    """Section 4, Implementation: by a factor of sqrt(n), so that the summed streams keep the spread of one stream."""
    ratio = {}
    for scale in (False, True):
        for found in matrices(build({"kind": "hyper", "n": 4, "scale_output": scale}, 3, noise=0.0, **BIG)):
            ratio.setdefault(scale, []).append({name: spread(weight) for name, weight in found.items()})
    for off, on in zip(ratio[False], ratio[True], strict=True):
        changed = {name for name in off if on[name] != pytest.approx(off[name], rel=1e-6)}
        assert changed == {"o", "down"}
        assert {round(on[name] / off[name], 6) for name in changed} == {0.5}


def test_what_keeps_the_spread_of_the_output():
    """Root mean square before the final norm against ``pre``'s, with branches as loud as the embedding: the mean that
    we take has it without a factor; the paper's sum comes nearer to it by division, and no factor reaches it."""
    loud = {"noise": 0.0, "initializer_range": 0.3, "embedding_initializer_range": 0.3, **BIG}
    tokens = some_tokens(4, 16)

    def spread_of(residual):
        model, seen = build(residual, 6, **loud), []
        model.model.norm.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
        model(input_ids=tokens)
        return seen[0].square().mean().sqrt().item()

    pre, off, divided = (spread_of(residual) for residual in ("pre", "hyper", "hyper(scale_output=true)"))
    assert off == pytest.approx(pre, rel=1e-9)
    assert pre < 4 * divided < 4 * off


EQUAL_TO_PRE = [
    "hyper", "hyper(dynamic=false)", "hyper(n=1)", "hyper(n=3)", "frac", "frac(m=2, dynamic=false)",
    "mhc(eps=1e-20)", "mhc(variant=paper)", "mhc(variant=identity, eps=1e-20)",
    "mhc(variant=orthogonal)", "mudd", "attn_res(routing=add)", "attn_res(heads=4)", "attn_res(roles=value)",
    "attn_res(roles=separate)", "attn_res", "attn_res(block=2)", "attn_res(block=3)", "denseformer",
    "denseformer(dilation=2, period=2)", "momentum(gamma=0.0)", "pre(gpas=true)", "pre(drop_path=0.5)",
    "laurel(mode=lr)", "x0_mix", "projection", "scaled", "scaled(learned=true)", "granite(multiplier=1.0)",
    "layerscale(init=1.0)", "unet(init=0.0)", "unet(weight=fixed, init=0.0)", "unet(mode=concat)",
    "completep(base_depth=5)",
]  # fmt: skip


@pytest.mark.parametrize("residual", EQUAL_TO_PRE)
def test_equal_to_pre_at_the_start(residual):
    """Logits to 1e-10 in float64. mHC's maps have logits 0 here: its small random projection is what breaks it."""
    exact = {"norm_eps": 1e-20, "noise": 0.0}
    model, plain, tokens = build(residual, 5, **exact), build("pre", 5, **exact), some_tokens()
    for name, parameter in model.named_parameters():
        if residual.startswith("mhc") and name.endswith("_residual.weight"):
            torch.nn.init.zeros_(parameter)
    assert_near(model(input_ids=tokens).logits, plain(input_ids=tokens).logits, "logits", relative=1e-10)


ALIKE = ["", "variant=identity", "variant=orthogonal", "entry=scaled"]
APART = ["apart=true", "variant=lite", "variant=kronecker", "variant=identity, apart=true", "entry=scaled, apart=true",
         "entry=scaled, variant=identity"]  # fmt: skip


@pytest.mark.parametrize("options", ALIKE + APART)
def test_which_starts_of_mhc_tell_its_streams_apart(options):
    """The spread of four streams before the third of six blocks, against the size of their mean. A scaled entry alone
    does not: with all logits 0 the first site averages the streams."""
    loud = {"noise": 0.0, "embedding_initializer_range": 1.0, "initializer_range": 0.1}
    model, seen = build(f"mhc({options})", 6, **loud), []
    model.model.layers[2].attention_residual.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model(input_ids=some_tokens(4, 16))
    spread = (seen[0].std(-2).square().mean() / seen[0].mean(-2).square().mean()).sqrt().item()
    assert spread < 0.01 if options in ALIKE else spread > 0.04, spread


@pytest.mark.parametrize("residual", [
    "rezero", "rezero(norm=pre, share=site)", "layerscale(init=0.0)", "prores", "prores(norm=lns)",
    "prores(schedule=reverse, norm=sandwich)", "prores(schedule=equal)", "prores(schedule=stagewise_0)",
])  # fmt: skip
def test_identity_at_the_start(residual):
    model, tokens = build(residual, 3, noise=0.0), some_tokens()
    h = model.model.embed_tokens(tokens)
    assert_near(model.model(input_ids=tokens).last_hidden_state, model.model.norm(h), "hidden states")
