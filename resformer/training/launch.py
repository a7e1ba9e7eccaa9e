"""The processes of a run: how many there are, on which device, in which precision."""

import json
import os
import socket
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from accelerate.utils import InitProcessGroupKwargs, LoggerType, ProjectConfiguration
from transformers.utils import logging

from ..programs import command_line, launcher, parent
from .memory import keep_freed_memory


def make_accelerator(run_dir: str, trackers: list[str], patience: float = 600.0) -> Accelerator:
    """Accelerate's processes and precision: that of ``default_precision`` unless the launch says otherwise.

    Args:
        patience: seconds that a process waits for the others, to begin with and in every exchange.

    Raises:
        ValueError: if fewer processes joined than were launched, if they are to split the model, or if a tracker is
            not installed.
    """
    registered = set(LOGGER_TYPE_TO_CLASS) - set(LoggerType.list())
    for name in trackers:
        if name not in registered.union(map(str, get_available_trackers())):
            raise ValueError(
                f"trackers: {name!r} is not one of accelerate's or not installed; those that are common come with "
                "pip install 'resformer[trackers]'"
            )
    for other in ("DeepSpeed", "Megatron_LM"):
        if _is_set(f"ACCELERATE_USE_{other.upper()}"):
            raise ValueError(
                f"{other} steps a model by itself, and a run here has optimisers of its own; launch without it and "
                "give --train.shard true, which splits weights, gradients and optimiser states (FSDP2)"
            )
    logging.disable_progress_bar()  # one bar at a time, and none where nobody looks
    has_accelerator = torch.accelerator.is_available()
    # Without an accelerator, only cpu=True makes the launched processes know of each other.
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:  # what an earlier run in this process left
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
    _find_the_launcher(patience)
    accelerator = Accelerator(
        cpu=not has_accelerator,
        mixed_precision=precision_of_a_run(),
        log_with=trackers or None,
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(seconds=patience))],
        project_config=ProjectConfiguration(project_dir=run_dir, logging_dir=str(Path(run_dir) / "trackers")),
    )
    if not has_accelerator:
        keep_freed_memory()
    if threads := int(os.environ.get("RESFORMER_NUM_THREADS", "0")):  # a sweep divides the cores between its trials
        torch.set_num_threads(threads)
    elif not has_accelerator and not _threads_were_chosen():
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
    if accelerator.mixed_precision == "fp16":
        raise ValueError("fp16 overflows without a scaled loss; launch with --mixed_precision bf16, or no")
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != launched:
        raise ValueError(
            f"{launched} processes were launched but {accelerator.num_processes} joined; launch with "
            "'accelerate launch --multi_gpu --num_processes N', also on CPUs, or with torchrun"
        )
    return accelerator


def takes_over_fsdp() -> bool:
    """Whether the launch asks for FSDP: that is ``train.shard`` here, and accelerate is told nothing more of it.

    Raises:
        ValueError: one line, for what ``train.shard`` does not do.
    """
    asked = _is_set("ACCELERATE_USE_FSDP")
    if asked and _is_set("FSDP_OFFLOAD_PARAMS"):
        raise ValueError("fsdp_offload_params: split weights stay on their devices here; set it to false")
    if asked and _is_set("FSDP_ACTIVATION_CHECKPOINTING"):
        raise ValueError("fsdp_activation_checkpointing: set it to false and give --train.gradient_checkpointing true")
    os.environ["ACCELERATE_USE_FSDP"] = "false"
    return asked


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "false").lower() in ("true", "1", "yes")


def _find_the_launcher(patience: float) -> None:
    """The store over which processes find each other is the launcher's, there before they are: where it is gone, so is
    the launcher, and torch would knock at its door until the time-out."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        where = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        try:
            socket.create_connection(where, timeout=patience).close()
        except OSError as error:
            raise torch.distributed.DistNetworkError(f"no launcher answers at {where}") from error


def precision_of_a_run() -> str:
    """What the launch says, or ``default_precision`` where it says nothing."""
    return os.environ.get("ACCELERATE_MIXED_PRECISION", "no") if _precision_was_chosen() else default_precision()


def default_precision() -> Literal["bf16", "no"]:
    """``bf16`` autocast where the device multiplies bfloat16 in hardware, else ``no`` (float32): on a CPU that only
    emulates it a training step takes an order of magnitude longer."""
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no"
    if torch.accelerator.is_available():
        return "bf16"
    able = torch.cpu.get_capabilities()
    return "bf16" if any(able.get(name) for name in ("amx_bf16", "avx512_bf16", "bf16")) else "no"


def _precision_was_chosen() -> bool:
    """Whether 'no' is a choice: ``accelerate launch`` sets the variable always, to 'no' where nothing was said."""
    if os.environ.get("ACCELERATE_MIXED_PRECISION", "no") != "no":
        return True
    words = command_line(parent())
    return "--mixed_precision" in words or ("ACCELERATE_MIXED_PRECISION" in os.environ and "accelerate" not in words)


def _threads_were_chosen() -> bool:
    """Launchers say 1 where nobody chose; the cores that this process may use are better divided."""
    said = os.environ.get("OMP_NUM_THREADS")
    return said is not None and (said != "1" or launcher() is None)


def start_trackers(accelerator: Accelerator, config: dict[str, Any]) -> None:
    """Begin logging to the trackers asked for, under the project name resformer and the name of the run's folder, with
    the run's configuration.

    Raises:
        ValueError: one line, if one of them does not start.
    """
    plain = {k: v if isinstance(v, (int, float, str)) else json.dumps(v) for k, v in config.items()}
    folder, name = str(accelerator.logging_dir), Path(config["run_dir"]).name
    os.makedirs(folder, exist_ok=True)  # or wandb would write where the program was started
    own = {"wandb": {"dir": folder, "name": name}, "trackio": {"name": name}}
    try:
        accelerator.init_trackers("resformer", config=plain, init_kwargs=own)
    except Exception as error:
        raise ValueError(
            f"trackers: one does not start ({error}); for wandb log in, or set WANDB_MODE=offline"
        ) from error


def track_results(accelerator: Accelerator, summary: dict[str, Any]) -> None:
    """Tell the trackers the figures of summary.json, as ``final/val_loss`` and so on."""
    said = {f"final/{k}": v for k, v in summary.items() if isinstance(v, (int, float, str))}
    accelerator.log(said, step=summary["step"])
