"""Whether a run's blocks are compiled, and how."""

import shutil

import torch
import torch._dynamo
import torch._inductor.config
from accelerate import Accelerator
from torch.utils._triton import has_triton

from ..model import ResformerConfig
from .config import RunConfig

_BLOCK = {"cpu": 4e-3, "cuda": 1.5e-3}
"""Seconds of a step for each block, however small it is: of starting its operations, forward, backward and in the
optimiser. What is said of a CPU here and below is fitted to the steps that the tests list; of a GPU it is a guess."""
_STEP = {"cpu": 10e-3, "cuda": 2e-3}
"""Seconds of a step without any block."""
_CHANNEL = {"cpu": 7e-8, "cuda": 1e-11}
"""Seconds for each token and channel of a block, in operations that are no products: of a core, of a GPU."""
PAYS_TWICE = 2
"""Compiling takes a minute for certain, and what it saves is an estimate: it has to be so many times as much."""
_COST = 60.0
"""Seconds until the blocks of a stack are compiled, for training and for evaluation, whatever their kind: the arms of a
sweep must decide alike, or their step times would not compare."""
_SAVES = {"cpu": 0.1, "cuda": 0.25}
"""Share of a run's time, by device; elsewhere nobody has measured it."""
_SPEED = {"cpu": 8e10, "cuda": 1e14}
"""Floating-point operations of products a second, eager: of a core in float32, of a GPU."""
_BFLOAT16 = 1.9
"""How many times as many a core does in bfloat16 that has it."""
_MUON = 25
"""Operations of Muon's five iterations for each weight of a matrix and each row of it, at each step."""


def decide(config: RunConfig, model_config: ResformerConfig, accelerator: Accelerator) -> tuple[bool, str]:
    """Whether to compile, and the reason in a few words. Follows from configuration and machine alone, so that a run
    that goes on does as before.

    Where ``train.compile`` is ``auto``: an estimate of the time of the whole run without it, of which compiling must
    save ``PAYS_TWICE`` what it takes.
    """
    if config.train.compile != "auto":
        return bool(config.train.compile), "as told"
    device = accelerator.device.type
    if device not in _SAVES:
        return False, f"auto, not measured on {device}"
    if config.train.gradient_checkpointing:
        return False, "auto, activations are recomputed"
    if device == "cpu" and not any(map(shutil.which, ("c++", "g++", "clang++"))):
        return False, "auto, there is no C++ compiler"
    if device == "cuda" and not has_triton():
        return False, "auto, there is no Triton"
    seconds = eager_seconds(config, model_config, accelerator)
    saved = _SAVES[device] * seconds
    answer = saved > PAYS_TWICE * _COST
    return answer, f"auto, saves about {saved:,.0f} s of a run of about {seconds:,.0f} s and takes about {_COST:.0f} s"


def eager_seconds(config: RunConfig, model_config: ResformerConfig, accelerator: Accelerator) -> float:
    """An estimate of the steps of a run of pre-norm blocks, of looks and evaluations nothing: six operations for each
    weight of the branches and of the read-out and for each token, 12 for each pair of tokens and channel, Muon's, the
    passes over all channels, and what it takes to start them."""
    device, length, widths = accelerator.device.type, config.data.sequence_length, model_config.widths()
    operations, updates = 6 * model_config.vocab_size * widths[-1], 0
    for layer, width in enumerate(widths):
        weights = branch_weights(model_config, layer)
        operations += 6 * weights + 12 * length * width
        updates += _MUON * width * weights if config.optimizer.name == "muon" else 0
    cores = torch.get_num_threads() if device == "cpu" else 1
    speed = cores * _SPEED[device] * (_BFLOAT16 if device == "cpu" and accelerator.mixed_precision == "bf16" else 1)
    tokens = config.train.batch_size * length / accelerator.num_processes
    step = (operations * tokens + updates) / speed + sum(widths) * tokens * _CHANNEL[device] / cores
    return config.train.max_steps * (step + len(widths) * _BLOCK[device] + _STEP[device])


def branch_weights(model_config: ResformerConfig, layer: int) -> int:
    """Of attention and MLP of a block."""
    width = model_config.widths()[layer]
    heads = model_config.num_attention_heads + model_config.num_key_value_heads  # type: ignore[operator]
    mlp = (3 if model_config.gated_mlp else 2) * model_config.at(layer).intermediate_size  # type: ignore[operator]
    return width * (2 * heads * model_config.head_dim + mlp)  # type: ignore[operator]


def compile_blocks(model) -> None:
    """Compile each block in place; blocks that differ only in depth share a graph, and so do models of equal shape.
    Dropout draws the numbers that it draws uncompiled.

    For the sizes that it sees first and no others: once a size may vary, as torch takes it to where the state of the
    first block is unlike that of the others, the streams of ``hyper`` take a sixth longer.

    Where a connection's history grows with depth every block is another graph, one for training and one for evaluation,
    and all that one process compiles counts against torch's limit, past which it would go on uncompiled without a word.
    """
    blocks, limits = model.model.layers, torch._dynamo.config
    torch._inductor.config.fallback_random = True
    limits.recompile_limit += 2 * len(blocks)
    limits.accumulated_recompile_limit = max(limits.accumulated_recompile_limit, limits.recompile_limit)
    limits.fail_on_recompile_limit_hit = True
    for block in blocks:
        block.compile(dynamic=False)
