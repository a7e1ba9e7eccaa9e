"""The measurement of a whole model against one computed by hand: the formula written out, hooks, autograd."""

import copy
import math

import pytest
import torch
from scipy.stats import linregress
from stability_helpers import batch, build, by_hand, wide
from torch.nn.functional import linear

from resformer.model.specification import KINDS
from resformer.stability.measure import measure, measure_start
from resformer.stability.rows import place_of, tensor_class
from resformer.stability.seam import connections


def test_every_metric_of_pre_norm_against_the_formula_written_out():
    model, inputs = build(), batch()
    rows = wide(measure(model, inputs))
    streams, branches, logits, loss = by_hand(model, inputs)
    stream_gradients = torch.autograd.grad(loss, streams, retain_graph=True)
    branch_gradients = torch.autograd.grad(loss, branches, retain_graph=True)
    loss.backward()
    rms = lambda x: x.double().square().mean().sqrt().item()  # noqa: E731
    sites = [(layer, sublayer) for layer in range(3) for sublayer in ("attention", "mlp")]
    assert rows[-1, "embedding", "stream_rms"] == pytest.approx(rms(streams[0]), rel=1e-5)
    for i, site in enumerate(sites):
        assert rows[*site, "stream_rms"] == pytest.approx(rms(streams[i + 1]), rel=1e-5)
        assert rows[*site, "branch_rms"] == pytest.approx(rms(branches[i]), rel=1e-5)
        assert rows[*site, "branch_ratio"] == pytest.approx(rms(branches[i]) / rms(streams[i]), rel=1e-5)
        assert rows[*site, "write_ratio"] == pytest.approx(rms(branches[i]) / rms(streams[i]), rel=1e-4)
        turned = 1 - torch.nn.functional.cosine_similarity(streams[i].double(), streams[i + 1].double(), dim=-1).mean()
        assert rows[*site, "block_influence"] == pytest.approx(turned.item(), rel=1e-4, abs=1e-6)
        assert rows[*site, "norm_input_rms.norm"] == pytest.approx(rms(streams[i]), rel=1e-5)
        cosine = torch.nn.functional.cosine_similarity(branches[i], streams[i], dim=-1).mean().item()
        assert rows[*site, "branch_cosine"] == pytest.approx(cosine, abs=1e-5)
        assert rows[*site, "stream_gradient_rms"] == pytest.approx(rms(stream_gradients[i + 1]), rel=1e-4)
        assert rows[*site, "branch_gradient_rms"] == pytest.approx(rms(branch_gradients[i]), rel=1e-4)
        own = [p.grad for name, p in model.named_parameters() if place_of(name) == site]
        assert rows[*site, "gradient_norm"] == pytest.approx(
            torch.cat([g.flatten() for g in own]).norm().item(), rel=1e-4
        )
    down = model.model.layers[1].mlp.down_proj.weight.grad
    assert rows[1, "mlp", "gradient_norm.down_proj"] == pytest.approx(down.norm().item(), rel=1e-4)
    assert rows[1, "mlp", "weight_rms.down_proj"] == pytest.approx(rms(model.model.layers[1].mlp.down_proj.weight))
    assert rows[-1, "embedding", "weight_rms.embed_tokens"] == pytest.approx(rms(model.model.embed_tokens.weight))
    assert rows[1, "mlp", "gradient_rms.down_proj"] == pytest.approx(rms(down), rel=1e-4)
    gain = model.model.layers[1].mlp_residual.norm.weight.grad
    assert rows[1, "mlp", "gradient_norm.residual.norm.weight"] == pytest.approx(gain.norm().item(), rel=1e-4)
    first, last = (model.model.layers[i].mlp.down_proj.weight.grad.norm().item() for i in (0, 2))
    assert rows[-1, "model", "gradient_first_last_ratio"] == pytest.approx(first / last, rel=1e-4)
    fit = linregress(range(7), [rms(x) ** 2 for x in streams])
    assert rows[-1, "model", "stream_growth_linear_r2"] == pytest.approx(fit.rvalue**2, rel=1e-4)
    assert not any(metric.startswith("branch_read") for *_, metric in rows)  # it reads the stream itself
    everything = torch.cat([p.grad.flatten() for p in model.parameters()]).norm().item()
    assert rows[-1, "model", "gradient_norm"] == pytest.approx(everything, rel=1e-4)
    growth = (rms(streams[-1]) / rms(streams[0])) ** (1 / 3)
    assert math.exp(rows[-1, "model", "growth_exponent"]) == pytest.approx(growth, rel=1e-5)
    growth = (rms(stream_gradients[-1]) / rms(stream_gradients[0])) ** (1 / 3)
    assert math.exp(rows[-1, "model", "gradient_growth_exponent"]) == pytest.approx(growth, rel=1e-4)
    log_z = logits.double().exp().sum(-1).log()
    assert rows[-1, "model", "log_z_mean"] == pytest.approx(log_z.mean().item(), rel=1e-5)
    assert rows[-1, "model", "log_z_max"] == pytest.approx(log_z.max().item(), rel=1e-5)
    assert rows[-1, "model", "logit_mean"] == pytest.approx(logits.mean().item(), abs=1e-5)
    assert rows[-1, "model", "probe_loss"] == pytest.approx(loss.item(), rel=1e-5)


