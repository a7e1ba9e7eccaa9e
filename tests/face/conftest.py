import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from face_helpers import TEXT, tiny, tiny_sweep

import resformer

# Tiny models gain nothing from more threads, and tests run beside each other.
os.environ["RESFORMER_NUM_THREADS"] = "1"


@pytest.fixture(scope="session")
def text(tmp_path_factory):
    file = tmp_path_factory.mktemp("text") / "text.txt"
    file.write_text(TEXT)
    return file


@pytest.fixture(scope="session")
def run(text, tmp_path_factory):
    """A finished run, trained through the face."""
    folder = tmp_path_factory.mktemp("runs") / "one"
    return resformer.train(residual="post*1,pre*rest", run_dir=str(folder), **tiny(text))


@pytest.fixture(scope="session")
def sweep(text, tmp_path_factory):
    """A finished sweep of two arms, run through the face."""
    return resformer.sweep(tiny_sweep(text, tmp_path_factory.mktemp("sweeps") / "two"))
