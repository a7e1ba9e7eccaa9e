"""Pretrained models as starting points: models of other classes as resformer's, wired anew, and back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from .files import whole_folder
from .model import ResformerConfig, ResformerForCausalLM
from .model.architectures import ARCHITECTURES, our_config, our_state, their_config, their_state
from .model.rewiring import CANNOT_LOAD, Rewired, quietly, rewired, with_residual
from .run import Run

SEQUENCES, LENGTH = 4, 64
"""Of random tokens, on which two models are compared."""
_WHERE = ("cache_dir", "local_files_only", "revision", "subfolder", "token", "trust_remote_code")


def from_pretrained(
    model: str | Path | Run | PreTrainedModel, residual: Any = None, *, seed: int = 0, **options: Any
) -> ResformerForCausalLM:
    """A pretrained model as a resformer one with equal logits, ready to be trained, probed, saved or wired otherwise.

    Args:
        model: a folder, a name of the hub, a run, or a loaded model: of resformer, or of a class in the table of
            ``resformer/model/README.md``.
        residual: another wiring, in any form of ``ResformerConfig.residual``; weights that it brings along start as it
            says.
        seed: of these, where they are drawn.
        options: of transformers' ``from_pretrained``: ``dtype`` (by default the checkpoint's), ``revision``, ...

    Returns:
        The model in eval mode, sharing nothing with a loaded one.

    Raises:
        ValueError: one line, for what cannot be loaded, or has something that this model has not.
    """
    found = imported(load(model, **options))
    return found if residual is None else rewire(found, residual, seed).model


def load(model: str | Path | Run | PreTrainedModel, **options: Any) -> PreTrainedModel:
    """A model of resformer or of a known class, as it is. Raises ValueError, one line, for any other."""
    if isinstance(model, PreTrainedModel):
        _known(model.config)
        return model.eval()
    where = _folder(model)
    try:
        with quietly():
            _known(AutoConfig.from_pretrained(where, **{key: options[key] for key in _WHERE if key in options}))
            found: PreTrainedModel = AutoModelForCausalLM.from_pretrained(where, **options)
    except CANNOT_LOAD as error:
        raise ValueError(f"{where} cannot be imported: {_first_line(error)}") from error
    return found.eval()


def imported(model: PreTrainedModel) -> ResformerForCausalLM:
    """A loaded model of a known class as a resformer one, with tensors of its own; a resformer one as it is.

    Raises:
        ValueError: one line that says what this model has not.
    """
    if isinstance(model, ResformerForCausalLM):
        return model
    kind, config = model.config.model_type, our_config(model.config)
    found, anew, left_behind = rewired(config, our_state(dict(model.state_dict()), config, kind))
    assert not anew and not left_behind, (anew, left_behind)
    return _named_after(found, model)


def rewire(model: ResformerForCausalLM, residual: Any, seed: int = 0) -> Rewired:
    """The same model with another wiring, sharing no tensor; see ``resformer.model.rewiring``.

    Args:
        residual: in any form of ``ResformerConfig.residual``.
        seed: of the weights that it brings along, where they are drawn.

    Raises:
        ValueError: one line, if it does not describe the stack.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        found = rewired(with_residual(model.config, residual), model.state_dict())
    _named_after(found.model, model)
    return found


def to_transformers(model: ResformerForCausalLM, model_type: str = "hf") -> PreTrainedModel:
    """A resformer model as one of another class, where that can hold it: ``imported`` backwards.

    Args:
        model_type: of transformers; ``hf`` for the first that can.

    Raises:
        ValueError: one line that says what that class has not.
    """
    if model_type == "hf":
        model_type = _class_for(model.config)
    config = their_config(model.config, model_type)
    state = {name: tensor.clone() for name, tensor in their_state(model.state_dict(), model.config, model_type).items()}
    with quietly():
        model_class: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
        found: PreTrainedModel = model_class.from_pretrained(None, config=config, state_dict=state, dtype=model.dtype)
    found.generation_config = model.generation_config
    return found.eval()


class Difference(NamedTuple):
    """Of two models' logits: the largest, and KL(one || other) in nats per token."""

    largest: float
    divergence: float


