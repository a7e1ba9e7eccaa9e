"""What a person writes under ``residual``, and what they are told when it cannot be."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from resformer import ResformerConfig, Residual
from resformer.model.specification import KINDS, PRESETS, Connection, ResidualError, place, resolve


def kinds(residual, layers: int) -> list[str]:
    return [f"{block['attention'].kind}/{block['mlp'].kind}" for block in resolve(residual, layers)]


def test_all_forms():
    assert kinds("pre", 2) == ["pre/pre"] * 2
    assert kinds("post*1,pre*rest", 3) == ["post/post", "pre/pre", "pre/pre"]
    assert kinds("pre*rest , post*2", 3) == ["pre/pre", "post/post", "post/post"]
    assert kinds("pre,post", 2) == ["pre/pre", "post/post"]
    assert kinds({"attention": "pre*1,post*1", "mlp": "peri"}, 2) == ["pre/peri", "post/peri"]
    assert kinds(["pre", {"attention": "lns", "mlp": {"kind": "rezero"}}], 2) == ["pre/pre", "lns/rezero"]
    assert kinds("mix_ln(alpha=0.3)", 10) == ["post/post"] * 3 + ["pre/pre"] * 7
    assert kinds("lns*2,mix_ln*rest", 10) == ["lns/lns"] * 2 + ["post/post"] * 2 + ["pre/pre"] * 6
    options = [{"kind": "layerscale", "init": 1e-4}, {"kind": "layerscale", "init": "1e-4"}, "layerscale(init=1e-4)"]
    for written in options:
        assert resolve(written, 1)[0]["mlp"] == Connection("layerscale", {"init": 1e-4})
    assert resolve("scaled(skip=0.9, learned=true, per=vector, drop_path=0.1)", 1)[0]["mlp"].options == {
        "skip": 0.9, "learned": True, "per": "vector", "drop_path": 0.1,
    }  # fmt: skip
    assert resolve(yaml.safe_load("{kind: rezero, norm: none}"), 1)[0]["mlp"].options == {"norm": "none"}


counts = st.lists(st.tuples(st.sampled_from(["pre", "post", "hyper(n=2)"]), st.integers(0, 5)), min_size=1, max_size=5)


@given(counts, st.integers(0, 30))
def test_counts_add_up_or_are_refused(parts, layers):
    pattern, total = ",".join(f"{kind}*{count}" for kind, count in parts), sum(count for _, count in parts)
    if total == layers:
        assert kinds(pattern, layers) == [f"{k.split('(')[0]}/{k.split('(')[0]}" for k, n in parts for _ in range(n)]
    else:
        with pytest.raises(ResidualError, match=rf"add up to {total}, num_hidden_layers is {layers}"):
            resolve(pattern, layers)
    if layers >= total:
        filled = kinds(pattern + ",lns*rest", layers)
        assert filled[total:] == ["lns/lns"] * (layers - total)


@given(st.lists(st.sampled_from(["pre", "post", "hyper"]), min_size=1, max_size=8))
def test_segments_are_runs_of_equal_connections(written):
    sites = [site for block in place(resolve(written, len(written))) for site in block.values()]
    assert [site.index for site in sites] == list(range(2 * len(written)))
    for site in sites:
        segment = written[site.segment_start // 2 : site.segment_stop // 2]
        assert set(segment) == {written[site.layer]}
        before, after = site.segment_start // 2 - 1, site.segment_stop // 2
        assert before < 0 or written[before] != written[site.layer]
        assert after == len(written) or written[after] != written[site.layer]


@given(st.sampled_from(sorted(KINDS)), st.integers(1, 6), st.floats(0.01, 0.9))
def test_any_one_kind_round_trips_through_its_config(kind, layers, rate):
    parallel = kind == "two_norms"
    if kind in ("unet", "b2t"):
        layers += 1
    residual = f"{kind}(drop_path={rate})*{layers}"
    config = ResformerConfig(num_hidden_layers=layers, residual=residual, parallel_block=parallel, hidden_size=16)
    again = ResformerConfig(**config.to_dict())
    assert again.residual == residual
    assert again.connections() == config.connections()


# What is written, and what the one line must name: the thing, what is allowed, the nearest match.
REFUSED = {
    "pree": ["'pree'", "did you mean 'pre'", "deepnorm"],
    "layerscale(ini=1)": ["'ini'", "did you mean 'init'"],
    "pre(norm=1)": ["'pre' has no option 'norm'", "drop_path"],
    "layerscale(init=large)": ["'init'", "'large'", "float"],
    "highway(gate=fulll)": ["'gate'", "'full'", "'diagonal'", "'scalar'"],
    "post*3,pre*2": ["add up to 5", "num_hidden_layers is 4", "rest"],
    "post*rest,pre*rest": ["'rest' 2 times"],
    "post*many": ["'many'", "number or 'rest'"],
    "pre(": ["cannot read"],
    "hyper(n=0)": ["layer 0, attention", "n is 0", "at least 1"],
    "pre*2,mhc(n=2, iters=0)*2": ["layer 2, attention", "iters is 0"],
    "frac(m=3)": ["layer 0", "m is 3", "does not divide hidden_size 32"],
    "momentum(gamma=1.0)": ["gamma is 1.0", "[0, 1)"],
    "pre(drop_path=1.5)": ["layer 0, attention", "drop_path is 1.5", "[0, 1)"],
    "hyper(gpas=true)": ["layer 0, attention", "gpas", "one stream"],
    "unet*1,pre*3": ["layer 0, attention", "at least two"],
    "attn_res(block=0)": ["block is 0"],
    "concat(growth=99)": ["growth is 99", "hidden_size 32"],
    "laurel(rank=0)": ["rank is 0"],
    "laurel(init=1.0)": ["layer 0, attention", "init is 1.0", "(0, 1)"],
    "gated(init=1.0)": ["init is 1.0", "(0, 1)"],
    "denseformer(period=0)": ["period is 0"],
    "pre*1,layerscale(init=nan)*rest": ["layer 1, attention", "init is nan", "at least 0"],
    "unet(init=inf)": ["layer 0, attention", "init is inf", "finite"],
    "keel(alpha=-1)": ["layer 0, attention", "alpha is -1", "greater than 0"],
    "deepnorm(beta=0)": ["layer 0, attention", "beta is 0", "greater than 0"],
    "completep(base_depth=0)": ["layer 0, attention", "base_depth is 0", "at least 1"],
    "attn_res(routing=add, block=2)": ["block is 2", "block 1"],
    "attn_res(heads=3)": ["heads is 3", "hidden_size 32"],
    "mhc(variant=lite, n=7)": ["n is 7", "6 at most"],
    "mhc(variant=kronecker, n=14)": ["n is 14", "permutations of 7 streams", "6 at most"],
    "mhc(eps=-1.0)": ["layer 0, attention", "eps is -1", "at least 0"],
    "hyper(n=2, n=3)": ["'n' twice"],
    "mix_ln(alpha=2)": ["alpha is 2", "[0, 1]"],
    "mix_ln(beta=2)": ["'beta'", "alpha"],
    "two_norms": ["parallel_block"],
    "no_such_module:Thing": ["no_such_module", "PYTHONPATH"],
    "math:sqrt": ["not a subclass"],
    ":Thing": ["cannot import ':Thing'"],
    "resformer.model.residual:Residual": ["not a subclass"],
}


@pytest.mark.parametrize("residual", REFUSED)
def test_refusals_are_one_line_that_helps(residual):
    with pytest.raises(ValueError) as error:
        ResformerConfig(num_hidden_layers=4, hidden_size=32, residual=residual)
    message = str(error.value)
    assert "\n" not in message
    for part in REFUSED[residual]:
        assert part in message, message


REFUSED_OTHERWISE = [
    ({"residual": ["pre"] * 3}, ["3 entries", "num_hidden_layers is 4"]),
    ({"residual": {"attention": "pre"}}, ["'mlp'", "both sublayers"]),
    ({"residual": {"attention": "pre", "mpl": "pre"}}, ["'mpl'", "did you mean 'mlp'"]),
    ({"residual": {"attention": "unet", "mlp": "pre"}}, ["layer 0, attention", "whole blocks"]),
    ({"residual": 3}, ["cannot read 3"]),
    ({"residual": ["pre", "pre", "hyper(m=2)", "pre"]}, ["layer 2", "'hyper' has no option 'm'"]),
    ({"residual": {"attention": "pre", "mlp": "layerscale(init=big)"}}, ["mlp", "'init'", "'big'"]),
    ({"residual": ["pre", {"attention": "pre", "mlp": "prr"}, "pre", "pre"]}, ["layer 1, mlp", "'prr'"]),
    ({"residual": {"kind": ["pre"]}}, ["must be a name"]),
    ({"residual": {"attention": "pre", "mlp": "post"}, "parallel_block": True}, ["layer 0", "share one connection"]),
    ({"hidden_size": "32*2,48*2", "tie_word_embeddings": False}, ["layer 2, attention", "from 32 to 48", "projection"]),
    ({"hidden_size": "32*2,48*2", "residual": "projection"}, ["tie_word_embeddings"]),
    ({"hidden_size": "32*2,48*1"}, ["describes 3 blocks", "num_hidden_layers is 4"]),
    ({"hidden_size": "wide"}, ["cannot read 'wide'"]),
    ({"hidden_size": 0}, ["at least 1"]),
    ({"qkv_norm": True, "qk_norm": "head"}, ["qkv_norm", "'head'"]),
    ({"num_atention_heads": 2}, ["'num_atention_heads'", "did you mean 'num_attention_heads'"]),
    ({"hidden_size": 30}, ["30", "num_attention_heads 4"]),
]


@pytest.mark.parametrize("options, parts", REFUSED_OTHERWISE, ids=lambda x: str(x)[:40])
def test_other_refusals(options, parts):
    with pytest.raises(ValueError) as error:
        ResformerConfig(**({"num_hidden_layers": 4, "hidden_size": 32} | options))
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert part in message, message


def test_presets_and_kinds_do_not_collide():
    assert not set(PRESETS) & set(KINDS)


def test_a_start_that_nobody_would_draw_is_refused_when_the_class_is_made():
    with pytest.raises(ValueError, match=r"Old.init_weights would never be called: .*branch_start"):

        class Old(Residual):
            def init_weights(self, branch):
                pass


MIXED = {"attention": "peri", "mlp": "layerscale(init=0.1)"}


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("post*1,{attention: peri, mlp: layerscale(init=0.1)}*2,pre*rest", ["post", MIXED, MIXED, "pre"]),
        ("{attention: peri, mlp: layerscale(init=0.1)}*2, pre*2", [MIXED, MIXED, "pre", "pre"]),
        ("{kind: layerscale, init: 0.1}*rest", ["layerscale(init=0.1)"] * 4),
        ("{attention: peri, mlp: layerscale(init=0.1)}", [MIXED] * 4),
        ("{attention: 'post*1,pre*rest', mlp: pre}", [{"attention": "post", "mlp": "pre"}, "pre", "pre", "pre"]),
        ("[post, {attention: peri, mlp: layerscale(init=0.1)}, pre, pre]", ["post", MIXED, "pre", "pre"]),
    ],
)
def test_a_string_may_hold_mappings(text, meant):
    assert resolve(text, 4) == resolve(meant, 4)


def test_a_mapping_in_a_string_that_cannot_be_read_is_one_line():
    for wrong, named in (("pre*1,{attention: pre}*3", "'mlp'"), ("{attention: pre, mlp: [}*4", "cannot read")):
        with pytest.raises(ValueError, match=named) as error:
            resolve(wrong, 4)
        assert "\n" not in str(error.value)
