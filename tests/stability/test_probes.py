"""The probes against formulas written out, full Jacobians and Hessians of torch.autograd.functional, and NumPy."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from stability_helpers import VOCABULARY, batch, build, by_hand, wide
from torch.autograd.functional import hessian, jacobian
from torch.func import functional_call
from torch.nn.functional import cross_entropy, kl_div
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
)

from resformer import ResformerConfig, ResformerForCausalLM, Residual
from resformer.model.initialization import parameter
from resformer.stability.curvature import (
    critical_learning_rate,
    curvature,
    hessian_operator,
    hessian_trace,
    largest_eigenvalue,
    second_moment,
)
from resformer.stability.landscape import filter_normalised_direction, landscape
from resformer.stability.layouts import loss_of
from resformer.stability.lens import lens
from resformer.stability.lesion import lesion
from resformer.stability.propagation import LeftOut, ladder, propagate, random_batch
from resformer.stability.reuse import reach, reuse


def llama() -> LlamaForCausalLM:
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, **shape)).eval()


def gpt2() -> GPT2LMHeadModel:
    special = {"bos_token_id": 0, "eos_token_id": 0}
    return GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, n_embd=16, n_layer=2, n_head=2, **special)).eval()


class Shutter(Residual):
    """A person's own gated connection: ``t f(h) + (1 - t) h``. Silenced by zeros alone, it would still shrink h."""

    gate_closes = True

    def __init__(self, config, site):
        super().__init__(config, site)
        self.bias = parameter(config.hidden_size, start=-1.0)

    def forward(self, h, f):
        t = torch.sigmoid(self.bias)
        return t * f(h) + (1 - t) * h


class Doubled(Residual):
    """A person's own that says itself what a lesion is: what is lost is the write, and the doubling stays."""

    def forward(self, h, f):
        return 2 * h + f(h)

    def lesioned(self, state, branch):
        return 2 * state


def test_a_lesion_of_one_s_own_class_is_what_the_class_says():
    model, inputs = build(f"{__name__}:Shutter*2,{__name__}:Doubled*1", noise=0.3), batch()
    rows = wide(lesion(model, inputs))
    whole = loss_of(model, inputs).item()
    with torch.no_grad():
        shutter = model.model.layers[1].mlp_residual
        open_at = shutter.bias.clone()
        shutter.bias.fill_(-1e4)  # t = 0: the stream passes as it came
        assert rows[1, "mlp", "lesion_increase"] == pytest.approx(loss_of(model, inputs).item() - whole, abs=1e-6)
        shutter.bias.copy_(open_at)
        model.model.layers[2].mlp.down_proj.weight.zero_()
    assert rows[2, "mlp", "lesion_increase"] == pytest.approx(loss_of(model, inputs).item() - whole, abs=1e-6)
    assert min(abs(rows[1, "mlp", "lesion_increase"]), abs(rows[2, "mlp", "lesion_increase"])) > 1e-4


@pytest.mark.parametrize("kind", ["highway", "gtrxl"])
def test_a_lesion_closes_the_gate(kind):
    model, inputs = build(residual=kind), batch()
    increase = wide(lesion(model, inputs))[1, "mlp", "lesion_increase"]
    whole = loss_of(model, inputs).item()
    connection = model.model.layers[1].mlp_residual
    with torch.no_grad():
        if kind == "highway":
            connection.transform.bias.fill_(-1e4)  # t = 0: all is carried
        else:
            connection.b.fill_(1e4)  # z = sigmoid(... - b) = 0
    assert increase == pytest.approx(loss_of(model, inputs).item() - whole, abs=1e-5)
    assert abs(increase) > 1e-4