@torch.no_grad()
def difference(one: PreTrainedModel, other: PreTrainedModel, seed: int = 0) -> Difference:
    """How far two models of one vocabulary are apart, on 4 sequences of up to 64 random tokens."""
    length = min(LENGTH, one.config.max_position_embeddings)
    tokens = torch.randint(one.config.vocab_size, (SEQUENCES, length), generator=torch.Generator().manual_seed(seed))
    p, q = (model.eval()(input_ids=tokens.to(model.device), use_cache=False).logits.double() for model in (one, other))
    divergence = torch.nn.functional.kl_div(q.log_softmax(-1), p.log_softmax(-1), log_target=True, reduction="sum")
    return Difference((p - q).abs().max().item(), divergence.item() / tokens.numel())


def import_model(
    model: str,
    out: str,
    *,
    residual: Any = None,
    to: str | None = None,
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    seed: int = 0,
) -> Iterator[str]:
    """Write a pretrained model to a folder as a resformer one, with its tokenizer; or one of resformer as another's.

    Args:
        model: folder or hub name of a model of a known class, a resformer model, or a run.
        out: folder that is made.
        residual: another wiring than the model's own.
        to: write a resformer model as one of this model_type of transformers; hf for the first that can hold it.
        dtype: of the weights; by default the checkpoint's.
        seed: of weights that another wiring brings along.

    Returns:
        Lines that say what was done, each when it is done.

    Raises:
        ValueError: one line, for what cannot be loaded, carried or written.
    """
    folder = Path(out)
    if folder.exists():
        raise ValueError(f"{out} is there already; give another folder")
    original = load(model, dtype=dtype)
    found = imported(original)
    yield f"model      {found.num_parameters():,} parameters of {original.config.model_type}, {found.dtype}"
    if found is not original:
        yield f"import     {_said(difference(original, found), 'the original')}"
    written: PreTrainedModel = found
    if residual is not None:
        changed = rewire(found, residual, seed)
        written = changed.model
        yield (
            f"residual   {residual!r}: {_said(difference(found, written), 'before')}; "
            f"{len(changed.anew)} tensors start anew, {len(changed.left_behind)} are left behind"
        )
    if to is not None:
        ours = written
        written = to_transformers(written, to)  # type: ignore[arg-type]
        yield f"export     {written.config.model_type}: {_said(difference(ours, written), 'before')}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with whole_folder(folder) as temporary, quietly():
        written.save_pretrained(temporary)
        try:
            AutoTokenizer.from_pretrained(_folder(model)).save_pretrained(temporary)
            tokenizer = "with its tokenizer"
        except CANNOT_LOAD as error:
            tokenizer = f"without a tokenizer ({_first_line(error)})"
    yield f"written    {folder}, {tokenizer}"


def _said(found: Difference, than: str) -> str:
    if found.largest == 0:
        return f"logits bit-equal to {than}"
    return f"logits differ from {than} by {found.largest:.2g} at most, KL {found.divergence:.2g} nats per token"


def _class_for(config: ResformerConfig) -> str:
    why = []
    for model_type in ARCHITECTURES:
        try:
            their_config(config, model_type)
            return model_type
        except ValueError as error:
            why.append(_first_line(error))
    raise ValueError(f"no class known here can hold this model: {why[0]}; {len(why) - 1} others neither")


def _known(config: Any) -> None:
    if config.model_type != ResformerConfig.model_type:
        our_config(config)


def _folder(model: str | Path | Run) -> str | Path:
    """Of the weights, where a run is given."""
    if isinstance(model, Run) or (Path(model) / "config.yaml").exists():
        return (model if isinstance(model, Run) else Run(model)).model_folder
    if not Path(model).exists() and (isinstance(model, Path) or model.count("/") > 1 or model[:1] in "./~"):
        raise ValueError(f"{model} is no folder; give that of a model or a run, or a name of the hub")
    return model


def _named_after(found: ResformerForCausalLM, other: PreTrainedModel) -> ResformerForCausalLM:
    found.generation_config = other.generation_config
    found.config.name_or_path = other.config.name_or_path
    return found.eval()


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).split("\n")[0]
