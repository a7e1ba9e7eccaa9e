"""What this house asks of every residual connection, for a person's own class too.

``check(MyResidual)``, or on the command line ``pytest tests/model --residual my_module:MyResidual``. Each check builds
small models of the class (four blocks, 32 wide, two key heads for four queries) away from special starts such as all
zeros, where a fault could hide.
"""

import copy
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from .model import ResformerConfig, ResformerForCausalLM, Residual
from .model.residual_custom import CUSTOM
from .stability.seam import connections

VOCABULARY = 29
SHAPE: dict[str, Any] = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4,
         "num_key_value_heads": 2, "max_position_embeddings": 64}  # fmt: skip
CLOSE: dict[str, Any] = {"atol": 1e-6, "rtol": 1e-6}


def tokens(batch: int = 2, length: int = 12, seed: int = 0) -> torch.Tensor:
    """``[batch, length]``, without the tokens 0 and 1."""
    return torch.randint(2, VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(seed))


@dataclass(frozen=True)
class Subject:
    """What is checked.

    Attributes:
        residual: as ``ResformerConfig`` takes it.
        options: other keys of the configuration.
    """

    residual: Any
    options: dict[str, Any] = field(default_factory=dict)

    def fresh(self, residual: Any = None, seed: int = 0, **options) -> ResformerForCausalLM:
        """A small model as training would start it, in eval mode."""
        torch.manual_seed(seed)
        residual = self.residual if residual is None else residual
        return ResformerForCausalLM(ResformerConfig(**(SHAPE | self.options | options), residual=residual)).eval()

    def build(self, residual: Any = None, seed: int = 0, **options) -> ResformerForCausalLM:
        """A small model away from its start, in eval mode."""
        model = self.fresh(residual, seed, **options)
        generator = torch.Generator("cpu").manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator, device="cpu") * 0.1)
        model.advance(500)
        return model

    def mixes(self) -> list[Any]:
        """Stacks in which it stands beside other kinds, but for what a connection for whole blocks refuses."""
        one, found = self.residual, []
        if not isinstance(one, str | Mapping) or "hidden_size" in self.options or "*" in str(one):
            return []
        for stack in (["plain", one, one, "hyper"], ["concat", one, {"attention": one, "mlp": "pre"}, "post"]):
            try:
                self.fresh(stack)
            except ValueError as error:
                if "whole blocks" not in str(error) and "parallel_block" not in str(error):
                    raise
            else:
                found.append(stack)
        return found


def starts(subject: Subject) -> None:
    """Every tensor says where it starts: a model built without memory and filled later equals one built at once."""
    expected = subject.fresh()
    with torch.device("meta"):
        model = subject.fresh()
    model.to_empty(device="cpu")
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            tensor.data.fill_(float("nan"))
    for module in model.modules():
        module._is_hf_initialized = False  # type: ignore[assignment]
    torch.manual_seed(0)
    model.initialize_weights()
    there = dict(model.named_parameters()) | dict(model.named_buffers())
    for name, tensor in (dict(expected.named_parameters()) | dict(expected.named_buffers())).items():
        assert torch.equal(there[name], tensor), (
            f"{name} does not say where it starts: make it with parameter or buffer"
        )


