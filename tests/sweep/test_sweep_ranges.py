"""No number of a sweep is what no sweep could use, and no name names nothing: one line says which key it is."""

import copy
import dataclasses
import math
import types
from typing import Union, get_args, get_origin

import pytest
from test_shipped import FILES

from resformer.keys import flat
from resformer.sweeps.config import ExecutorConfig, LearningRates, Seeds, SweepConfig, parse_sweep
from resformer.sweeps.results import Statistics

GROUPS = {"": SweepConfig, "learning_rates.": LearningRates, "seeds.": Seeds, "statistics.": Statistics}
GROUPS |= {"executor.": ExecutorConfig}
QUICK = str(next(file for file in FILES if file.stem == "quick"))


def kinds(hint) -> set:
    if get_origin(hint) in (Union, types.UnionType, tuple, list):
        return set().union(*(kinds(part) for part in get_args(hint)))
    return {hint}


NUMBERS = {
    f"{prefix}{item.name}": item
    for prefix, group in GROUPS.items()
    for item in dataclasses.fields(group)
    if kinds(item.type) & {int, float}
}


def holds_several(hint) -> bool:
    return any(get_origin(part) in (list, tuple) for part in (hint, *get_args(hint)))


def test_all_numbers_are_walked():
    told = SweepConfig()
    numeric = {key for key, value in flat(dataclasses.asdict(told)).items()
               if isinstance(value, (int, float, list)) and not isinstance(value, bool)}  # fmt: skip
    assert numeric - {"exclude"} < set(NUMBERS)
    assert {"statistics.window", "executor.workers", "executor.devices"} < set(NUMBERS)  # empty by default


@pytest.mark.parametrize("key", NUMBERS)
def test_every_number_has_a_range_it_is_finite_and_it_is_kept(key):
    low, high = NUMBERS[key].metadata["range"]
    assert -math.inf < low < high < math.inf
    whole = parse_sweep(["--config", QUICK])
    for value in (math.nan, math.inf, -math.inf, -1, 10**20, 10**400):
        config = copy.deepcopy(whole)
        *group, name = key.split(".")
        place = getattr(config, group[0]) if group else config
        vars(place)[name] = [1, value] if holds_several(NUMBERS[key].type) else value
        with pytest.raises(ValueError, match=rf"^{key} is ") as error:
            config.check()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("statistics.margin", ".nan"), ("statistics.margin", "1e400"), ("statistics.delta", ".nan"),
        ("statistics.delta", ".inf"), ("statistics.window", "[.nan, 1]"), ("learning_rates.grid", "[.nan, 0.1]"),
        ("learning_rates.grid", "[.inf, 0.1]"), ("learning_rates.multiples", "[1, .nan]"),
        ("learning_rates.multiples", "[1, .inf]"), ("learning_rates.extend_by", "-5"), ("executor.devices", "-3"),
        ("executor.workers", "1000000000"), ("executor.threads", "1000000000"), ("executor.retries", "1000000000"),
        ("executor.stall", ".nan"), ("seeds.reporting", "[99999999999999999999999, 1]"),
        ("seeds.tuning", f"[{2**63 - 1}]"),  # from which an A/A arm's own could not be made
        ("sweep_dir", ""), ("sweep_dir", "nan"), ("program", ""),
    ],
)  # fmt: skip
def test_nonsense_is_refused_and_the_key_is_named(key, value):
    with pytest.raises(ValueError, match=rf"^{key} is ") as error:
        parse_sweep(["--config", QUICK, f"--{key}={value}"])
    assert "\n" not in str(error.value)