def test_attention_logits_are_those_of_the_eager_weights():
    """The weights that transformers' eager attention returns have the entropies that are measured."""
    model, inputs = build(num_key_value_heads=1), batch(time=20)
    rows = wide(measure(model, inputs))
    model.set_attn_implementation("eager")
    weights = model(**inputs, output_attentions=True).attentions
    for layer, w in enumerate(weights):
        late = w.double()[:, :, 8:]
        entropy = -(late * late.clamp(min=1e-300).log()).sum(-1)
        assert rows[layer, "attention", "attention_entropy"] == pytest.approx(entropy.mean().item(), rel=1e-4)


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"two_norms"}))
def test_every_kind_is_measured_and_left_as_it_was(kind):
    model, inputs = build(kind, num_hidden_layers=2), batch()
    model.train()
    before = {name: p.clone() for name, p in model.state_dict().items()}
    rows = wide(measure(model, inputs, measure_start(model, inputs)))
    assert rows[-1, "model", "accumulated_update"] == 0
    assert all(value == 0 for (*_, metric), value in rows.items() if metric.startswith("coordinate_"))
    # The shares of the sequences make up the gradient.
    linears = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    whole = sum(
        rows[*place_of(f"{name}.weight"), f"gradient_norm.{tensor_class(f'{name}.weight')}"] ** 2
        for name in linears
        if ".layers." in name
    )
    signal = rows[-1, "model", "gradient_noise_signal"] + rows[-1, "model", "gradient_noise_trace"] / 2
    assert signal == pytest.approx(whole, rel=1e-4)
    assert all(value == value for value in rows.values())
    for layer in range(2):
        for sublayer in ("attention", "mlp"):
            assert {"stream_rms", "branch_ratio", "stream_gradient_rms", "token_similarity"} <= {
                metric for at, of, metric in rows if (at, of) == (layer, sublayer)
            }
    assert model.training
    assert all("step" not in vars(connection) for connection in connections(model))
    assert all(p.grad is None for p in model.parameters())
    assert model.config._attn_implementation == "sdpa"
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    # The streams are what the model itself shows.
    with torch.no_grad():
        hidden = model.eval()(inputs["input_ids"], output_hidden_states=True, use_cache=False).hidden_states
    assert rows[-1, "embedding", "stream_rms"] == pytest.approx(hidden[0].square().mean().sqrt().item(), rel=1e-4)
    assert rows[0, "mlp", "stream_rms"] == pytest.approx(hidden[1].square().mean().sqrt().item(), rel=1e-4)


def test_a_model_in_autocast_and_compiled_is_measured_in_float32_and_plain():
    model, inputs = build("post*1,highway*1,hyper*1"), batch()
    plain = measure(model, inputs)
    for block in model.model.layers:
        block.compile(backend="eager")
    with torch.autocast("cpu", torch.bfloat16):
        model(**inputs, use_cache=False)
        assert measure(model, inputs) == plain


