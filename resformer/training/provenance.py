"""On what a run ran: the code that decides its figures, the versions under it, the device and the precision."""

import hashlib
import platform
import subprocess
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

import torch

from ..files import digest

PACKAGES = ("torch", "transformers", "datasets", "accelerate", "einops", "tokenizers", "safetensors")
_ROOMS = ("data", "model", "stability", "training")
"""Whose source decides what a run computes; a page drawn anew is no other run."""


@lru_cache(maxsize=1)
def source_hash() -> str:
    """Twelve digits of the SHA-256 of the source that runs: also where it is installed, or under git and changed."""
    package, found = Path(__file__).parents[1], hashlib.sha256()
    for file in sorted(path for room in _ROOMS for path in (package / room).glob("*.py")):
        found.update(f"{file.relative_to(package).as_posix()}\0".encode() + file.read_bytes() + b"\0")
    return found.hexdigest()[:12]


def weights_hash(folder: Path) -> str:
    """Twelve digits of the SHA-256 of a model's configuration and weights."""
    files = sorted([folder / "config.json", *folder.glob("model*.safetensors")])
    return hashlib.sha256("".join(map(digest, files)).encode()).hexdigest()[:12]


@lru_cache(maxsize=1)
def git_commit() -> str | None:
    """Of the clone that runs; none where this package is not one."""
    package = Path(__file__).parents[1]
    if not (package.parent / ".git").exists():
        return None
    answer = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=package, check=False)
    return answer.stdout.strip() or None


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    return {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}


def device_name(threads: int | None = None) -> str:
    """The accelerator's name, or the processor's with the threads that compute: sums depend on both."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    if torch.accelerator.is_available():
        return f"{platform.machine()} {torch.accelerator.current_accelerator()}"
    return f"{_processor()}, {threads or torch.get_num_threads()} threads"


@lru_cache(maxsize=1)
def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{platform.machine()} CPU" + (f" {models[0]}" if models and models[0] else "")
