"""Small models of every kind."""

from resformer.checks import VOCABULARY, Subject, tokens
from resformer.model.specification import KINDS

__all__ = ["ALL", "BLOCKS", "EVERY_KIND", "MIXES", "OPTIONS", "VOCABULARY", "build", "subject", "tokens"]

EVERY_KIND = sorted(set(KINDS) - {"two_norms"})
OPTIONS = [
    "mix_ln(alpha=0.5)",
    "peri(layer_scalar=true, embedding_norm=true)",
    "admin(learned=true)",
    "prores(schedule=reverse, norm=post)",
    "prores(schedule=stagewise_L, norm=sandwich)",
    "prores(norm=deepnorm)",
    "prores(norm=lns, schedule=linear_square)",
    "scaled(skip=0.9, branch=1.1, learned=true, per=vector)",
    "highway(coupled=false, gate=diagonal)",
    "gtrxl(gate=input)",
    "gtrxl(gate=output)",
    "gtrxl(gate=highway)",
    "gtrxl(gate=sigtanh)",
    "gated(data=true, gate=scalar)",
    "laurel(mode=rw, bound=sigmoid)",
    "laurel(mode=lr, rank=3)",
    "x0_mix(init=nanochat, backout=true)",
    "concat(growth=32, bottleneck=8)",
    "denseformer(dilation=2, period=2)",
    "attn_res(block=3)",
    "attn_res(heads=4, roles=value)",
    "attn_res(roles=separate)",
    "attn_res(routing=add)",
    "unet(mode=concat)",
    "unet(weight=fixed, init=0.5)",
    "hyper(dynamic=false, n=3, scale_output=true)",
    "frac(m=2, dynamic=false)",
    "mhc(variant=paper, n=2)",
    "mhc(head=learned, iters=3)",
    "mhc(variant=identity, n=3, entry=scaled)",
    "mhc(variant=lite)",
    "mhc(variant=kronecker, n=6, apart=false)",
    "mhc(variant=orthogonal, n=3)",
    "pre(gpas=true)",
    "pre(drop_path=0.3)",
]
MIXES = [
    "post*1,highway*1,deepnorm*1,pre*rest",
    ["pre", "gru", {"attention": "peri", "mlp": "rezero"}, "lns"],
    {"attention": "layerscale(init=0.5)*1,plain*rest", "mlp": "res_post"},
    "hyper(n=2)*2,attn_res*1,siamese*1",
    "unet*2,concat*1,residual_dual*1",
    {"attention": "mhc", "mlp": "attn_res"},
]
BLOCKS = [
    ("two_norms", {"parallel_block": True}),
    ("hyper", {"parallel_block": True}),
    ("unet", {"parallel_block": True}),
    ("pre*2,projection*1,hyper*1", {"hidden_size": "32*2,48*2", "tie_word_embeddings": False}),
    ({"attention": "scaled(norm=none)", "mlp": "norm_add"}, {"qkv_norm": True}),
    ("pre", {"value_residual": "constant"}),
    ("hyper(n=2)", {"value_residual": "learned", "parallel_block": True}),
    ("pre", {"value_residual": "svformer", "norm": "layernorm"}),
    ("sub_ln", {"norm": "dyt", "gated_mlp": False}),
]
ALL = [*EVERY_KIND, *OPTIONS, *MIXES, *BLOCKS]


def subject(residual="pre", **options) -> Subject:
    """``residual``, or a pair of it and other keys of the configuration."""
    residual, more = residual if isinstance(residual, tuple) else (residual, {})
    return Subject(residual, more | options)


def build(residual="pre", seed: int = 0, **options):
    """Four blocks, 32 wide, grouped queries; in eval mode, and away from special starts such as all zeros."""
    return subject(residual, **options).build(seed=seed)
