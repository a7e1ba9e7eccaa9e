"""What a step of a kind takes, beside other packages' models and beside what the device can do at the most."""

from __future__ import annotations

import dataclasses
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache, partial
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import pandas as pd
import torch
from tqdm.auto import tqdm
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from ..model import ResformerConfig, ResformerForCausalLM
from .benchmark import UNTIMED, BareStep, peak_of_tensors, timed
from .compiling import compile_blocks
from .launch import default_precision
from .memory import keep_freed_memory
from .provenance import device_name, git_commit, versions

OTHERS = ("llama", "gpt2", "x-transformers")
WAYS = ("eager", "compiled")
CLOCKS = ("wall", "cpu")
_SHOWN = ("torch", "transformers", "x-transformers")


@dataclass
class Comparison:
    """What was measured: ``table`` has a row for each model and way, ``ceiling`` what the device reached at the most in
    the same process, ``about`` on what and how."""

    table: pd.DataFrame
    ceiling: dict[str, float]
    about: dict[str, Any]
    generation: dict[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """For JSON, which knows no NaN: what could not be counted is None."""
        return _finite(dataclasses.asdict(self) | {"table": self.table.to_dict(orient="records")})


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def compare(
    kinds: list[str],
    shape: dict[str, Any],
    batch_size: int,
    steps: int,
    others: list[str],
    ways: list[str],
    new_tokens: int = 0,
    clock: str = "wall",
) -> Comparison:
    """Training steps of all models in turn, so that a machine whose speed drifts favours nobody.

    Args:
        kinds: residual connections; ``pre``, which all are compared with, is always there.
        shape: keys of ``ResformerConfig`` and Llama's alike, ``max_position_embeddings`` as the sequence length.
        batch_size: sequences.
        steps: timed rounds.
        others: of ``OTHERS``, of the same width, depth and MLP parameters.
        ways: of ``WAYS``.
        new_tokens: also generate so many tokens, with a cache, one sequence, ``pre`` and Llama in turn; 0 does not.
        clock: of ``CLOCKS``: ``cpu`` is the time that the process itself had on a CPU, with one thread, in which what
            else a shared machine does hardly counts.

    Returns:
        In ``table``: ``model``, ``way``, ``parameters``, ``milliseconds`` (median), ``spread`` (half the distance of
        the quartiles over the median), ``tokens_per_second``, ``to_pre`` (median ratio within a round, to ``pre`` in
        the same way), ``utilisation`` (MFU as in Chowdhery et al. 2022, arXiv:2204.02311, ``operations`` a second, but
        over the ceiling of matrix products that was reached here), ``peak_bytes`` (all tensors of a step; nan where it
        cannot be counted), ``first_seconds`` (the first step, compiling included).

    Raises:
        ValueError: as ``refuse_untimeable`` does, for a package that is not installed, and for a clock that does not
            see the device.
    """
    refuse_untimeable(kinds, shape, batch_size, steps, new_tokens)
    if "x-transformers" in others and not find_spec("x_transformers"):
        raise ValueError("others: x-transformers is not installed; pip install x-transformers, or leave it out")
    device, timer = clock_and_device(clock)
    length = shape["max_position_embeddings"]
    tokens = torch.randint(shape["vocab_size"], (batch_size, length), device=device)
    makers = {kind: ours(kind, shape) for kind in dict.fromkeys(["pre", *kinds])}
    makers |= {name: _THEIRS[name](shape) for name in others}
    arms: dict[tuple[str, str], BareStep] = {}
    facts: dict[tuple[str, str], dict[str, Any]] = {}
    for name, make in makers.items():
        for way in ways:
            torch.manual_seed(0)
            model = make().to(device)
            fact = {"parameters": sum(p.numel() for p in model.parameters())}
            fact["operations"] = operations(model, shape, batch_size)
            step = BareStep(model, tokens)
            if way == "compiled":
                _compile(model)
            fact["first_seconds"] = timed(step)
            if way == "eager" or device.type == "cuda":
                fact["peak_bytes"] = peak_bytes(step, device)
            arms[name, way], facts[name, way] = step, fact
    rounds = [
        {arm: timed(step, timer) for arm, step in arms.items()} for _ in tqdm(range(UNTIMED + steps), disable=None)
    ]
    rounds = rounds[UNTIMED:]
    ceiling = measure_ceiling(device, batch_size * length, shape["hidden_size"], timer)
    rows = [_row(arm, facts, rounds, ceiling, tokens.numel()) for arm in arms]
    used = versions() | {name: version(name) for name in others if name == "x-transformers"}
    about = {
        "device": device_name(), "precision": default_precision(), "commit": git_commit(), "versions": used,
        "shape": shape, "batch_size": batch_size, "rounds": steps, "clock": clock, "start_up_seconds": start_up(),
    }  # fmt: skip
    generation = generate({n: makers[n] for n in ("pre", "llama") if n in makers}, device, new_tokens, shape, steps)
    return Comparison(pd.DataFrame(rows), ceiling, about, generation)


def refuse_untimeable(
    kinds: list[str], shape: dict[str, Any], batch_size: int, steps: int, new_tokens: int = 0
) -> None:
    """Before anything is timed.

    Raises:
        ValueError: one line, for a number that is too small or a model that cannot be.
    """
    length = shape["max_position_embeddings"]
    least = {
        "batch_size": (batch_size, 1), "steps": (steps, 1), "new_tokens": (new_tokens, 0),
        "sequence_length": (length, 2),  # a token, and the one that is predicted from it
    }  # fmt: skip
    least |= {key: (shape[key], 1) for key in ("num_hidden_layers", "hidden_size", "vocab_size")}
    for name, (number, allowed) in least.items():
        if number < allowed:
            raise ValueError(f"{name} is {number}; it must be at least {allowed}")
    if new_tokens >= length:
        raise ValueError(f"new_tokens is {new_tokens}; after a prompt, {length} of sequence_length hold {length - 1}")
    width, heads = shape["hidden_size"], shape["num_attention_heads"]
    if width % (2 * heads):
        raise ValueError(f"hidden_size is {width}; its {heads} heads of even width need a multiple of {2 * heads}")
    for kind in kinds:
        ResformerConfig(**shape, residual=kind)


def widths(hidden_size: int) -> dict[str, int]:
    """What follows from a model's width: a head for each 64, and an MLP of 8/3."""
    heads, mlp = max(1, hidden_size // 64), round(hidden_size * 8 / 3)
    return {"hidden_size": hidden_size, "intermediate_size": mlp, "num_attention_heads": heads}


def clock_and_device(clock: str) -> tuple[torch.device, Callable[[], float]]:
    """The device, and what tells the time; tensors on a CPU keep their memory, as in a run."""
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    if device.type == "cpu":
        keep_freed_memory()
    if clock == "wall":
        return device, time.perf_counter
    if device.type != "cpu":
        raise ValueError(f"clock is cpu, which does not see what {device.type} does; use wall")
    torch.set_num_threads(1)  # waiting threads would count
    return device, time.process_time


def _row(arm, facts, rounds, ceiling, tokens) -> dict[str, Any]:
    name, way = arm
    taken = [found[arm] for found in rounds]
    median = statistics.median(taken)
    low, _, high = statistics.quantiles(taken, n=4) if len(taken) > 1 else (median, median, median)
    return {
        "model": name,
        "way": way,
        "parameters": facts[arm]["parameters"],
        "milliseconds": 1e3 * median,
        "spread": (high - low) / 2 / median,
        "tokens_per_second": tokens / median,
        "to_pre": statistics.median(found[arm] / found["pre", way] for found in rounds),
        "utilisation": facts[arm]["operations"] / median / ceiling["products_per_second"],
        "peak_bytes": facts[arm].get("peak_bytes", float("nan")),
        "first_seconds": facts[arm]["first_seconds"],
    }


def measure_ceiling(
    device: torch.device, rows: int, width: int, clock: Callable[[], float] = time.perf_counter, tries: int = 7
) -> dict[str, float]:
    """The most that was seen of ``tries``: ``products_per_second``, floating-point operations of matrix products of an
    MLP's shape in the precision of a step, and ``bytes_per_second`` read and written by a copy of 64 MiB. On an
    accelerator 20 launches are timed at once, so that none waits for the host, and 1 GiB is copied, which no cache
    holds."""
    many, numbers = (1, 2**24) if device.type == "cpu" else (20, 2**28)
    dtype = torch.bfloat16 if default_precision() == "bf16" else torch.float32
    a, b = (torch.randn(*size, device=device, dtype=dtype) for size in ((rows, width), (width, 4 * width)))
    source = torch.zeros(numbers, device=device)
    target = torch.empty_like(source)

    def least(call: Callable[[], object]) -> float:
        def launches() -> None:
            for _ in range(many):
                call()

        return min(timed(launches, clock) for _ in range(tries)) / many

    product, copy = least(lambda: a @ b), least(lambda: target.copy_(source))
    return {"products_per_second": 8 * rows * width**2 / product, "bytes_per_second": 2 * source.nbytes / copy}


@lru_cache(maxsize=1)
def start_up() -> dict[str, float]:
    """Seconds of a new process, with warm files; measured once."""
    scripts = {
        "import resformer": "import resformer",
        "the model": "import resformer; resformer.ResformerForCausalLM",
        "the trainer": "import resformer; resformer.Trainer",
        "torch alone": "import torch",
    }
    return {name: min(timed(partial(_run, script)) for _ in range(2)) for name, script in scripts.items()}


def _run(script: str) -> None:
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)


def generate(
    makers: dict[str, Callable[[], Any]], device: torch.device, new_tokens: int, shape: dict[str, Any], rounds: int
) -> dict[str, float]:
    """Tokens a second that each model generates greedily with its cache from a prompt of 16: medians of ``rounds``
    rounds in turn, eager. Empty for 0 tokens."""
    if not new_tokens:
        return {}
    prompt = torch.randint(
        shape["vocab_size"], (1, min(16, shape["max_position_embeddings"] - new_tokens)), device=device
    )
    models = {name: make().to(device).eval() for name, make in makers.items()}
    for model in models.values():
        model.generation_config.eos_token_id = None
        model.generation_config.pad_token_id = 0

    def call(model) -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=default_precision() == "bf16"):
            model.generate(prompt, max_new_tokens=new_tokens, min_new_tokens=new_tokens, do_sample=False)

    taken = [{name: timed(partial(call, model)) for name, model in models.items()} for _ in range(rounds + 1)][1:]
    return {name: new_tokens / statistics.median(found[name] for found in taken) for name in models}