def test_accumulated_update_is_the_rms_of_the_change_of_the_final_states():
    model, inputs = build(), batch()
    start = copy.deepcopy(model)
    reference = measure_start(model, inputs)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1.01)
        now, then = (m.model(inputs["input_ids"], use_cache=False).last_hidden_state for m in (model, start))
    rows = wide(measure(model, inputs, reference, before=(then, 0.01), gradients=False))
    expected = (now - then).double().square().mean().sqrt().item()
    assert rows[-1, "model", "accumulated_update"] == pytest.approx(expected, rel=1e-4)
    assert rows[-1, "model", "one_step_update"] == pytest.approx(100 * expected, rel=1e-4)


def test_the_change_of_an_output_is_what_the_weights_and_what_the_inputs_bring():
    model, inputs = build(), batch()
    start, then = measure_start(model, inputs), copy.deepcopy(model)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    rows = wide(measure(model, inputs, start))
    x, x_0 = (m.model.layers[1].attention_residual.norm(by_hand(m, inputs)[0][2]) for m in (model, then))
    w, w_0 = (m.model.layers[1].attention.k_proj.weight for m in (model, then))
    rms = lambda t: t.double().square().mean().sqrt().item()  # noqa: E731
    assert rows[1, "attention", "coordinate_weights.k_proj"] == pytest.approx(rms(x @ (w - w_0).T), rel=1e-4)
    assert rows[1, "attention", "coordinate_inputs.k_proj"] == pytest.approx(rms((x - x_0) @ w_0.T), rel=1e-4)


