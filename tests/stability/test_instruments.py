"""The instruments of a run that is killed and goes on."""

import json

import pandas as pd
import pytest
from safetensors.torch import load, save
from stability_helpers import Recorded

EVERY, STEPS = 3, 7


@pytest.mark.parametrize("killed_at", range(1, STEPS))
def test_every_row_after_a_kill_equals_the_undisturbed_run_s(killed_at, tmp_path):
    """``update_cosine`` among them, which holds an update against the one before."""
    (tmp_path / "whole").mkdir()
    whole = Recorded("highway*1,pre*rest", tmp_path / "whole", EVERY)
    whole.instruments.begin(0)
    undisturbed = whole.train(1, STEPS)
    assert sorted(undisturbed[undisturbed.metric == "update_cosine"].step.unique()) == [3, 6]

    killed = Recorded("highway*1,pre*rest", tmp_path, EVERY)
    killed.instruments.begin(0)
    killed.train(1, killed_at)
    watch, tensors = json.dumps(killed.instruments.state_dict()), save(killed.instruments.tensors())
    assert bool(killed.instruments.tensors()) == ((killed_at + 1) % EVERY == 0)  # not a byte that nobody needs
    weights, moments = killed.model.state_dict(), killed.optimizer.state_dict()

    again = Recorded("highway*1,pre*rest", tmp_path, EVERY)
    again.model.load_state_dict(weights)
    again.optimizer.load_state_dict(moments)
    again.instruments.begin(killed_at, json.loads(watch), load(tensors))
    pd.testing.assert_frame_equal(again.train(killed_at + 1, STEPS), undisturbed, check_exact=True)