def boundary(subject: Subject) -> None:
    """What leaves a segment is what entered it, where nothing was written between: exit(enter(h)) = h."""
    h = torch.randn(2, 3, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for residual in connections(subject.build().double()):
        if residual.returns_what_entered and residual.config.hidden_size == 32:
            torch.testing.assert_close(residual.exit(residual.enter(h)), h, rtol=1e-14, atol=1e-14)


def causality(subject: Subject) -> None:
    """No token sees a later one, by gradient; every token sees itself and all before it."""
    for residual in (subject.residual, *subject.mixes()):
        model = subject.build(residual).double()
        embedded = model.model.embed_tokens(tokens(1, 10)).detach().requires_grad_()
        logits = model(inputs_embeds=embedded, use_cache=False).logits
        for position in (0, 4, 9):
            (gradient,) = torch.autograd.grad(logits[0, position].sum(), embedded, retain_graph=True)
            seen = gradient[0].abs().amax(-1) > 0
            assert not seen[position + 1 :].any(), f"token {position} sees a later one"
            assert seen[: position + 1].all(), f"token {position} does not see all up to itself"


def cache(subject: Subject) -> None:
    """Generation with a cache, and a prompt in chunks, equal one forward pass over the whole."""
    model, ids = subject.build(), tokens()
    generated = model.generate(ids, max_new_tokens=8, do_sample=False)  # type: ignore[misc]
    for _ in range(8):
        following = model(input_ids=ids, use_cache=False).logits[:, -1:].argmax(-1)
        ids = torch.cat([ids, following], dim=1)
    assert torch.equal(torch.as_tensor(generated), ids), "generation with the cache differs from generation without"
    model, ids = model.double(), tokens(length=15)
    past, parts = None, []
    for chunk in ids.split([4, 1, 7, 3], dim=1):
        output = model(input_ids=chunk, past_key_values=past, use_cache=True)
        past = output.past_key_values
        parts.append(output.logits)
    torch.testing.assert_close(torch.cat(parts, 1), model(input_ids=ids, use_cache=False).logits, **CLOSE)


def padding(subject: Subject) -> None:
    """Padding on the left changes no logits: a row alone, and behind four padded places beside a longer one."""
    model, short, long = subject.build().double(), tokens(1, 5), tokens(1, 9, seed=1)
    batch = torch.cat([torch.nn.functional.pad(short, (4, 0), value=0), long])
    mask = (torch.arange(9) >= torch.tensor([[4], [0]])).long()
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    together = model(input_ids=batch, attention_mask=mask, position_ids=positions, use_cache=False).logits
    for row, alone in ((together[:1, 4:], short), (together[1:], long)):
        torch.testing.assert_close(row, model(input_ids=alone, use_cache=False).logits, **CLOSE)


def rows(subject: Subject) -> None:
    """The rows of a batch do not meet."""
    model, ids = subject.build().double(), tokens(4)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(model(input_ids=ids[order]).logits, model(input_ids=ids).logits[order])


def gradients(subject: Subject) -> None:
    """Gradients are those of the loss: the directional derivative by central differences, in float64."""
    model, ids = subject.build().double(), tokens()
    parameters = [p for p in model.parameters() if p.requires_grad]
    generator = torch.Generator().manual_seed(2)
    direction = [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in parameters]

    def loss(step):
        with torch.no_grad():
            for p, d in zip(parameters, direction, strict=True):
                p.add_(d, alpha=step)
        return model(input_ids=ids, labels=ids).loss

    found = torch.autograd.grad(loss(0.0), parameters)
    expected = sum((g * d).sum() for g, d in zip(found, direction, strict=True))
    size = 2e-8  # small, or a ReLU somewhere turns within the step
    plus, minus = loss(size), loss(-2 * size)
    torch.testing.assert_close((plus - minus) / (2 * size), expected, rtol=2e-5, atol=0)


def checkpointing(subject: Subject) -> None:
    """Gradient checkpointing changes no gradient, dropout included."""
    model, ids, found = subject.build(hidden_dropout=0.2).train(), tokens(), []
    for recompute in (False, True):
        if recompute:
            model.activation_checkpointing_enable()
        torch.manual_seed(1)
        model.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        found.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)


def save_and_load(subject: Subject) -> None:
    """A saved model loads bit-equal, its residual connections described as they were."""
    from transformers import AutoModelForCausalLM

    model, ids = subject.build(), tokens()
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        loaded = AutoModelForCausalLM.from_pretrained(folder)
    assert torch.equal(loaded(input_ids=ids).logits, model(input_ids=ids).logits)
    assert loaded.config.residual == model.config.residual
    if model.config.tie_word_embeddings:
        assert loaded.lm_head.weight is loaded.model.embed_tokens.weight


def copies(subject: Subject) -> None:
    """A copy of a model is independent of it."""
    model, ids = subject.build(), tokens()
    before, twin = model(input_ids=ids).logits, copy.deepcopy(model)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(1)
    assert torch.equal(model(input_ids=ids).logits, before)
    assert not torch.equal(twin(input_ids=ids).logits, before)


def compiling(subject: Subject) -> None:
    """Blocks compile to whole graphs and share them, unless the state grows: depth is a buffer and not a number.

    Of six blocks the first, the inner and the last may differ.
    """
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    counter = CompileCounter()
    alone = isinstance(subject.residual, str) and "*" not in subject.residual and "hidden_size" not in subject.options
    model, ids = subject.build(**({"num_hidden_layers": 6} if alone else {})).train(), tokens()
    with _states(model) as states:
        torch.manual_seed(1)
        expected = model(input_ids=ids, labels=ids).loss
    for block in model.model.layers:
        block.compile(backend=counter, fullgraph=True)
    torch.manual_seed(1)
    torch.testing.assert_close(model(input_ids=ids, labels=ids).loss, expected)  # products may be in another order
    if alone and len({len({*map(id, tree_leaves(state))}) for state in states[:-1]}) == 1:
        assert counter.frame_count <= 3, f"{counter.frame_count} graphs for 6 blocks"


def precision(subject: Subject) -> None:
    """Between sites the stream is in float32 under autocast, in bfloat16 in a bfloat16 model, beside others too."""
    for residual in (subject.residual, *subject.mixes()):
        for promised in (torch.float32, torch.bfloat16):
            model, ids = subject.build(residual).train(), tokens()
            model.to(dtype=promised)
            with _states(model) as states, torch.autocast("cpu", torch.bfloat16, enabled=promised == torch.float32):
                loss = model(input_ids=ids, labels=ids).loss
            loss.backward()
            found = {x.dtype for x in tree_leaves(states)}
            assert found == {promised}, f"the stream is in {found}, not in {promised}"
            assert loss.isfinite(), "the loss is not finite"
            assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def device(subject: Subject) -> None:
    """Forward and backward run on the meta device, so neither waits for a device or leaves it."""
    with torch.device("meta"):
        model = subject.build().train()
        ids = torch.empty(2, 12, dtype=torch.long)
        loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    assert all(p.grad.is_meta for p in model.parameters() if p.grad is not None)