def operations(model: torch.nn.Module, shape: dict[str, Any], batch_size: int) -> int:
    """Floating-point operations of a step as PaLM counts them (Chowdhery et al. 2022, arXiv:2204.02311, appendix B):
    six for each token and weight of a matrix, and twelve for each block, channel and pair of tokens, causal attention
    in full as there. The embeddings, which are looked up, are none; the read-out is one, tied or not. What is computed
    again for the backward pass does not count."""
    length, width = shape["max_position_embeddings"], shape["hidden_size"]
    looked_up = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Embedding)}
    weights = sum(p.numel() for p in model.parameters() if p.ndim > 1 and id(p) not in looked_up)
    weights += shape["vocab_size"] * width * bool(shape.get("tie_word_embeddings"))
    attention = 12 * shape["num_hidden_layers"] * width * length**2 * batch_size
    return 6 * weights * length * batch_size + attention


def peak_bytes(step: BareStep, device: torch.device) -> float:
    """Bytes of all tensors (weights, gradients, optimiser, activations) when they were most, as a step alone needs that
    was taken before."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        own = 3 * sum(p.nbytes for p in step.model.parameters())  # with AdamW's moments
        before = torch.cuda.memory_allocated() - own
        torch.cuda.reset_peak_memory_stats()
        step()
        return torch.cuda.max_memory_allocated() - before
    return peak_of_tensors(step, step.model, [step.optimizer])


def _compile(model: torch.nn.Module) -> None:
    """Block by block, as a run does; another package's model whole where it does not say what its blocks are."""
    if isinstance(model, ResformerForCausalLM):
        compile_blocks(model)
        return
    parts: Any = model
    if isinstance(model, LlamaForCausalLM):
        parts = model.model.layers
    elif isinstance(model, GPT2LMHeadModel):
        parts = model.transformer.h
    for part in [parts] if parts is model else parts:
        part.compile()


