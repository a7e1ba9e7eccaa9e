"""Copying weights from a class that the project did not write, and comparing outputs and gradients."""

from contextlib import contextmanager
from unittest.mock import patch

import torch
from parity_helpers import assert_near

from resformer import ResformerConfig, ResformerForCausalLM

VOCABULARY, HIDDEN, LAYERS, HEADS, INNER, LENGTH = 61, 32, 3, 4, 48, 17
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "max_position_embeddings": 32,
}
GROUPED = SHAPE | {"num_key_value_heads": 2, "intermediate_size": INNER, "attn_implementation": "eager"}


def ours(**options) -> ResformerForCausalLM:
    config = ResformerConfig(**(SHAPE | {"attn_implementation": "eager"} | options))
    return ResformerForCausalLM(config).double()


def randomise(model, scale: float = 0.1):
    """Norms, biases and all: a parity of ones and zeros would prove little."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * scale)
    return model.double().eval()


def copy(target, source, offset: float = 0.0, transpose: bool = False):
    """``target``'s tensors from ``source``'s; a triple for each that was copied, to compare gradients."""
    pairs = []
    for name, parameter in target.named_parameters(recurse=False):
        other = getattr(source, name)
        value = (other.T if transpose and other.ndim == 2 else other) + offset
        with torch.no_grad():
            parameter.copy_(value)
        pairs.append((parameter, other, transpose and other.ndim == 2))
    return pairs


@contextmanager
def float32_is_double():
    """What norms, softmax and rotations take through float32 goes through float64 instead."""
    with patch.object(torch, "float32", torch.float64), patch.object(torch.Tensor, "float", torch.Tensor.double):
        yield


def hold(model, oracle, pairs, **more):
    """Logits and each copied parameter's gradient to 1e-9 in float64, then the logits once more in float32, to 1e-5."""
    tokens = torch.randint(VOCABULARY, (2, LENGTH), generator=torch.Generator().manual_seed(1))
    model.eval()
    with float32_is_double():
        got, expected = model(input_ids=tokens, labels=tokens), oracle(input_ids=tokens, labels=tokens, **more)
        got.loss.backward()
        expected.loss.backward()
    torch.testing.assert_close(got.logits, expected.logits, atol=1e-9, rtol=0)
    for mine, theirs, transposed in pairs:
        gradient = theirs.grad.T if transposed else theirs.grad
        torch.testing.assert_close(mine.grad, gradient, atol=1e-9, rtol=1e-9)
    single = model.float()(input_ids=tokens).logits
    torch.testing.assert_close(single, oracle.float()(input_ids=tokens, **more).logits, atol=1e-5, rtol=1e-5)


def llama_like(model, oracle, norms, offset=0.0):
    """``norms`` maps each of our norms in a block to the oracle's name for it."""
    inner, theirs = model.model, oracle.model
    pairs = copy(inner.embed_tokens, theirs.embed_tokens) + copy(inner.norm, theirs.norm, offset)
    if not model.config.tie_word_embeddings:
        pairs += copy(model.lm_head, oracle.lm_head)
    for block, layer in zip(inner.layers, theirs.layers, strict=True):
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            pairs += copy(getattr(block.attention, name), getattr(layer.self_attn, name))
        for name in ("gate_proj", "up_proj", "down_proj"):
            pairs += copy(getattr(block.mlp, name), getattr(layer.mlp, name))
        for path, name in norms.items():
            pairs += copy(block.get_submodule(path), layer.get_submodule(name), offset)
    return pairs


def set_equal(pairs) -> None:
    """Our parameter (first) from theirs (second), which may be an expression of theirs."""
    with torch.no_grad():
        for mine, theirs in pairs:
            assert mine.shape == theirs.shape
            mine.copy_(theirs)


def hold_exactly(got, expected, pairs, inputs, relative: float = 1e-9) -> None:
    """Outputs in float64, and the gradients of the inputs and of each pair of parameters."""
    assert_near(got, expected, "output", relative)
    direction = torch.randn(got.shape, dtype=got.dtype, generator=torch.Generator().manual_seed(1))
    mine = torch.autograd.grad((got * direction).sum(), [inputs, *(pair[0] for pair in pairs)])
    theirs = torch.autograd.grad((expected * direction).sum(), [inputs, *(pair[1] for pair in pairs)])
    floor = relative * 1e-3 * max(gradient.abs().max().item() for gradient in theirs)
    for number, (a, b) in enumerate(zip(mine, theirs, strict=True)):
        assert_near(a, b, f"gradient {number - 1} of {len(pairs)} (-1 is the input)", relative, floor)
