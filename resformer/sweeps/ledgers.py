"""What an arm costs and in what it differs from the baseline besides its residual connection."""

from dataclasses import dataclass

import torch

from ..data import Corpus
from ..keys import flat
from ..model import ResformerForCausalLM
from ..model.residual import Residual
from ..training.config import RunConfig
from ..training.setup import initial_model, model_config
from .trials import Sweep

_INITIAL_VALUES_UP_TO = 50_000_000
_DIFFERENT = 1e-3


@dataclass(frozen=True)
class Ledger:
    """Of one arm at one point: ``parameters``, those outside embeddings, floating-point operations per token (forward
    and backward), ``tokens`` of one run, and its ``residual`` as written."""

    parameters: int
    non_embedding: int
    flops_per_token: int
    tokens: int
    residual: str


def ledger(config: RunConfig, corpus: Corpus) -> Ledger:
    """Read off a model on the meta device, whose weights take no memory."""
    with torch.device("meta"):
        model = ResformerForCausalLM(model_config(config, corpus))
    tables = {id(weight): weight.numel() for weight in _embeddings(model)}
    parameters = model.num_parameters()
    return Ledger(
        parameters,
        parameters - sum(tables.values()),
        model.floating_point_operations_per_token(config.data.sequence_length),
        config.train.max_steps * config.train.batch_size * config.data.sequence_length,
        str(model.config.residual),
    )


def differences(sweep: Sweep, arm: str, point: str, corpus: Corpus) -> list[str]:
    """In words, everything but the residual connection in which ``arm`` differs from the baseline at ``point``.

    Keys of the configuration; initial values, learning-rate and weight-decay multipliers of the parameters that both
    have; and the parameters that only one has. Above 50 million parameters initial values are not compared.
    """
    baseline = sweep.config.controls.baseline
    ours, theirs = sweep.runs[arm, point], sweep.runs[baseline, point]
    a, b = flat(ours.as_dict()), flat(theirs.as_dict())
    found = [
        f"{key}: {a.get(key)!r}, the baseline {b.get(key)!r}"
        for key in sorted(set(a) | set(b))
        if key not in ("model.residual", "run_dir") and a.get(key) != b.get(key)
    ]
    if arm == sweep.config.controls.a_a_control:
        return [*found, "initial weights and dropout from seeds of its own (A/A)"]
    big = ledger(theirs, corpus).parameters > _INITIAL_VALUES_UP_TO
    one, other = (_model(config, corpus, big) for config in (ours, theirs))
    return found + _parameters(one, other, compare_values=not big)


def _parameters(one: ResformerForCausalLM, other: ResformerForCausalLM, compare_values: bool) -> list[str]:
    ours, theirs = dict(one.named_parameters()), dict(other.named_parameters())
    our_hints, their_hints = one.optimizer_hints(), other.optimizer_hints()
    found = []
    for label, mine, his in (("its own", ours, theirs), ("only the baseline's", theirs, ours)):
        if only := [name for name in mine if name not in his]:
            number = sum(mine[name].numel() for name in only)
            found.append(f"{label} parameters: {number:,} in {len(only)} tensors, {_pattern(only[0])}, ...")
    groups: dict[str, list[str]] = {}
    for name in (name for name in ours if name in theirs):
        if ours[name].shape != theirs[name].shape:
            groups.setdefault(f"shape {tuple(ours[name].shape)}, not {tuple(theirs[name].shape)}", []).append(name)
            continue
        hint, his_hint = our_hints[name], their_hints[name]
        if hint != his_hint:
            groups.setdefault(
                f"learning-rate multiplier {hint.learning_rate_multiplier:g} (baseline "
                f"{his_hint.learning_rate_multiplier:g}), weight-decay multiplier {hint.weight_decay_multiplier:g} "
                f"({his_hint.weight_decay_multiplier:g})", []).append(name)  # fmt: skip
        if compare_values and not torch.equal(ours[name], theirs[name]):
            rms, his_rms = (float(t.detach().float().square().mean().sqrt()) for t in (ours[name], theirs[name]))
            if his_rms and abs(rms / his_rms - 1) > _DIFFERENT:
                groups.setdefault(f"initial RMS x {rms / his_rms:.3g}", []).append(name)
            else:
                groups.setdefault("other initial values of the same RMS", []).append(name)
    for what, names in groups.items():
        kinds = sorted({_pattern(name) for name in names})
        found.append(f"{what}: {', '.join(kinds[:4])}{', ...' if len(kinds) > 4 else ''} ({len(names)} tensors)")
    return found


def _model(config: RunConfig, corpus: Corpus, meta: bool) -> ResformerForCausalLM:
    """Before its first step, with the weights that a run starts from; on the meta device none are compared."""
    torch.manual_seed(0)
    if not meta:
        return initial_model(config, model_config(config, corpus))
    with torch.device("meta"):
        return ResformerForCausalLM(model_config(config, corpus))


def _embeddings(model: ResformerForCausalLM) -> list[torch.Tensor]:
    inside = {id(m) for r in model.modules() if isinstance(r, Residual) for m in r.modules()}
    tables = [m.weight for m in model.modules() if isinstance(m, torch.nn.Embedding) and id(m) not in inside]
    return [*tables, model.lm_head.weight]


def _pattern(name: str) -> str:
    return ".".join("*" if part.isdigit() else part for part in name.removeprefix("model.").split("."))