def ours(kind: str, shape: dict[str, Any]) -> Callable[[], Any]:
    return lambda: ResformerForCausalLM(ResformerConfig(**shape, residual=kind))


def _llama(shape: dict[str, Any]) -> Callable[[], Any]:
    return lambda: LlamaForCausalLM(LlamaConfig(**shape))


def _gpt2(shape: dict[str, Any]) -> Callable[[], Any]:
    """Two matrices of an MLP where Llama has three: half as wide again."""
    return lambda: GPT2LMHeadModel(
        GPT2Config(
            vocab_size=shape["vocab_size"],
            n_positions=shape["max_position_embeddings"],
            n_embd=shape["hidden_size"],
            n_layer=shape["num_hidden_layers"],
            n_head=shape["num_attention_heads"],
            n_inner=round(shape["intermediate_size"] * 3 / 2),
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
        )
    )


def _x_transformers(shape: dict[str, Any]) -> Callable[[], Any]:
    def make():
        from x_transformers import Decoder, TransformerWrapper

        width = shape["hidden_size"]
        layers = Decoder(
            dim=width, depth=shape["num_hidden_layers"], heads=shape["num_attention_heads"],
            attn_dim_head=width // shape["num_attention_heads"], ff_mult=shape["intermediate_size"] / width,
            ff_glu=True, ff_swish=True, ff_no_bias=True, rotary_pos_emb=True, use_rmsnorm=True, attn_flash=True,
        )  # fmt: skip
        model = TransformerWrapper(
            num_tokens=shape["vocab_size"],
            max_seq_len=shape["max_position_embeddings"],
            attn_layers=layers,
            use_abs_pos_emb=False,
            tie_embedding=True,
        )
        return _WithLoss(model)

    return make