def measuring(subject: Subject) -> None:
    """What it shows of its inside are tensors by name, streams are as wide as the model, a lesion leaves it whole."""
    model, ids = subject.build(), tokens()
    hidden_states = model(input_ids=ids, output_hidden_states=True).hidden_states
    assert [h.shape[:2] for h in hidden_states] == [ids.shape] * (model.config.num_hidden_layers + 1)
    assert set(model.optimizer_hints()) == {name for name, _ in model.named_parameters()}
    shown: list[torch.Tensor] = []

    def looked_at(formula, residual):
        def forward(state, branch):
            shown.extend(residual.internals(state).values())
            return formula(state, branch)

        return forward

    with _instead(model, "forward", looked_at):
        model(input_ids=ids)
    assert all(isinstance(value, torch.Tensor) for value in shown), "internals gives tensors by name"
    with _instead(model, "forward", lambda _, residual: residual.lesioned):
        assert model(input_ids=ids).logits.isfinite().all(), "without its branches the model is not finite"


@contextmanager
def _states(model: ResformerForCausalLM) -> Iterator[list[Any]]:
    """The states that the sites hand on."""
    states: list[Any] = []

    def kept(step, _):
        def and_keep(state, branch):
            states.append(step(state, branch))
            return states[-1]

        return and_keep

    with _instead(model, "step", kept):
        yield states


@contextmanager
def _instead(
    model: ResformerForCausalLM, method: str, wrap: Callable[[Callable, Residual], Callable]
) -> Iterator[None]:
    """Each connection's own method wrapped."""
    for residual in connections(model):
        setattr(residual, method, wrap(getattr(residual, method), residual))
    try:
        yield
    finally:
        for residual in connections(model):
            delattr(residual, method)


Check = Callable[[Subject], None]
CHECKS: dict[str, Check] = {
    found.__name__: found
    for found in (starts, boundary, causality, cache, padding, rows, gradients, checkpointing, save_and_load, copies,
                  compiling, precision, device, measuring)
}  # fmt: skip


class CheckFailed(AssertionError):
    """At least one check does not hold; the message is the table of all."""


@dataclass(frozen=True)
class Checked:
    """Check by check, None where it holds, or else what was found. Shows itself as a table."""

    of: str
    found: dict[str, str | None]

    def __str__(self) -> str:
        lines = [f"{self.of}: {sum(error is None for error in self.found.values())} of {len(self.found)} checks hold"]
        for name, error in self.found.items():
            what = (CHECKS[name].__doc__ or "").split("\n")[0]
            lines.append(f"  {'holds ' if error is None else 'FAILS '} {name:14} {what}")
            lines += [] if error is None else [f"         {' ':14} {error}"]
        return "\n".join(lines)

    __repr__ = __str__


def check(
    residual: Any,
    *,
    only: Collection[str] = (),
    skip: Collection[str] = (),
    model: Mapping[str, Any] | None = None,
    **options,
) -> Checked:
    """Hold a residual connection to what this house asks of every one.

    Args:
        residual: a class, or anything that ``ResformerConfig`` takes as ``residual``.
        only, skip: names of ``CHECKS``; by default all. A method that changes gradients on purpose skips ``gradients``.
        model: other keys of the configuration, such as ``{"parallel_block": True}``.
        **options: of the class.

    Returns:
        The table of checks, all of which hold.

    Raises:
        CheckFailed: with the same table, if one does not hold.
        ValueError: for an unknown check, or options that the class refuses.
    """
    if unknown := {*only, *skip} - set(CHECKS):
        raise ValueError(f"no check is called {sorted(unknown)[0]!r}; there are {', '.join(CHECKS)}")
    found: dict[str, str | None] = {}
    with _named(residual, options) as spec:
        subject = Subject(spec, dict(model or {}))
        subject.fresh()
        for name in only or [name for name in CHECKS if name not in skip]:
            try:
                CHECKS[name](subject)
                found[name] = None
            except Exception as error:
                found[name] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    checked = Checked(getattr(residual, "__name__", str(residual)), found)
    if any(error is not None for error in found.values()):
        raise CheckFailed(str(checked))
    return checked


@contextmanager
def _named(residual: Any, options: dict[str, Any]) -> Iterator[Any]:
    """The class under a name that a configuration can hold, where it cannot be imported by one as well."""
    if not (isinstance(residual, type) and issubclass(residual, Residual)):
        if options:
            raise ValueError("options go with a class; write them into the description, as in layerscale(init=1e-4)")
        yield residual
        return
    kind = f"{residual.__module__}:{residual.__qualname__}"
    CUSTOM[kind] = residual
    try:
        yield {"kind": kind, **options} if options else kind
    finally:
        del CUSTOM[kind]