def test_lesions_are_the_formula_without_a_branch():
    model, inputs = build(noise=0.3), batch()
    rows = wide(lesion(model, inputs))
    branches = [value for (_, _, metric), value in rows.items() if metric == "lesion_increase"]
    assert rows[-1, "model", "lesion_sum"] == pytest.approx(sum(branches))
    streams, _, _, whole = by_hand(model, inputs)
    for layer in (-1, 0, 1):  # with nothing written above it, the stream after a block is the last one
        logits = model.lm_head(model.model.norm(streams[2 * (layer + 1)]))
        cut = cross_entropy(logits.flatten(0, 1), inputs["shift_labels"].flatten())
        assert rows[layer, "block", "above_increase"] == pytest.approx((cut - whole).item(), abs=1e-5)
    increases = []
    for index in range(6):
        increases.append((by_hand(model, inputs, without=index)[3] - whole).item())
        site = (index // 2, ("attention", "mlp")[index % 2])
        assert rows[*site, "lesion_increase"] == pytest.approx(increases[-1], abs=1e-5)
    assert rows[-1, "model", "useful_share"] == pytest.approx(np.mean([i >= 0.01 for i in increases]))
    x, y = streams[2].double(), streams[4].double()
    cosine = (x * y).sum(-1) / x.norm(dim=-1) / y.norm(dim=-1)
    assert rows[1, "block", "angular_distance"] == pytest.approx((cosine.arccos() / math.pi).mean().item(), rel=1e-4)
    assert rows[1, "block", "block_influence"] == pytest.approx(1 - cosine.mean().item(), abs=1e-5)


@pytest.mark.parametrize(
    "residual", ["pre", "post", "hyper(n=2)", "attn_res", "mhc(head=learned)", "x0_mix(backout=true)"]
)
def test_the_lens_ends_at_the_models_own_loss(residual):
    model, inputs = build(residual), batch()
    rows = wide(lens(model, inputs))
    assert rows[2, "block", "lens_loss"] == pytest.approx(loss_of(model, inputs).item(), rel=1e-5)
    assert rows[2, "block", "lens_kl"] == pytest.approx(0, abs=1e-5)
    assert rows[0, "block", "lens_kl"] > 0


def test_the_lens_in_the_middle_is_norm_and_head_of_the_stream():
    model, inputs = build(final_logit_softcapping=5.0), batch()
    rows = wide(lens(model, inputs))
    streams, _, final, _ = by_hand(model, inputs)
    here, final = (5 * torch.tanh(z / 5) for z in (model.lm_head(model.model.norm(streams[4])), final))
    loss = cross_entropy(here.flatten(0, 1), inputs["shift_labels"].flatten())
    divergence = kl_div(here.log_softmax(-1), final.softmax(-1), reduction="sum") / here[..., 0].numel()
    assert rows[1, "block", "lens_loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert rows[1, "block", "lens_kl"] == pytest.approx(divergence.item(), rel=1e-3)


def neox() -> GPTNeoXForCausalLM:
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    return GPTNeoXForCausalLM(GPTNeoXConfig(vocab_size=VOCABULARY, **shape)).eval()


@pytest.mark.parametrize("make", [llama, gpt2, neox])
def test_models_of_transformers_take_the_probes_that_need_no_connections(make):
    model, inputs = make(), batch()
    rows = wide(lesion(model, inputs) + lens(model, inputs))
    whole = model(inputs["input_ids"]).logits
    expected = cross_entropy(whole.flatten(0, 1), inputs["shift_labels"].flatten()).item()
    assert rows[-1, "model", "probe_loss"] == pytest.approx(expected, rel=1e-5)
    assert rows[1, "block", "lens_loss"] == pytest.approx(expected, rel=1e-5)
    last = {
        llama: "model.layers.0.mlp.down_proj",
        gpt2: "transformer.h.0.mlp.c_proj",
        neox: "gpt_neox.layers.0.mlp.dense_4h_to_h",
    }[make]
    with torch.no_grad():
        for parameter in model.get_submodule(last).parameters():
            parameter.zero_()
        without = loss_of(model, inputs).item()
    assert rows[0, "mlp", "lesion_increase"] == pytest.approx(without - expected, abs=1e-5)
    with pytest.raises(ValueError, match="lesion, lens, landscape and curvature"):
        reuse(model, inputs)


def test_filter_normalised_rows_are_as_long_as_the_weights():
    model = build()
    direction = filter_normalised_direction(model, 0)
    for name, weight in model.named_parameters():
        if weight.ndim < 2:
            assert not direction[name].any()
        else:
            for row, like in zip(direction[name], weight, strict=True):
                assert row.norm().item() == pytest.approx(like.norm().item(), rel=1e-5)


def test_the_landscape_is_the_loss_at_moved_weights_and_puts_them_back():
    model, inputs = build(), batch()
    before = {name: p.clone() for name, p in model.named_parameters()}
    found = {(a, b): loss for a, b, loss in landscape(model, inputs, points=3, radius=0.5, seed=4)}
    assert len(found) == 9
    assert found[0.0, 0.0] == pytest.approx(loss_of(model, inputs).item(), rel=1e-6)
    one, two = (filter_normalised_direction(model, seed) for seed in (4, 5))
    moved = {name: p + 0.5 * one[name] - 0.5 * two[name] for name, p in before.items()}
    logits = functional_call(model, moved, (inputs["input_ids"],)).logits
    expected = cross_entropy(logits.flatten(0, 1), inputs["shift_labels"].flatten()).item()
    assert found[0.5, -0.5] == pytest.approx(expected, rel=1e-5)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


@pytest.fixture(scope="module")
def tiny():
    """Small enough for its whole Hessian; float64."""
    model = build(num_hidden_layers=1, hidden_size=4, intermediate_size=4, num_attention_heads=1, vocab_size=7)
    inputs = {name: tensor % 7 for name, tensor in batch(2, 5).items()}
    model = model.double()
    names, values = zip(*model.named_parameters(), strict=True)
    sizes = [value.numel() for value in values]

    def loss(flat):
        parts = [part.view_as(value) for part, value in zip(flat.split(sizes), values, strict=True)]
        arguments = (inputs["input_ids"],)
        logits = functional_call(model, dict(zip(names, parts, strict=True)), arguments, {"use_cache": False}).logits
        return cross_entropy(logits.flatten(0, 1), inputs["shift_labels"].flatten())

    model.set_attn_implementation("eager")
    flat = torch.cat([value.detach().flatten() for value in values])
    whole = hessian(loss, flat).numpy()
    model.set_attn_implementation("sdpa")
    return model, inputs, whole


def test_sharpness_is_the_largest_eigenvalue_of_the_whole_hessian(tiny):
    model, inputs, whole = tiny
    operator = hessian_operator(model, inputs)
    vector = np.random.default_rng(0).standard_normal(len(whole))
    np.testing.assert_allclose(operator.matvec(vector), whole @ vector, rtol=1e-5, atol=1e-7)
    assert largest_eigenvalue(operator) == pytest.approx(np.linalg.eigvalsh(whole)[-1], rel=1e-3)
    # Hutchinson's estimate has the variance 2 sum_{i != j} H_ij^2 / vectors.
    deviation = math.sqrt(2 * (np.square(whole).sum() - np.square(np.diag(whole)).sum()) / 100)
    assert hessian_trace(operator, vectors=100) == pytest.approx(np.trace(whole), abs=4 * deviation)
    assert deviation < abs(np.trace(whole))


def test_preconditioned_sharpness_and_critical_rates(tiny):
    model, inputs, whole = tiny
    squares = 0
    for i in range(2):
        model.zero_grad()
        loss_of(model, {name: tensor[i : i + 1] for name, tensor in inputs.items()}).backward()
        squares = squares + torch.cat([p.grad.flatten() for p in model.parameters()]).square() / 2
    model.zero_grad()
    np.testing.assert_allclose(second_moment(model, inputs), squares, rtol=1e-4, atol=1e-12)
    found = curvature(model, inputs, eps=1e-3)
    p = squares.sqrt().numpy() + 1e-3
    # The eigenvalues of P^-1 H, which is not symmetric.
    expected = np.linalg.eigvals(whole / p[:, None]).real.max()
    assert found.preconditioned_sharpness == pytest.approx(expected, rel=1e-3)
    assert found.sharpness == pytest.approx(np.linalg.eigvalsh(whole)[-1], rel=1e-3)
    assert (found.edge, found.adaptive_edge) == pytest.approx((2 / found.sharpness, 38 / expected), rel=1e-3)
    of_optimizer = curvature(model, inputs, v=4 * squares, eps=2e-3)
    assert of_optimizer.preconditioned_sharpness == pytest.approx(expected / 2, rel=1e-3)
    loss_of(model, inputs).backward()

    def after(rate):
        moved = {name: q - rate * q.grad for name, q in model.named_parameters()}
        return cross_entropy(functional_call(model, moved, (inputs["input_ids"],)).logits.flatten(0, 1),
                             inputs["shift_labels"].flatten()).item()  # fmt: skip

    start = loss_of(model, inputs).item()
    assert after(found.critical_learning_rate) < start <= after(found.critical_learning_rate * 10 ** (1 / 8))
    model.zero_grad()


def test_rounding_does_not_end_the_search_for_the_critical_rate():
    """A quadratic loss of 3 + |w|^2 / 2 falls until a rate of 2 along its gradient; the first decades move it by less
    than float32 resolves, up or down."""

    class Quadratic(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.w = torch.nn.Parameter(torch.full((4,), 0.05))
            self.turn = 0

        def forward(self, input_ids, use_cache):
            self.turn += 1
            loss = 3 + self.w.square().sum() / 2 + 3e-7 * (-1) ** self.turn
            # Two classes, the first of which has this cross-entropy.
            first = (torch.exp(-loss) / (1 - torch.exp(-loss))).log()
            return SimpleNamespace(logits=torch.stack([first, torch.zeros(())]).view(1, 1, 2))

    model, inputs = Quadratic(), {"input_ids": torch.zeros(1, 1), "shift_labels": torch.zeros(1, 1, dtype=torch.long)}
    found = critical_learning_rate(model, inputs, model.w.detach().clone())
    assert 2 / 10 ** (1 / 8) <= found < 2


def weights_of(residual, **options):
    reads = reuse(build(residual, **options), batch())
    return {(read.reader, read.source): read.weight for read in reads}, reads


def test_reuse_of_pre_norm_is_one_everywhere_and_of_a_plain_stack_only_the_last():
    pre, reads = weights_of("pre")
    assert all(weight == pytest.approx(1, rel=1e-5) for weight in pre.values())
    assert len(pre) == 1 + 2 + 3 + 4 + 5 + 6 + 7
    assert reach(reads)[3][0] == pytest.approx((1 + 2 + 3 + 4) / 4, rel=1e-5)
    plain, _ = weights_of("plain")
    assert all(weight == pytest.approx(float(source == reader - 1)) for (reader, source), weight in plain.items())


def test_reuse_of_denseformer_is_the_product_of_its_averages():
    model = build("denseformer")
    reads = {(read.reader, read.source): read.weight for read in reuse(model, batch())}
    a = [block.mlp_residual.a.detach().double() for block in model.model.layers]
    # Block 0 puts out X1 = e + w0 + w1 and hands on a00 e + a01 X1, which block 1 reads.
    assert reads[2, -1] == pytest.approx(abs(a[0][0] + a[0][1]).item(), rel=1e-4)
    assert reads[2, 1] == pytest.approx(abs(a[0][1]).item(), rel=1e-4)
    # X2 = (what block 1 read) + w2 + w3; block 2 reads a10 e + a11 X1 + a12 X2.
    assert reads[4, 3] == pytest.approx(abs(a[1][2]).item(), rel=1e-4)
    assert reads[4, 0] == pytest.approx(abs(a[1][1] + a[1][2] * a[0][1]).item(), rel=1e-4)


def test_reuse_of_a_unet_shows_the_skip_twice():
    model = build("unet", num_hidden_layers=4)
    reads = {(read.reader, read.source): read.weight for read in reuse(model, batch())}
    w = model.model.layers[3].attention_residual.w.item()
    inner = model.model.layers[2].attention_residual.w.item()
    # Block 3 reads its stream and w times what block 0 put out; its stream went through block 2's skip of block 1.
    assert reads[6, 0] == pytest.approx(abs(1 + inner + w), rel=1e-4)
    assert reads[6, 4] == pytest.approx(1, rel=1e-4)


def test_reuse_of_depth_attention_at_its_start_is_uniform():
    torch.manual_seed(0)
    shape = {"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    reads = reuse(ResformerForCausalLM(ResformerConfig(**shape, residual="attn_res")).eval(), batch())
    for read in reads:
        assert read.weight == pytest.approx(1 / (read.reader + 1), rel=1e-4)


@pytest.mark.parametrize("residual", ["pre", "post", "rezero", "hyper(n=2)"])
def test_the_gain_is_the_mean_squared_singular_value_of_the_whole_jacobian(residual):
    torch.manual_seed(0)
    config = ResformerConfig(vocab_size=11, hidden_size=8, num_hidden_layers=2, num_attention_heads=1,
                             initialization="xavier", max_position_embeddings=4, residual=residual)  # fmt: skip
    model = ResformerForCausalLM(config)
    inputs = random_batch(11, 4, 0)
    embedded = model.model.embed_tokens(inputs["input_ids"]).detach()

    def final(x):
        return model.eval().model(inputs_embeds=x, use_cache=False).last_hidden_state

    whole = jacobian(final, embedded)
    expected = whole.double().square().sum().item() / embedded.numel()
    # The probe draws one vector per seed: its mean over seeds is the value.
    found = np.mean([propagate_gain(model, seed, inputs) for seed in range(300)])
    assert found == pytest.approx(expected, rel=0.1)


def propagate_gain(model, seed, inputs):
    from resformer.stability.propagation import squared_gain
    from resformer.stability.seam import run, watching, watching_final_states

    with watching(model) as views, watching_final_states(model) as final:
        run(model, inputs)
    return squared_gain(final[0], views[0].before, seed).item()


def test_pre_norm_grows_inside_the_bounds_of_xiong():
    """Lemma 2 of arXiv:2002.04745: 1 + L/2 <= RMS^2 <= 1 + 3L/2 with unit embeddings and Xavier weights."""
    config = ResformerConfig(vocab_size=64, hidden_size=64, num_attention_heads=1, initialization="xavier",
                             embedding_initializer_range=1.0)  # fmt: skip
    for found in ladder(config, (6, 12, 24), dtypes=("float32", "bfloat16"), budget=math.inf):
        assert 1 + found.depth / 2 <= found.rms_last**2 <= 1 + 3 * found.depth / 2
        assert found.finite


def test_without_a_skip_tokens_collapse_and_rezero_is_the_identity():
    shape = {"vocab_size": 64, "hidden_size": 64, "num_attention_heads": 1, "initialization": "xavier",
             "embedding_initializer_range": 1.0}  # fmt: skip
    plain, *_ = ladder(ResformerConfig(**shape, residual="plain"), (24,), dtypes=("float32",))
    rezero, *_ = ladder(ResformerConfig(**shape, residual="rezero"), (24,), dtypes=("float32",))
    assert plain.token_cosine > 0.95
    assert rezero.rms_last == rezero.rms_first
    assert rezero.weight_last == 0


def test_a_depth_beyond_the_budget_is_left_out_and_said():
    config = ResformerConfig(vocab_size=16, hidden_size=16, num_attention_heads=1, residual="attn_res")
    *_, last = ladder(config, (2, 4, 4000), dtypes=("float32",), budget=5.0)
    assert isinstance(last, LeftOut)
    assert last.depth == 4000
    assert last.seconds > 5


def test_a_stack_written_for_one_depth_is_refused_at_another():
    config = ResformerConfig(vocab_size=16, hidden_size=16, num_attention_heads=1, residual="post*1,pre*3")
    with pytest.raises(ValueError, match="6 blocks"):
        next(ladder(config, (6,)))


def test_propagate_reports_what_is_not_finite():
    model = ResformerForCausalLM(ResformerConfig(vocab_size=16, hidden_size=16, num_attention_heads=1))
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(1e30)
    assert not propagate(model, 0).finite