class _WithLoss(torch.nn.Module):
    """A model of logits, called as transformers' are."""

    def __init__(self, model: torch.nn.Module):
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor, use_cache: bool = False) -> Any:
        logits = self.model(input_ids)[:, :-1].flatten(0, 1).float()
        return _Loss(torch.nn.functional.cross_entropy(logits, labels[:, 1:].flatten()))


@dataclass
class _Loss:
    loss: torch.Tensor


_THEIRS = {"llama": _llama, "gpt2": _gpt2, "x-transformers": _x_transformers}


def rendered(found: Comparison, format: str) -> str:
    """The comparison as ``text`` or ``markdown``."""
    about, ceiling = found.about, found.ceiling
    table = found.table.assign(
        milliseconds=found.table.milliseconds.map("{:.1f}".format),
        spread=found.table.spread.map("{:.1%}".format),
        tokens_per_second=found.table.tokens_per_second.map("{:,.0f}".format),
        to_pre=found.table.to_pre.map("{:.3f}".format),
        utilisation=found.table.utilisation.map("{:.1%}".format),
        peak_bytes=(found.table.peak_bytes / 2**20).map("{:,.0f}".format),
        first_seconds=found.table.first_seconds.map("{:.1f}".format),
    ).rename(columns={"milliseconds": "ms", "tokens_per_second": "tokens/s", "to_pre": "/ pre",
                      "peak_bytes": "peak MiB", "first_seconds": "first s"})  # fmt: skip
    rows = [list(map(str, row)) for row in [table.columns, *table.itertuples(index=False)]]
    if format == "markdown":
        rows.insert(1, ["---"] * len(rows[0]))
        lines = ["| " + " | ".join(row) + " |" for row in rows]
    else:
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(text.rjust(width) for text, width in zip(row, widths, strict=True)) for row in rows]
    used = ", ".join(f"{name} {about['versions'][name]}" for name in _SHOWN if name in about["versions"])
    own = ", CPU time of one thread" if about["clock"] == "cpu" else ""
    lines += [
        "",
        f"{about['device']}, precision {about['precision']}, {used}, commit {about['commit']}",
        f"medians of {about['rounds']} rounds in turn{own}, {about['batch_size']} sequences, {about['shape']}",
        f"ceiling: {ceiling['products_per_second'] / 1e9:,.0f} GF/s of matrix products, "
        f"{ceiling['bytes_per_second'] / 1e9:.1f} GB/s of a copy",
    ]
    lines.append("start-up: " + ", ".join(f"{name} {s:.2f} s" for name, s in about["start_up_seconds"].items()))
    if "loop" in about:
        lines.append(f"the loop of recipes/train.py takes {about['loop']:.3f} of the bare step of pre, eager, of bytes")
    if found.generation:
        lines.append("generated: " + ", ".join(f"{name} {n:.0f} tokens/s" for name, n in found.generation.items()))
    return "\n".join(lines)
