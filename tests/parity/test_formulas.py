"""Each kind against its published formula, as a plain loop over sites that shares no code with the classes.

Logits and the gradients of all parameters, float64, one to seven blocks, random options.
"""

import formulas_history
import formulas_single
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parity_helpers import assert_same, build, expected_logits, some_tokens

FORMULAS = formulas_single.FORMULAS | formulas_history.FORMULAS
OPTIONS = formulas_single.OPTIONS | formulas_history.OPTIONS
PARALLEL_ONLY = {"two_norms"}
SHALLOWEST = {"unet": 2}


def hold(residual, depth, seed=0, **options):
    model, tokens = build(residual, depth, seed, **options), some_tokens()
    assert_same(model, model(input_ids=tokens, use_cache=False).logits, expected_logits(model, tokens, FORMULAS))


@pytest.mark.parametrize("depth", range(1, 8))
@pytest.mark.parametrize("kind", FORMULAS)
def test_every_kind_at_every_depth(kind, depth):
    if depth < SHALLOWEST.get(kind, 1):
        with pytest.raises(ValueError, match="at least two"):
            build(kind, depth)
        return
    hold(kind, depth, parallel_block=kind in PARALLEL_ONLY)


@pytest.mark.parametrize("kind", FORMULAS)
@settings(max_examples=20, derandomize=True)
@given(data=st.data(), depth=st.integers(1, 6), seed=st.integers(0, 99), norm=st.sampled_from(["rmsnorm", "layernorm"]))
def test_random_options(kind, data, depth, seed, norm):
    depth = max(depth, SHALLOWEST.get(kind, 1))
    options = data.draw(st.fixed_dictionaries(OPTIONS.get(kind, {})))
    hold({"kind": kind, **options}, depth, seed, norm=norm, norm_eps=1e-4, parallel_block=kind in PARALLEL_ONLY)


@pytest.mark.parametrize("norm", formulas_single.PLACEMENTS)
@pytest.mark.parametrize("schedule", formulas_single.SCHEDULES)
def test_progress_over_training(schedule, norm):
    for steps in (0, 1, 4, 5, 7, 14, 15, 40):
        hold({"kind": "prores", "schedule": schedule, "warmup_steps": 15, "norm": norm}, 3, steps=steps)


@pytest.mark.parametrize("roles", ["shared", "value", "separate"])
@pytest.mark.parametrize("parallel", [False, True])
def test_added_attention_over_depth_with_heads_and_roles(roles, parallel):
    """Not drawn at random: it refuses blocks of several sites."""
    hold({"kind": "attn_res", "routing": "add", "heads": 4, "roles": roles}, 3, parallel_block=parallel)
