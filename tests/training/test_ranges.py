"""No value of any key ends in a traceback: it is refused in one line, or a run can be built of it."""

import dataclasses
import itertools
import math
import types
from typing import Union, get_args, get_origin

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from resformer import ResformerConfig, ResformerForCausalLM
from resformer.data import DataConfig
from resformer.keys import flat
from resformer.model.options import ResformerOptions
from resformer.training import RunConfig, parse_arguments
from resformer.training.config import ModelOptions, OptimizerConfig, ScheduleConfig, TrainConfig, run_config
from resformer.training.optimizers import build_optimizers, lr_factor
from resformer.training.setup import micro_batch_size

GROUPS = (RunConfig, ModelOptions, DataConfig, OptimizerConfig, ScheduleConfig, TrainConfig, ResformerConfig)
KEYS = sorted({*flat(RunConfig().as_dict()), "model.rope_parameters", "data"} - {"model.residual"})
NUMBERS = [
    math.nan, math.inf, -math.inf, -1, 0, 1, 2, -0.5, 0.5, 1e-300, 1e20, 1e308, 2**31, 2**63, 10**20, 10**400,
]  # fmt: skip
WORDS = ["", "nan", "[]", "{}", "null", "true", "pre", "a*b", "256*99999999999999", "\0", "\ud800", "--", "ß\n"]
VALUES = [*NUMBERS, *WORDS, None, True, [], {}, [1], [math.nan, 0.9], [2**70] * 4, {"rope_theta": -1}, {"kind": 3}]


def kinds(hint) -> set:
    if get_origin(hint) in (Union, types.UnionType, tuple, list):
        return set().union(*(kinds(part) for part in get_args(hint)))
    return {hint}


def test_every_number_has_a_range_and_it_is_finite():
    of_the_tokenizer = {"pad_token_id", "bos_token_id", "eos_token_id"}
    for group in GROUPS:
        for item in dataclasses.fields(group):
            declared_here = group is not ResformerConfig or item.name in ResformerOptions.__annotations__
            if declared_here and kinds(item.type) & {int, float, "int", "float"} and item.name not in of_the_tokenizer:
                low, high = item.metadata["range"]
                assert -math.inf < low < high < math.inf, (group, item.name)


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(key=st.sampled_from(KEYS), value=st.sampled_from(VALUES))
@example("model.hidden_size", 2**20)
@example("model.num_hidden_layers", 10_000)
@example("train.batch_size", 2**24)
@example("optimizer.learning_rate", 1e6)
def test_a_value_is_refused_in_one_line_or_a_run_can_be_built_of_it(key, value):
    try:
        config = run_config({key: value})
    except ValueError as error:
        assert "\n" not in str(error)
        return
    number_or_name = [n for n in flat(config.as_dict()).values() if isinstance(n, float)]
    assert all(map(math.isfinite, number_or_name))
    if config.model.num_hidden_layers > 100:
        return
    with torch.device("meta"):
        model = ResformerForCausalLM(config.model_config(vocab_size=257))
        assert build_optimizers(model, config.optimizer)
    assert 0 <= lr_factor(0, config.train.max_steps, config.schedule) <= 1


@pytest.mark.slow
def test_every_value_of_every_key():
    for key, value in itertools.product(KEYS, VALUES):
        test_a_value_is_refused_in_one_line_or_a_run_can_be_built_of_it.hypothesis.inner_test(key, value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model.intermediate_size", "-1"), ("model.num_key_value_heads", "0"), ("model.num_key_value_heads", "-1"),
        ("model.head_dim", "0"), ("model.hidden_size", "2147483648"), ("model.intermediate_size", "2147483648"),
        ("model.head_dim", "2147483648"), ("model.num_hidden_layers", "2147483648"),
        ("train.batch_size", "1" + "0" * 20), ("data.num_workers", "2147483648"),
        ("model.final_logit_softcapping", "1e20"), ("model.final_logit_softcapping", "0"),
        ("model.final_logit_softcapping", "-1"), ("optimizer.learning_rate", "1e308"),
        ("model.norm_eps", ".nan"), ("model.norm_eps", ".inf"), ("model.norm_eps", "-1"),
        ("model.initializer_range", "-1"), ("model.embedding_initializer_range", ".inf"),
        ("optimizer.learning_rate", ".inf"), ("optimizer.weight_decay", ".inf"), ("optimizer.max_grad_norm", "-1"),
        ("optimizer.z_loss", "-1"), ("optimizer.betas", "[.nan, 0.9]"), ("schedule.warmup_steps", "-1"),
        ("schedule.warmup_steps", "501"), ("init_seed", "-1"), ("train.micro_batch_size", "0"),
        ("data.text_column", "nan"), ("data.text_column", "[]"), ("data.cache_dir", "nan"), ("data.cache_dir", "[]"),
        ("run_dir", ""),
    ],
)  # fmt: skip
def test_nonsense_is_refused_and_the_key_is_named(key, value):
    with pytest.raises(ValueError, match=key.replace(".", r"\.")) as error:
        parse_arguments([f"--{key}={value}"])
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_a_run_that_no_memory_holds_is_refused_before_it_takes_any(train):
    for flags in (
        ("--model.hidden_size", str(2**20), "--model.num_attention_heads", "16"),
        ("--train.batch_size", str(2**24), "--train.micro_batch_size", str(2**24), "--data.sequence_length", "512"),
    ):
        result = train("giant", *flags)
        assert result.returncode == 2, result.stderr
        assert len(result.stderr.splitlines()) == 1
        assert "GB" in result.stderr


def test_a_short_run_warms_up_within_its_steps_unless_told_otherwise():
    assert parse_arguments(["--train.max_steps", "8"]).schedule.warmup_steps == 8
    assert parse_arguments([]).schedule.warmup_steps == 30
    constant = ["--schedule.name", "constant", "--train.max_steps", "8"]  # it can go on
    assert parse_arguments(constant).schedule.warmup_steps == 30
    assert parse_arguments([*constant, "--schedule.warmup_steps", "9"]).schedule.warmup_steps == 9


def test_a_batch_that_does_not_divide_is_refused():
    config = parse_arguments(["--train.batch_size", "7", "--train.micro_batch_size", "2"])
    with pytest.raises(ValueError, match=r"train\.batch_size 7 does not divide into micro batches of 2 on 1"):
        micro_batch_size(config, types.SimpleNamespace(num_processes=1))
    assert micro_batch_size(parse_arguments(["--train.batch_size", "6"]), types.SimpleNamespace(num_processes=2)) == 3
