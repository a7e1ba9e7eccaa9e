"""The loss that never holds all logits equals the plain one."""

import pytest
import torch
import torch.nn.functional as F
from model_helpers import VOCABULARY, build, tokens
from torch.utils._python_dispatch import TorchDispatchMode

from resformer.model import losses


def plain(hidden_states, weight, targets, cap, z_loss):
    logits = (hidden_states @ weight.T).double()
    logits = logits if cap is None else cap * torch.tanh(logits / cap)
    counted = targets != -100
    log_z = torch.logsumexp(logits, -1)[counted]
    picked = logits[counted].gather(1, targets[counted][:, None]).squeeze(1)
    return (log_z - picked).sum(), log_z.square().sum()


@pytest.mark.parametrize("cap", [None, 5.0])
@pytest.mark.parametrize("z_loss", [0.0, 1e-2])
@pytest.mark.parametrize("elements", [2**30, 7 * 50, 1])
def test_every_path_equals_the_plain_loss(cap, z_loss, elements, monkeypatch):
    monkeypatch.setattr(losses, "CHUNK_ELEMENTS", elements)
    generator = torch.Generator().manual_seed(0)
    hidden_states, weight = (torch.randn(n, 16, generator=generator).requires_grad_() for n in (40, 50))
    targets = torch.randint(0, 50, (40,), generator=generator)
    targets[::5] = -100
    found = losses.linear_cross_entropy(hidden_states, weight, targets, cap=cap, z_loss=z_loss)
    expected = plain(hidden_states, weight, targets, cap, z_loss)
    torch.testing.assert_close(found[0].double(), expected[0], rtol=1e-5, atol=1e-5)
    if z_loss:
        torch.testing.assert_close(found[1].double(), expected[1], rtol=1e-5, atol=1e-5)
    gradients, wanted = (
        torch.autograd.grad(a + 0.01 * z_loss * b, (hidden_states, weight)) for a, b in (found, expected)
    )
    for a, b in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_chunks_under_autocast_lose_no_digits(monkeypatch):
    hidden_states, weight = torch.randn(2048, 32), torch.randn(400, 32)
    targets = torch.randint(0, 400, (2048,))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        whole = losses.linear_cross_entropy(hidden_states, weight, targets)[0]
        monkeypatch.setattr(losses, "CHUNK_ELEMENTS", 4000)
        chunked = losses.linear_cross_entropy(hidden_states, weight, targets)[0]
    assert chunked.item() == pytest.approx(whole.item(), rel=1e-6)


