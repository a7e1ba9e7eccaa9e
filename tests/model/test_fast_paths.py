"""Where a formula is computed in another order than it is written: both give the same values and gradients."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from resformer.model import ResformerConfig, ResformerForCausalLM
from resformer.model.mixing import AttendOverDepth, broadcast_sum, mixed, recomputed, written
from resformer.model.residual_history import _DepthAttention

EPS = 1e-6


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def assert_alike(first, second, inputs) -> None:
    """Values, and gradients of a random sum of them."""
    torch.testing.assert_close(first, second, rtol=1e-12, atol=1e-12)
    direction = torch.randn_like(second)
    ours, theirs = (torch.autograd.grad((out * direction).sum(), inputs, retain_graph=True) for out in (first, second))
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.fixture(params=["eager", "compiled"])
def path(request, monkeypatch):
    """The operations that a compiled block would be given, one by one."""
    torch.manual_seed(0)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: request.param == "compiled")


@pytest.mark.usefixtures("path")
def test_mixing_is_a_product_of_matrices():
    weights, streams = drawn(2, 3, 4, 5), drawn(2, 3, 4, 8)
    for static in (False, True):
        used = weights[0, 0] if static else weights
        read, carried = mixed(used, streams, [1, 4])
        assert read.shape == (2, 3, 1, 8)
        assert_alike(torch.cat([read, carried], dim=-2), used.mT @ streams, [weights, streams])
    torch.testing.assert_close(broadcast_sum(weights, streams), weights.mT @ streams)


@pytest.mark.usefixtures("path")
def test_writing_is_an_outer_product():
    weights, y = drawn(2, 3, 4), drawn(2, 3, 8)
    assert_alike(written(weights, y), torch.einsum("btn,bth->btnh", weights, y), [weights, y])
    assert written(weights.float(), y.bfloat16()).dtype == torch.float32


def test_what_is_recomputed_is_the_function_and_can_be_differentiated_twice():
    torch.manual_seed(0)
    inputs = [drawn(3, 4), drawn(4, 2)]

    def function(x, weight):
        return torch.tanh(x.square() @ weight)

    assert_alike(recomputed(function, *inputs), function(*inputs), inputs)
    assert gradgradcheck(lambda *given: recomputed(function, *given), inputs)  # curvature differentiates twice


@pytest.mark.parametrize(("residual", "most"), [("hyper", 3.5), ("hyper(dynamic=false)", 3.2), ("frac", 3.5)])
def test_a_site_keeps_its_streams_and_little_more(residual, most):
    """For the backward pass, in tensors of ``[batch, time, hidden]`` beside the state: what the branch reads, its norm
    and what it writes. What is carried, or normed streams, would be four more of ``hyper``, one or two of ``frac``."""
    torch.manual_seed(0)
    config = ResformerConfig(
        vocab_size=32, hidden_size=256, num_hidden_layers=1, num_attention_heads=2, residual=residual
    )
    connection = ResformerForCausalLM(config).train().model.layers[0].mlp_residual
    h = torch.randn(2, 16, 256, requires_grad=True)
    state, kept = connection.enter(h).detach().requires_grad_(), {}
    own = {x.untyped_storage().data_ptr() for x in (state, *connection.parameters())}

    def pack(tensor):
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        connection(state, lambda read: 2 * read)
    assert sum(kept.values()) / h.nbytes < most, sum(kept.values()) / h.nbytes


@pytest.mark.usefixtures("path")
def test_the_maps_of_hyper_connections_are_tanh_of_normed_streams():
    connection = drawn_connection("hyper")
    streams = drawn(2, 3, 4, 16)
    normed = connection.stream_norm(streams)
    alpha = connection.alpha + connection.alpha_scale * torch.tanh(normed @ connection.alpha_weight)
    beta = connection.beta + connection.beta_scale * torch.tanh(normed @ connection.beta_weight).squeeze(-1)
    inputs = [streams, connection.alpha_weight, connection.beta_weight, *connection.stream_norm.parameters()]
    for ours, theirs in zip(connection.maps(streams), (alpha, beta), strict=True):
        found = [x for x in inputs if x is not (connection.beta_weight if ours.ndim == 4 else connection.alpha_weight)]
        assert_alike(ours, theirs, found)


@pytest.mark.usefixtures("path")
def test_a_norm_before_a_product_is_a_number_after_it():
    connection = drawn_connection("mhc")
    streams = drawn(2, 3, 4, 16)
    vector = streams.flatten(-2)
    written_out = torch.nn.functional.rms_norm(vector, vector.shape[-1:], eps=EPS) @ connection.weight.T
    assert_alike(connection._project(streams, connection.weight), written_out, [streams, connection.weight])


def test_sinkhorn_with_tokens_last_is_sinkhorn():
    torch.manual_seed(0)
    for variant, rounds in (("paper", 20), ("deepseek_v4", 20)):
        connection = drawn_connection(f"mhc(variant={variant})")
        logits = drawn(2, 3, 16)
        square = logits.unflatten(-1, (4, 4))
        if variant == "paper":
            expected = torch.exp(square)
            for _ in range(rounds):
                expected = expected / expected.sum(-2, keepdim=True)
                expected = expected / expected.sum(-1, keepdim=True)
            expected = expected.mT
        else:
            expected = torch.softmax(square, -1) + EPS
            expected = expected / (expected.sum(-2, keepdim=True) + EPS)
            for _ in range(rounds - 1):
                expected = expected / (expected.sum(-1, keepdim=True) + EPS)
                expected = expected / (expected.sum(-2, keepdim=True) + EPS)
        assert_alike(connection._mixing(logits), expected, [logits])


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("number", [1, 3])
def test_attention_over_depth_is_a_softmax_over_normed_sources(heads, number):
    torch.manual_seed(0)
    direction, sources = drawn(8), [drawn(2, 3, 8) for _ in range(number)]

    def ours(direction, *sources):
        return AttendOverDepth.apply(direction, heads, EPS, *sources)

    normed = [v * torch.rsqrt(v.square().mean(-1, keepdim=True) + EPS) for v in sources]
    weights = torch.stack([(v * direction).unflatten(-1, (heads, -1)).sum(-1) for v in normed]).softmax(0)
    expected = sum(w.repeat_interleave(8 // heads, -1) * v for w, v in zip(weights, sources, strict=True))
    inputs = [direction, *sources]
    assert_alike(ours(*inputs), expected, inputs)
    assert gradcheck(ours, inputs)
    assert gradgradcheck(ours, inputs)  # curvature differentiates twice


@pytest.mark.parametrize("residual", ["hyper", "frac", "mhc", "attn_res", "attn_res(heads=2, roles=separate)"])
def test_a_stack_gives_one_answer_compiled_or_not(residual, monkeypatch):
    torch.manual_seed(0)
    config = ResformerConfig(
        vocab_size=32, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, residual=residual
    )
    model = ResformerForCausalLM(config).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    tokens = torch.randint(32, (2, 5))
    losses, gradients = [], []
    for compiling in (False, True):
        monkeypatch.setattr("resformer.model.mixing.torch.compiler.is_compiling", lambda now=compiling: now)
        loss = model(input_ids=tokens, labels=tokens).loss
        losses.append(loss)
        gradients.append(torch.autograd.grad(loss, list(model.parameters())))
    torch.testing.assert_close(*losses, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-12)


def test_attention_over_depth_that_reads_out_is_fast_under_autocast(monkeypatch):
    torch.manual_seed(0)
    attend = _DepthAttention(ResformerConfig(hidden_size=16, num_attention_heads=2), heads=2)
    with torch.no_grad():
        attend.query.normal_()
    sources = torch.randn(2, 3, 16), torch.randn(2, 3, 16), torch.randn(2, 3, 16).bfloat16()  # written last
    sources = tuple(v.requires_grad_() for v in sources)
    calls = counted(monkeypatch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        read = attend(sources)
        assert calls == [3]
        monkeypatch.setattr("resformer.model.residual_history.torch.compiler.is_compiling", lambda: True)
        rounded, formula = attend(sources), attend(tuple(v.float() for v in sources))
    assert calls == [3]
    assert read.dtype == rounded.dtype == torch.float32
    torch.testing.assert_close(read, formula)
    torch.testing.assert_close(read, rounded, rtol=2**-7, atol=2**-7)  # its squares of the newest source are bfloat16
    inputs, weight = [attend.query, *sources], torch.randn_like(read)
    ours, theirs = (torch.autograd.grad((weight * x).sum(), inputs) for x in (read, formula))
    torch.testing.assert_close(ours[:-1], theirs[:-1], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours[-1], theirs[-1], rtol=2**-7, atol=2**-7)


def test_attention_over_depth_of_a_bfloat16_model_is_the_formula(monkeypatch):
    calls = counted(monkeypatch)
    attend = _DepthAttention(ResformerConfig(hidden_size=16, num_attention_heads=2)).bfloat16()
    assert attend([torch.randn(2, 3, 16).bfloat16() for _ in range(3)]).dtype == torch.bfloat16
    assert calls == []


def counted(monkeypatch) -> list[int]:
    """How many sources each call of the fast path reads."""
    calls: list[int] = []
    real = AttendOverDepth.apply

    class Counted:
        @staticmethod
        def apply(direction, heads, eps, *sources):
            calls.append(len(sources))
            return real(direction, heads, eps, *sources)

    monkeypatch.setattr("resformer.model.residual_history.AttendOverDepth", Counted)
    return calls


def drawn_connection(residual: str) -> torch.nn.Module:
    config = ResformerConfig(
        vocab_size=32, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, residual=residual, norm_eps=EPS
    )
    connection = ResformerForCausalLM(config).double().model.layers[0].mlp_residual
    with torch.no_grad():
        for parameter in connection.parameters():
            parameter.normal_()
    return connection
