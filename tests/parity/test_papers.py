"""Where every parameter of a connection starts and what the optimiser is told of it, one row each with its source.

A source is a paper, or official code as file:line at the commit read. "ours" says that there is none. Norms start at 1
everywhere. What a method does to its branch's matrices is in ``BRANCHES``.
"""

import math

import pytest
import torch
from parity_helpers import build, runs

from resformer.model.specification import KINDS

WIDTH, DEPTH = 16, 4
EYE, SQRT = torch.eye, math.sqrt


def normal(std):
    """Drawn: mean 0 and this standard deviation, to four standard errors."""
    return lambda values: (
        abs(values.mean()) < 4 * std / SQRT(values.numel())
        and abs(values.std() / std - 1) < 4 / SQRT(2 * values.numel())
    )


def uniform(bound, mean=0.0):
    return lambda values: (values - mean).abs().max() <= bound and normal(bound / SQRT(3))(values - mean)


def by_block(*values):
    return lambda found, layer: torch.allclose(found, found.new_tensor([values[layer]]))


def starts_apart(values, carry):
    """mHC-lite's biases: the site reads and writes one and the same stream more than the others."""
    read, write, mixing = values.split([4, 4, values.numel() - 8])
    return sorted(read.tolist()) == [-1, -1, -1, 1] and torch.equal(read, write) and mixing.tolist() == carry


laurel_a = torch.zeros(4, WIDTH)
for entry in range(WIDTH):
    laurel_a[entry % 4, entry] = 1 / SQRT(4 * WIDTH)

