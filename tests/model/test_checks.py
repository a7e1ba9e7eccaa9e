"""Every kind and every mix is held to what this house asks; and a class that breaks a rule is found out."""

import pytest
from model_helpers import ALL, MIXES, OPTIONS, subject
from torch import nn

from resformer.checks import CHECKS, CheckFailed, check
from resformer.model import Residual, make_norm, parameter

ON_PURPOSE = {"gradients": {"pre(gpas=true)"}}
"""GPAS leaves out a part of the gradient."""
LONG = {"compiling": {*OPTIONS, *map(str, MIXES)}}


def pytest_generate_tests(metafunc):
    if "checked" not in metafunc.fixturenames:
        return
    given = metafunc.config.getoption("--residual")
    cases = [
        pytest.param(name, residual, id=f"{name}-{residual}",
                     marks=pytest.mark.slow if str(residual) in LONG.get(name, ()) else ())
        for residual in ([given] if given else ALL)
        for name in CHECKS
        if str(residual) not in ON_PURPOSE.get(name, ())
    ]  # fmt: skip
    metafunc.parametrize("name, checked", cases)


def test_it_holds(name, checked):
    CHECKS[name](subject(checked))


class Mine(Residual):
    """``h + s f(norm(h))``."""

    def __init__(self, config, site, *, start: float = 0.5):
        super().__init__(config, site)
        self.norm, self.s = make_norm(config), parameter(1, start=start)

    def forward(self, h, f):
        return h + self.s * f(self.norm(h))


def test_a_class_of_ones_own():
    found = check(Mine, start=0.3, only=["starts", "boundary", "causality", "save_and_load", "precision", "measuring"])
    assert "Mine: 6 of 6 checks hold" in str(found)
    assert "causality" in str(found)


class LooksAhead(Mine):
    def forward(self, h, f):
        return h + f(self.norm(h)).roll(-1, dims=1)


class SaysNoStart(Mine):
    def __init__(self, config, site):
        super().__init__(config, site)
        self.s = nn.Parameter(self.s.detach() * 2)


class Doubles(Mine):
    def exit(self, state):
        return 2 * state


class Numbers(Mine):
    def forward(self, h, f):
        return h + f(self.norm(h)) / (self.site.layer + 1)


class Waits(Mine):
    def forward(self, h, f):
        return h + f(self.norm(h)) * (1.0 if h.sum() > 0 else 0.5)


class HidesItsGate(Mine):
    def internals(self, state, written=None):
        return {"gate": self.s.tolist()}


@pytest.mark.parametrize("broken, name, message", [
    (LooksAhead, "causality", "sees a later one"), (LooksAhead, "cache", "Error"),
    (SaysNoStart, "starts", "attention_residual.s does not say where it starts"), (Doubles, "boundary", "not close"),
    (Numbers, "compiling", "graphs for 6 blocks"), (Waits, "device", "meta"), (Waits, "compiling", ""),
    (HidesItsGate, "measuring", "tensors by name"),
])  # fmt: skip
def test_what_breaks_a_rule_is_found_out(broken, name, message):
    with pytest.raises(CheckFailed, match=f"{broken.__name__}: 0 of 1 checks hold(.|\n)*{message}"):
        check(broken, only=[name])


def test_bad_questions():
    with pytest.raises(ValueError, match="no check is called 'casuality'; there are starts, "):
        check("pre", only=["casuality"])
    with pytest.raises(ValueError, match="options go with a class"):
        check("pre", start=1.0)
    with pytest.raises(ValueError, match="has no option 'begin'"):
        check(Mine, begin=1.0)