@pytest.mark.parametrize("z_loss", [0.0, 1e-2])
def test_many_chunks_under_autocast_round_the_weights_gradient_as_one(z_loss, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    hidden_states = torch.randn(2048, 32, generator=generator).requires_grad_()
    weight = torch.randn(400, 32, generator=generator).requires_grad_()
    bias = torch.randn(400, generator=generator).requires_grad_()
    targets = torch.randint(0, 400, (2048,), generator=generator)
    targets[::5] = -100

    def gradients(elements, autocast):
        monkeypatch.setattr(losses, "CHUNK_ELEMENTS", elements)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            loss, z = losses.linear_cross_entropy(hidden_states, weight, targets, bias=bias, z_loss=z_loss)
        return torch.autograd.grad(loss + z_loss * z, (hidden_states, weight, bias))

    exact, one, many = gradients(2**30, False), gradients(2**30, True), gradients(2**14, True)  # 52 chunks
    for name, truth, a, b in zip(("hidden states", "weight", "bias"), exact, one, many, strict=True):
        assert (b - truth).norm() <= 1.1 * (a - truth).norm(), name


@pytest.mark.parametrize("frozen", [(), ("weight",), ("hidden_states",)], ids=str)
def test_chunks_are_differentiated_twice_also_where_the_weight_is_tied(frozen, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(50, 16, generator=generator, dtype=torch.float64)
    bias = torch.randn(50, generator=generator, dtype=torch.float64)
    targets = torch.randint(0, 50, (40,), generator=generator)
    found = []
    for elements in (2**30, 7 * 50):
        monkeypatch.setattr(losses, "CHUNK_ELEMENTS", elements)
        tied, b = weight.clone().requires_grad_(), bias.clone().requires_grad_()
        hidden_states = tied[targets.flip(0)].sin()
        hidden_states = hidden_states.detach() if "hidden_states" in frozen else hidden_states
        read_out = tied.detach() if "weight" in frozen else tied
        loss, _ = losses.linear_cross_entropy(hidden_states, read_out, targets, bias=b, cap=5.0)
        alone = torch.autograd.grad(loss, (tied, b), retain_graph=True, allow_unused=True)
        once = torch.autograd.grad(loss, (tied, b), create_graph=True, allow_unused=True)
        twice = torch.autograd.grad(sum(g.square().sum() for g in once), (tied, b), allow_unused=True)
        found.append((*alone, *once, *twice))
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-5)


def test_a_compiled_loss_in_chunks_is_the_loss(monkeypatch):
    monkeypatch.setattr(losses, "CHUNK_ELEMENTS", 7 * 50)
    hidden_states, weight = torch.randn(40, 16).requires_grad_(), torch.randn(50, 16).requires_grad_()
    targets = torch.randint(0, 50, (40,))

    def loss(hidden_states, weight):
        return losses.linear_cross_entropy(hidden_states, weight, targets, cap=5.0)[0]

    ours, compiled = loss(hidden_states, weight), torch.compile(loss, backend="aot_eager")(hidden_states, weight)
    torch.testing.assert_close(compiled, ours)
    torch.testing.assert_close(
        *(torch.autograd.grad(x, (hidden_states, weight)) for x in (compiled, ours)), rtol=1e-4, atol=1e-5
    )


def test_chunks_are_larger_where_the_device_is():
    assert losses._elements(torch.device("cpu")) == losses.CHUNK_ELEMENTS
    assert losses._elements(torch.device("cuda")) == 16 * losses.CHUNK_ELEMENTS


def test_labels_shifted_here_or_before():
    model, ids = build(), tokens()
    labels = ids.clone()
    labels[0, :4] = -100
    output = model(input_ids=ids, labels=labels)
    expected = F.cross_entropy(output.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    torch.testing.assert_close(output.loss, expected)
    shifted = F.pad(labels[:, 1:], (0, 1), value=-100)
    torch.testing.assert_close(model(input_ids=ids, shift_labels=shifted).loss, expected)
    summed = model(input_ids=ids, labels=labels, num_items_in_batch=1).loss
    torch.testing.assert_close(summed, expected * (shifted != -100).sum())


def test_z_loss_is_added_to_the_loss_and_not_to_the_cross_entropy():
    model, ids = build(final_logit_softcapping=3.0), tokens()
    output = model(input_ids=ids, labels=ids, z_loss=0.1)
    assert output.logits.abs().max() <= 3.0
    log_z = torch.logsumexp(output.logits[:, :-1], -1)
    torch.testing.assert_close(output.loss, output.cross_entropy + 0.1 * log_z.square().mean())
    torch.testing.assert_close(output.cross_entropy, model(input_ids=ids, labels=ids).loss)


def test_training_returns_no_logits():
    model, ids = build().train(), tokens()
    assert model(input_ids=ids, labels=ids).logits is None
    assert model(input_ids=ids, labels=ids, skip_logits=False).logits.shape == (2, 12, VOCABULARY)
    assert model(input_ids=ids, logits_to_keep=1).logits.shape == (2, 1, VOCABULARY)


class Largest(TorchDispatchMode):
    """Elements of the largest tensor that any operation makes."""

    seen = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, torch.Tensor):
                self.seen = max(self.seen, tensor.numel())
        return out


def test_no_tensor_as_large_as_all_logits_is_ever_made(monkeypatch):
    monkeypatch.setattr(losses, "CHUNK_ELEMENTS", 2**14)
    model, ids = build(vocab_size=4096).train(), tokens(4, 32)
    with Largest() as largest, torch.autocast("cpu", dtype=torch.bfloat16):
        model(input_ids=ids, labels=ids).loss.backward()
    all_logits = 4 * 32 * 4096
    assert largest.seen <= all_logits / 4  # the embedding's own 4096 x 32


@pytest.mark.slow
@pytest.mark.parametrize("z_loss", [0.0, 1e-4])
def test_a_vocabulary_of_50304_at_batch_8_x_1024(z_loss):
    model = build(vocab_size=50304, max_position_embeddings=1024).train()
    ids = torch.randint(50304, (8, 1024), generator=torch.Generator().manual_seed(0))
    with Largest() as largest:
        model(input_ids=ids, labels=ids, z_loss=z_loss).loss.backward()
    assert largest.seen <= losses.CHUNK_ELEMENTS
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