NANOCHAT = "karpathy/nanochat@92d63d4 nanochat/gpt.py"
RECORD = "KellerJordan/modded-nanogpt@f411b3d records/track_1_short/2026-02-12_ParallelResiduals/451050db"
MUDD = "Caiyun-AI/MUDDFormer@fc067b2"
COLLAPSE = "brain-lab-research/hc-stream-collapse@15d96c4 hyper_conn/mhc_lite.py"
COLLAPSE_MHC = "brain-lab-research/hc-stream-collapse@15d96c4 hyper_conn/mhc.py"
KROM = "wz1119/KromHC@dd2910c hyper_conn/Kromhc.py, class KromHC"
HUNYUAN = "transformers 5.23 modeling_hy_v4.py, HYV4PreTrainedModel._init_weights"
FULL = 1 / SQRT(WIDTH)
ROWS = [
    # what a person writes, parameter, start, factor on the learning rate, on the weight decay, source
    ("rezero", "a", 0.0, 1, 0, "majumderb/rezero@e2c94a8 rezero/transformer/rztx.py:47; arXiv:2003.04887"),
    ("peri(layer_scalar=true)", "scalar", 1.0, 0.01, 0, "transformers 5.23 modeling_gemma4.py:1494; rate ours"),
    ("depth_sandwich(mlp=0.283)", "norm_out.weight", 0.283 / 2, 1, 0, "arXiv:2504.07866 section 2: c / sqrt(L)"),
    ("depth_sandwich(attention=0.432)", "norm_out.weight", 0.432 / 2, 1, 0, "arXiv:2504.07866 section 2"),
    ("admin(learned=true)", "omega", SQRT(9 / math.log(9) - 1), 1, 0,
     "microsoft/admin-torch admin_torch/admin.py, calculate_init of eight residual layers"),
    ("layerscale", "v", 0.1, 1, 0, "arXiv:2103.17239: 0.1 up to 18 blocks (others: test_starts)"),
    ("highway", "transform.bias", -2.0, 1, 0, "arXiv:1505.00387: a negative bias; -2 is ours"),
    ("highway", "transform.weight", normal(FULL), 1, 1, "arXiv:1505.00387: zero-mean; the scale is ours"),
    ("highway(coupled=false)", "carry.bias", 2.0, 1, 0, "ours: the transform gate's, mirrored"),
    ("highway(coupled=false)", "carry.weight", normal(FULL), 1, 1, "as the transform gate's"),
    ("gru", "cell.weight_ih", uniform(FULL), 1, 1, "torch.nn.GRUCell.reset_parameters"),
    ("gru", "cell.weight_hh", uniform(FULL), 1, 1, "torch.nn.GRUCell.reset_parameters"),
    ("gru", "cell.bias_ih", uniform(FULL), 1, 0, "torch.nn.GRUCell.reset_parameters"),
    ("gru", "cell.bias_hh", uniform(FULL), 1, 0, "torch.nn.GRUCell.reset_parameters"),
    ("gtrxl", "b", 2.0, 1, 0, "arXiv:1910.06764: b_g = 2"),
    *(("gtrxl", w, normal(FULL), 1, 1, "ours: fan-in") for w in ("w_r", "u_r", "w_z", "u_z", "w", "u")),
    ("gated", "bias", 0.0, 1, 0, "ours: half open"),
    ("gated(data=true)", "weight", 0.0, 1, 1, "ours"),
    ("projection", "weight", EYE(WIDTH), 1, 0, "ours: the skip; decay would pull it to none"),
    ("laurel", "weights", [-math.log(8) / 2, math.log(8) / 2], 1, 0, "ours: a = 1/9, b = 8/9 at eight sites"),
    ("laurel(rank=4)", "down", laurel_a, 1, 1, "arXiv:2411.07501v4 section 3.3, footnote 2: 1/sqrt(rD) if i mod r = j"),
    ("laurel(rank=4)", "up", 0.0, 1, 1, "arXiv:2411.07501v4 section 3.3: B was always initialized to zero"),
    ("x0_mix", "a", 1.0, 0.01, 0, f"{NANOCHAT}:182; rates :442-443. It decays a by 0.05, we do not"),
    ("x0_mix", "b", 0.0, 1, 0, f"{NANOCHAT}:183; rates :443"),
    ("x0_mix(init=nanochat)", "a", by_block(1.15, 1.15 - 0.1 / 3, 1.15 - 0.2 / 3, 1.05), 0.01, 0, f"{NANOCHAT}:238"),
    ("x0_mix(init=nanochat)", "b", by_block(0.2, 0.15, 0.1, 0.05), 1, 0, f"{NANOCHAT}:241"),
    ("x0_mix(backout=true)", "w", 0.2, 1, 0, f"{NANOCHAT}:245"),
    ("concat", "reader.weight", None, 1, 1, "ours: fan-in"),
    ("concat", "grow.weight", normal(FULL), 1, 1, "ours: fan-in"),
    ("concat", "exit_reader.weight", None, 1, 1, "ours: fan-in"),
    ("denseformer", "a", lambda values, layer: values.tolist() == [0.0] * (layer + 1) + [1.0], 1, 0,
     "epfml/DenseFormer@c99a623 denseformer/denseformer.py:42-43; theirs decays them, as any Linear"),
    ("mudd", "sums.a", lambda values: (values == EYE(values.shape[1])[-1]).all() and len(values) in (1, 4), 1, 0,
     f"{MUDD} jax/MaxText/layers/llama2.py:123-130; theirs decays it"),
    ("mudd", "sums.w_1", normal(FULL), 1, 1, f"{MUDD} jax/MaxText/layers/llama2.py:107-114, fan-in"),
    ("mudd", "sums.w_2", 0.0, 1, 1, f"{MUDD} jax/MaxText/layers/llama2.py:117-122"),
    ("attn_res", "attend.query", 0.0, 1, 0, "arXiv:2603.15031 section 5: must be initialized to zero"),
    ("attn_res(roles=value)", "attend.query", 0.0, 1, 0, "arXiv:2608.01075, abstract: tied, it is attention residuals"),
    ("attn_res(roles=separate)", "attend.query", 0.0, 1, 0, "transformers 5.23 modeling_inkling2.py:737"),
    ("attn_res(routing=add)", "attend.query", 0.0, 1, 0, "ours, as attn_res; wdlctc/delta-attention-residuals-code"
     "@fc11c3e draws it with 0.02 and says 0"),
    ("attn_res", "attend_out.query", 0.0, 1, 0, "arXiv:2603.15031 section 5"),
    ("unet", "w", 1.0, 1, 0, "KellerJordan/modded-nanogpt @f411b3d record of 2024-11-10_UNetDoubleLr, c87bb826:244"),
    ("unet(mode=concat)", "project.weight", EYE(WIDTH, 2 * WIDTH), 1, 0, "ours: [I, 0]; decay would pull it to none"),
    ("unet(mode=concat)", "project.bias", 0.0, 1, 0, "ours"),
    ("two_lane", "r", SQRT(1.1), 5, 0, f"{RECORD}:1135, rate :1622"),
    ("two_lane", "p", lambda values, layer: values.tolist() in ([1.0, 1.5], [1.0, 1.0]), 1, 0,
     f"{RECORD}:1121-1125, rate :1619"),
    ("hyper", "alpha", None, 1, 0, "arXiv:2409.19606 equation 14 (held in test_packages); section 4: no decay"),
    ("hyper", "beta", 1.0, 1, 0, "arXiv:2409.19606 equation 14; section 4: no decay of the static part"),
    ("hyper", "alpha_weight", 0.0, 1, 1, "arXiv:2409.19606: from 0; section 4: the dynamic part decays"),
    ("hyper", "beta_weight", 0.0, 1, 1, "arXiv:2409.19606: from 0; section 4"),
    ("hyper", "alpha_scale", 0.01, 1, 0, "arXiv:2409.19606, its pseudocode"),
    ("hyper", "beta_scale", 0.01, 1, 0, "arXiv:2409.19606, its pseudocode"),
    ("frac", "alpha", torch.cat([EYE(4), EYE(4)], 1), 1, 0, "arXiv:2503.14125: identities"),
    ("frac", "beta", 1.0, 1, 0, "arXiv:2503.14125"),
    ("frac", "alpha_weight", 0.0, 1, 1, "arXiv:2503.14125, as hyper-connections"),
    ("frac", "beta_weight", 0.0, 1, 1, "arXiv:2503.14125, as hyper-connections"),
    ("frac", "alpha_scale", 0.01, 1, 0, "arXiv:2503.14125, as hyper-connections"),
    ("frac", "beta_scale", 0.01, 1, 0, "arXiv:2503.14125, as hyper-connections"),
    ("mhc", "weight", normal(0.02), 1, 1, "transformers 5.23 modeling_deepseek_v4.py:1290"),
    ("mhc", "bias", 0.0, 1, 0, "transformers 5.23 modeling_deepseek_v4.py:1291; the paper names none"),
    ("mhc", "scale", 0.01, 1, 0, "arXiv:2512.24880 appendix A.1: gating factors 0.01"),
    ("mhc(head=learned)", "head_weight", normal(0.02), 1, 1, "as weight"),
    ("mhc(head=learned)", "head_bias", 0.0, 1, 0, "as bias"),
    ("mhc(head=learned)", "head_scale", 0.01, 1, 0, "as scale"),
    ("mhc(entry=scaled)", "entry_scale", uniform(SQRT(6 / (4 + WIDTH)), mean=0.6), 1, 1,
     f"{COLLAPSE}, class StreamExpandLSS; theirs decays it, as any matrix"),
    ("mhc(apart=true)", "weight", 0.0, 1, 1, f"{COLLAPSE_MHC}, class ManifoldConstrainedHyperConnections"),
    ("mhc(apart=true)", "bias", lambda values: starts_apart(values, (8 * EYE(4) - 8).flatten().tolist()), 1, 0,
     f"{COLLAPSE_MHC}, class ManifoldConstrainedHyperConnections"),
    ("mhc(variant=identity)", "weight", normal(0.02), 1, 1, HUNYUAN),
    ("mhc(variant=identity)", "bias", [-math.log(3)] * 4 + [0.0] * 4, 1, 0, HUNYUAN),
    ("mhc(variant=identity)", "scale", 0.01, 1, 0, HUNYUAN),
    ("mhc(variant=identity, head=learned)", "head_bias", -math.log(3), 1, 0, HUNYUAN),
    ("mhc(variant=lite)", "weight", 0.0, 1, 1, f"{COLLAPSE}, class MHCLite: its dynamic functions"),
    ("mhc(variant=lite)", "bias", lambda values: starts_apart(values, [0.0] + [-8.0] * 23), 1, 0,
     f"{COLLAPSE}, class MHCLite: 1 for one stream and -1 for the others, 0 for the identity and -8 for the rest"),
    ("mhc(variant=lite)", "scale", 0.01, 1, 0, f"{COLLAPSE}, class MHCLite"),
    ("mhc(variant=kronecker)", "weight", 0.0, 1, 1, KROM),
    ("mhc(variant=kronecker)", "bias", lambda values: starts_apart(values, [0.0, -8.0] * 2), 1, 0, KROM),
    ("mhc(variant=kronecker)", "scale", 0.01, 1, 0, KROM),
    ("mhc(variant=orthogonal)", "weight", normal(0.02), 1, 1, "as mhc's; the paper could not be read"),
    ("mhc(variant=orthogonal)", "bias", 0.0, 1, 0, "as mhc's: logits of 0 carry the streams as they are"),
    ("scaled(learned=true, skip=0.9)", "a", 0.9, 0.01, 0, f"an option; rate as {NANOCHAT}:442"),
    ("scaled(learned=true, branch=0.3)", "b", 0.3, 1, 0, "an option"),
    ("pre(gpas=true)", "gpas.a", 0.0, 1, 0, "dandingsky/GPAS@3198068 peft_pretraining/modeling_llama.py:262"),
]  # fmt: skip