def test_gradient_noise_is_that_of_one_backward_pass_for_each_sequence():
    model, inputs = build("pre*1,highway*1,hyper(n=2)*1"), batch(sequences=3)
    rows = wide(measure(model, inputs))
    names = [f"{name}.weight" for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    names = [name for name in names if ".layers." in name]
    found = []
    for k in range(3):
        loss = model(**{name: tensor[k : k + 1] for name, tensor in inputs.items()}, use_cache=False).loss
        found.append(torch.autograd.grad(loss, [model.get_parameter(name) for name in names]))

    def snr(chosen):
        each = torch.stack([torch.cat([g[i].double().flatten() for i in chosen]) for g in found])
        mean, spread = each.mean(0), each - each.mean(0)
        return (mean.square().sum() / spread.square().sum(1).mean()).item(), spread.square().sum().item() / 2, mean

    for i, name in enumerate(names):
        assert rows[*place_of(name), f"gradient_snr.{tensor_class(name)}"] == pytest.approx(snr([i])[0], rel=1e-3)
    share, trace, mean = snr(range(len(names)))
    assert rows[-1, "model", "gradient_snr"] == pytest.approx(share, rel=1e-3)
    # The unbiased sample covariance's trace, and |mean|^2 less what noise adds to it.
    assert rows[-1, "model", "gradient_noise_trace"] == pytest.approx(trace, rel=1e-3)
    signal = mean.square().sum().item() - trace / 3
    assert rows[-1, "model", "gradient_noise_signal"] == pytest.approx(signal, rel=1e-3)
    if signal > 0:
        assert rows[-1, "model", "gradient_noise_scale"] == pytest.approx(trace / signal, rel=1e-3)


def test_internals_of_gates_scales_and_dense_weights():
    model, inputs = build("highway*1,denseformer*1,rezero*1"), batch()
    rows = wide(measure(model, inputs))
    first = model.model.layers[0].attention_residual.transform
    gate = torch.sigmoid(model.model.embed_tokens(inputs["input_ids"]) @ first.weight.T + first.bias)
    assert rows[0, "attention", "internal.gate.mean"] == pytest.approx(gate.mean().item(), rel=1e-5)
    saturated = ((gate < 0.05) | (gate > 0.95)).double().mean().item()
    assert rows[0, "attention", "internal.gate.saturated"] == pytest.approx(saturated, abs=1e-6)
    dense = model.model.layers[1].mlp_residual.a
    assert [rows[1, "mlp", f"internal.a[{j}]"] for j in range(2)] == pytest.approx(dense.tolist())
    assert rows[2, "attention", "internal.a"] == pytest.approx(model.model.layers[2].attention_residual.a.item())


@pytest.mark.parametrize("gate", ["input", "output", "highway", "sigtanh", "gru", "cell"])
def test_the_gate_that_is_shown_makes_the_stream_that_leaves(gate):
    connection = connections(build("gru" if gate == "cell" else f"gtrxl(gate={gate})"))[2]
    h, f = (torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    g = connection.internals(h, f)["gate"]
    if gate == "cell":
        cell = connection.cell
        of_f, of_h = (
            linear(f, cell.weight_ih, cell.bias_ih).chunk(3, -1),
            linear(h, cell.weight_hh, cell.bias_hh).chunk(3, -1),
        )
        candidate = torch.tanh(of_f[2] + torch.sigmoid(of_f[0] + of_h[0]) * of_h[2])
        expected = (1 - g) * candidate + g * h
    else:
        y, w = torch.relu(f), connection.w
        r = torch.sigmoid(linear(y, connection.w_r) + linear(h, connection.u_r)) if gate == "gru" else 0
        expected = {
            "input": lambda: g * h + y,
            "output": lambda: h + g * y,
            "highway": lambda: g * h + (1 - g) * y,
            "sigtanh": lambda: h + g * torch.tanh(linear(y, connection.u)),
            "gru": lambda: (1 - g) * h + g * torch.tanh(linear(y, w) + linear(r * h, connection.u)),
        }[gate]()
    torch.testing.assert_close(connection(h, lambda read: f), expected)


def test_constants_and_bounded_weights_are_shown_as_they_act():
    rows = wide(measure(build("deepnorm*1,granite(multiplier=0.3)*1,laurel*1", noise=0.2), batch()))
    assert rows[0, "mlp", "internal.alpha"] == pytest.approx(6**0.25)
    assert rows[1, "mlp", "internal.b"] == pytest.approx(0.3)
    assert rows[2, "mlp", "internal.a"] + rows[2, "mlp", "internal.b"] == pytest.approx(1)
    gates = wide(measure(build("gated(gate=scalar, data=true)"), batch()))
    assert {"internal.gate.mean", "internal.gate.std", "internal.gate.saturated"} <= {metric for *_, metric in gates}


def test_streams_are_seen_as_they_are_read_and_as_they_are_collapsed():
    model, inputs = build("hyper(n=2, dynamic=false)"), batch()
    with torch.no_grad():
        embedded = model.model.embed_tokens(inputs["input_ids"])
        first = model.model.layers[0].attention_residual
        read = (first.alpha[:, :1].T @ embedded.unsqueeze(-2).expand(-1, -1, 2, -1)).squeeze(-2)
    rows = wide(measure(model, inputs))
    size = lambda x: x.double().square().mean().sqrt().item()  # noqa: E731
    ratio = rows[0, "attention", "branch_rms"] / size(read)
    assert rows[0, "attention", "branch_read_ratio"] == pytest.approx(ratio, rel=1e-4)
    assert rows[0, "attention", "stream_rms_ratio"] == pytest.approx(1)
    assert rows[2, "mlp", "stream_rms_ratio"] > 1.001


def test_composite_gain_of_stream_mixing_is_the_product_of_the_matrices():
    """Static hyper-connections: H' = A^T H at each site, so the composite is the product of all A^T."""
    model, inputs = build("hyper(n=3, dynamic=false)"), batch()
    rows = wide(measure(model, inputs))
    product = torch.eye(3, dtype=torch.float64)
    for connection in connections(model):
        product = connection.alpha.detach()[:, 1:].double().T @ product
    gain = product.abs().sum(1).max().item()
    assert rows[2, "mlp", "composite_gain.forward"] == pytest.approx(gain, rel=1e-4)
    assert rows[2, "mlp", "composite_gain.backward"] == pytest.approx(product.abs().sum(0).max().item(), rel=1e-4)


def test_the_gradient_of_a_state_of_several_streams_is_that_of_what_was_written():
    model, inputs = build("hyper(n=2)"), batch()
    rows = wide(measure(model, inputs))
    for layer in range(2):
        site = (layer, "mlp")
        assert rows[*site, "stream_gradient_rms"] == rows[*site, "branch_gradient_rms"] > 0
