"""Whether a run's blocks are compiled, and how."""

import shutil

import torch
import torch._dynamo
import torch._inductor.config
from accelerate import Accelerator
from torch.utils._triton import has_triton

from ..model import ResformerConfig
from .config import RunConfig

_OVERHEAD = {"cpu": 5e-3, "cuda": 1.5e-3}
"""Seconds of a step for each block, however small it is: of starting its operations, forward, backward and in the
optimiser. Seen on one core (4 blocks of width 64, 512 tokens, 25 ms); of a GPU a guess."""
PAYS_TWICE = 2
"""Compiling takes a minute for certain, and what it saves is an estimate: it has to be so many times as much."""
_COST = 60.0
"""Seconds until the blocks of a stack are compiled, for training and for evaluation, whatever their kind: the arms of a
sweep must decide alike, or their step times would not compare."""
_SAVES = {"cpu": 0.1, "cuda": 0.25}
"""Share of a run's time, by device; elsewhere nobody has measured it."""
_SPEED = {"cpu": 5e10, "cuda": 1e14}
"""Floating-point operations a second, eager: of a core in float32, of a GPU. In bfloat16 a core that has it does ten
times as many."""


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
    """A rough estimate for a whole run of pre-norm blocks: six operations for each weight of the branches and of the
    read-out and for each token, 12 for each pair of tokens and channel, and what it takes to start them."""
    device, length = accelerator.device.type, config.data.sequence_length
    operations = 6 * model_config.vocab_size * model_config.widths()[-1]
    for layer, width in enumerate(model_config.widths()):
        operations += 6 * branch_weights(model_config, layer) + 12 * length * width
    speed = _SPEED[device]
    if device == "cpu":
        speed *= torch.get_num_threads() * (10 if accelerator.mixed_precision == "bf16" else 1)
    tokens = config.train.max_steps * config.train.batch_size * length
    started = config.train.max_steps * model_config.num_hidden_layers * _OVERHEAD[device]  # type: ignore[operator]
    return operations * tokens / speed / accelerator.num_processes + started


def branch_weights(model_config: ResformerConfig, layer: int) -> int:
    """Of attention and MLP of a block."""
    width = model_config.widths()[layer]
    heads = model_config.num_attention_heads + model_config.num_key_value_heads  # type: ignore[operator]
    mlp = (3 if model_config.gated_mlp else 2) * model_config.at(layer).intermediate_size  # type: ignore[operator]
    return width * (2 * heads * model_config.head_dim + mlp)  # type: ignore[operator]


def compile_blocks(model) -> None:
    """Compile each block in place; blocks that differ only in depth share a graph, and so do models of equal shape.
    Dropout draws the numbers that it draws uncompiled.

    Where a connection's history grows with depth every block is another graph, one for training and one for evaluation,
    and all that one process compiles counts against torch's limit, past which it would go on uncompiled without a word.
    """
    blocks, limits = model.model.layers, torch._dynamo.config
    torch._inductor.config.fallback_random = True
    limits.recompile_limit += 2 * len(blocks)
    limits.accumulated_recompile_limit = max(limits.accumulated_recompile_limit, limits.recompile_limit)
    limits.fail_on_recompile_limit_hit = True
    for block in blocks:
        block.compile()