def places(residual):
    model = build(residual, DEPTH, noise=0.0)
    hints = model.optimizer_hints()
    paths = {id(parameter): path for path, parameter in model.named_parameters()}
    for run in runs(model):
        for place in run.places:
            yield place, {name: hints[paths[id(parameter)]] for name, parameter in place.own.items()}


@pytest.mark.parametrize("residual, name, start, learning_rate, weight_decay, source", ROWS)
def test_a_parameter_starts_and_learns_as_its_source_says(residual, name, start, learning_rate, weight_decay, source):
    found = [(place, hints) for place, hints in places(residual) if name in place.own]
    assert found and source
    for place, hints in found:
        values = place[name].detach()
        if callable(start):
            arguments = start.__code__.co_argcount
            assert start(*(values, place.layer)[:arguments]), values
        elif start is not None:
            expected = torch.as_tensor(start, dtype=values.dtype).expand(values.shape)
            torch.testing.assert_close(values, expected, atol=0, rtol=1e-7)
        assert hints[name].learning_rate_multiplier == pytest.approx(learning_rate)
        assert hints[name].weight_decay_multiplier == weight_decay


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"two_norms"}))
def test_every_parameter_of_every_kind_has_its_row(kind):
    """By default options; whatever a norm owns starts at 1."""
    rows = {name for residual, name, *_ in ROWS if residual.split("(")[0] == kind}
    for place, _ in places(kind):
        for name, parameter in place.own.items():
            if "norm" in name and name not in rows:
                assert ((parameter == 1) | (parameter == 0)).all(), name
            else:
                assert name in rows, f"{kind}.{name} has no row with its source"


