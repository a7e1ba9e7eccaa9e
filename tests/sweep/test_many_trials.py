"""A worker does not grow with the trials that it has run; the program beside this file does it with a thousand."""

import os
from pathlib import Path

import many_trials
import pytest


@pytest.mark.slow
def test_a_worker_is_as_large_after_a_hundred_trials_as_after_forty(tmp_path):
    found = many_trials.many_trials(tmp_path, seeds=3, text=str(Path(os.__file__).parent / "[a-c]*.py"))
    assert len(found.peaks) >= 100
    assert found.peak(len(found.peaks)) < 1.02 * found.peak(40), many_trials.told_of(found)