BRANCHES = {
    # gain on Xavier of q and k, gain of the other matrices, source
    "deepnorm": (1.0, (8 * DEPTH) ** -0.25, "arXiv:2203.00555 figure 2; microsoft/torchscale architecture/decoder.py"),
    "admin": (
        1.0,
        1.0,
        "LiyuanLucasLiu/Transformer-Clinic@70f72b7 fairseq/modules/multihead_attention.py:78, here without gains",
    ),
    "sub_ln": (1.0, SQRT(math.log(2 * DEPTH)), "arXiv:2210.06423 figure 2; torchscale architecture/decoder.py"),
    "b2t": (DEPTH**-0.5, DEPTH**-0.5, "takase/b2t_connection@c8e2ad4 fairseq/modules/transformer_layer.py:401-405"),
}


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"two_norms"}))
def test_branches_start_by_the_method_or_by_the_model(kind):
    """Kinds that say nothing of their branch leave it to the model's own scheme, bit by bit."""
    shape = {"hidden_size": 64, "intermediate_size": 96, "initialization": "normal"}
    model, plain = build(kind, DEPTH, noise=0.0, **shape), build("pre", DEPTH, noise=0.0, **shape)
    usual = dict(plain.named_parameters())
    for path, parameter in model.named_parameters():
        if "_proj" not in path:
            continue
        if kind not in BRANCHES:
            assert torch.equal(parameter, usual[path]), path
            continue
        queries, others, _ = BRANCHES[kind]
        gain = queries if "q_proj" in path or "k_proj" in path else others
        assert parameter.std().item() == pytest.approx(gain * SQRT(2 / sum(parameter.shape)), rel=0.05), path
