"""From what a person writes under ``residual`` to one connection per site."""

import ast
import importlib
import inspect
import itertools
import math
import re
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Literal, get_args, get_origin, get_type_hints

import torch
import yaml

from .initialization import SCHEMES
from .residual import OWN, SUBLAYERS, Residual, Site
from .residual_custom import CUSTOM
from .residual_dense import KINDS as DENSE
from .residual_gated import KINDS as GATED
from .residual_history import KINDS as HISTORY
from .residual_lanes import KINDS as LANES
from .residual_placement import KINDS as PLACEMENT
from .residual_scaled import KINDS as SCALED
from .residual_shortcut import KINDS as SHORTCUT
from .residual_streams import KINDS as STREAMS
from .trust import refuse_what_nobody_named

KINDS: dict[str, type[Residual]] = {
    **PLACEMENT, **SCALED, **GATED, **SHORTCUT, **HISTORY, **DENSE, **LANES, **STREAMS
}  # fmt: skip
"""Every kind of the package by the name a person writes."""


def mix_ln(num_hidden_layers: int, *, alpha: float = 0.25) -> str:
    """``post`` for the first alpha L blocks, ``pre`` after. Li et al. 2024 (Mix-LN), arXiv:2412.13795.

    Rounded down, as in the paper's runs (``num_hidden_layers // 4``).

    Raises:
        ValueError: if alpha is not in [0, 1].
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is {alpha}; it must be in [0, 1]")
    posts = math.floor(alpha * num_hidden_layers + 1e-9)  # 0.29 of 100 is 28.999... in binary
    return f"post*{posts},pre*{num_hidden_layers - posts}"


COMMON = tuple(list(inspect.signature(Residual.set_common_options).parameters)[1:])
"""Options that every kind takes."""

PRESETS: dict[str, Callable[..., str]] = {"mix_ln": mix_ln}
"""Names for whole stacks: what a person could have written as a pattern."""

_ITEM = re.compile(
    r"^(?:(?P<whole>[\[{].*[\]}])|(?P<kind>[\w.:]+)\s*(?:\((?P<options>.*)\))?)\s*(?:\*\s*(?P<count>\w+))?$", re.DOTALL
)


class ResidualError(ValueError):
    """What is wrong with a ``residual`` specification, in one line: what, where, what is allowed."""


def did_you_mean(word: str, allowed) -> str:
    """`` (did you mean 'x'?)`` with the nearest of ``allowed``, or nothing where none is near."""
    near = get_close_matches(str(word), list(allowed), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


@dataclass(frozen=True)
class Connection:
    """One site's connection as written: ``kind`` (a name of ``KINDS`` or an import path) and its options."""

    kind: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def residual_class(self) -> type[Residual]:
        return find_class(self.kind)


def find_class(kind: str) -> type[Residual]:
    """The class a kind names.

    Raises:
        ResidualError: if the kind is unknown, or its import path leads nowhere or not to a ``Residual``, or stands in a
            file and its module is neither imported already nor named by the person.
    """
    if kind in KINDS:
        return KINDS[kind]
    if kind in CUSTOM:
        return CUSTOM[kind]
    if ":" not in kind:
        names = sorted([*KINDS, *PRESETS])
        raise ResidualError(
            f"residual: unknown kind {kind!r}{did_you_mean(kind, names)}; allowed: {', '.join(names)}, or a class of "
            "your own as my_package.my_module:MyResidual"
        )
    module, _, name = kind.partition(":")
    try:
        refuse_what_nobody_named(kind)
    except ValueError as error:
        raise ResidualError(f"residual: {error}") from error
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise ResidualError(
            f"residual: cannot import {kind!r} ({error}); put its folder on PYTHONPATH, or load a checkpoint that "
            "carries it with trust_remote_code=True"
        ) from error
    if not (isinstance(found, type) and issubclass(found, Residual) and found is not Residual):
        raise ResidualError(f"residual: {kind!r} is not a subclass of resformer.model.residual.Residual")
    return found


def resolve(residual: Any, num_hidden_layers: int) -> list[dict[str, Connection]]:
    """One ``{sublayer: Connection}`` for each block.

    Args:
        residual: a kind, a kind with options (``{kind: ..., option: ...}`` or ``kind(option=value)``), a pattern by
            depth (``post*1,{attention: peri, mlp: rezero}*2,pre*rest``), a mapping by sublayer, or a list with one of
            these per layer; mappings and lists may be written as YAML.
        num_hidden_layers: number of blocks to fill.

    Raises:
        ResidualError: for anything that does not describe a stack of that many blocks.
    """
    if isinstance(residual, str):
        return _from_pattern(residual, num_hidden_layers)
    if isinstance(residual, Mapping):
        if "kind" in residual:
            return _repeat(residual["kind"], {k: v for k, v in residual.items() if k != "kind"}, num_hidden_layers)
        return _from_sublayers(residual, num_hidden_layers)
    if isinstance(residual, (list, tuple)):
        if len(residual) != num_hidden_layers:
            raise ResidualError(
                f"residual: the list has {len(residual)} entries, num_hidden_layers is {num_hidden_layers}; "
                "write one entry per layer"
            )
        return [_part(f"layer {layer}", entry, 1)[0] for layer, entry in enumerate(residual)]
    raise ResidualError(f"residual: cannot read {residual!r}; write a kind, a pattern, a mapping or a list")


def place(
    connections: list[dict[str, Connection]], sublayers: tuple[str, ...] = SUBLAYERS, widths: list[int] | None = None
) -> list[dict[str, Site]]:
    """One ``{sublayer: Site}`` for each block, with the segments that consecutive equal connections form.

    Args:
        connections: as ``resolve`` gives them.
        sublayers: what a block consists of.
        widths: of the stream in each block; a segment ends where it changes.
    """
    widths = widths or [0] * len(connections)
    flat = [
        (blocks[sublayer], width) for blocks, width in zip(connections, widths, strict=True) for sublayer in sublayers
    ]
    starts = [i for i, connection in enumerate(flat) if i == 0 or connection != flat[i - 1]]
    bounds = [*starts, len(flat)]
    segments = [(a, b) for a, b in itertools.pairwise(bounds) for _ in range(a, b)]
    sites: list[dict[str, Site]] = []
    for layer in range(len(connections)):
        places = {}
        for i, sublayer in enumerate(sublayers):
            width = widths[max(0, layer - 1)] if i == 0 else widths[layer]
            segment = segments[layer * len(sublayers) + i]
            places[sublayer] = Site(layer, sublayer, len(connections), *segment, sublayers, width or None)
        sites.append(places)
    return sites


def build(config, connection: Connection, site: Site) -> Residual:
    """The connection as a module at its site.

    Raises:
        ResidualError: if an option is out of its range, naming the site.
    """
    common = {name: value for name, value in connection.options.items() if name in COMMON}
    own = {name: value for name, value in connection.options.items() if name not in COMMON}
    try:
        residual = connection.residual_class(config, site, **own)
        residual.set_common_options(**common)
        if residual.initialization not in (OWN, *SCHEMES):
            residual.starts_like = (_other(residual.initialization, config, site),)
        for name, value in connection.options.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{name} is {value}; it must be a finite number")
    except ResidualError:
        raise
    except (ValueError, TypeError) as error:
        raise ResidualError(f"residual {connection.kind!r} at {site}: {error}") from error
    return residual


def _other(kind: str, config, site: Site) -> Residual:
    """The connection of another kind, of which only the start of its branch is asked: it takes no memory.

    Raises:
        ResidualError: if ``initialization`` names neither a scheme nor a kind of the package.
    """
    if kind not in KINDS:
        names = [OWN, *SCHEMES, *sorted(KINDS)]
        allowed = f"allowed: {', '.join([OWN, *SCHEMES])}, or a kind whose start the branch takes"
        raise ResidualError(
            f"residual at {site}: unknown initialization {kind!r}{did_you_mean(kind, names)}; {allowed}"
        )
    with torch.device("meta"):
        return KINDS[kind](config, site)


def _part(where: str, residual: Any, num_hidden_layers: int) -> list[dict[str, Connection]]:
    """``resolve`` for a part of the stack, which the one line names."""
    try:
        return resolve(residual, num_hidden_layers)
    except ResidualError as error:
        raise ResidualError(str(error).replace("residual", f"residual, {where}", 1)) from error


def _repeat(kind: Any, options: dict[str, Any], count: int) -> list[dict[str, Connection]]:
    """``count`` blocks of one kind, or of what a preset stands for."""
    if isinstance(kind, str) and kind in PRESETS:
        try:
            return resolve(PRESETS[kind](count, **_checked_options(kind, PRESETS[kind], 1, options)), count)
        except ValueError as error:
            raise ResidualError(f"residual {kind!r}: {error}".replace("residual: ", "")) from error
    connection = _checked(kind, options)
    return [dict.fromkeys(SUBLAYERS, connection) for _ in range(count)]


def _from_pattern(pattern: str, num_hidden_layers: int) -> list[dict[str, Connection]]:
    items = [_ITEM.match(item.strip()) for item in split_outside_brackets(pattern)]
    if not all(items):
        raise ResidualError(
            f"residual: cannot read {pattern!r}; write for example pre, layerscale(init=1e-4) or post*1,pre*rest"
        )
    matches = [item for item in items if item]
    if len(matches) == 1 and matches[0]["count"] is None:
        if matches[0]["whole"]:
            return resolve(_yaml(matches[0]["whole"]), num_hidden_layers)
        counts = [num_hidden_layers]
    else:
        counts = _counts(pattern, [match["count"] or "1" for match in matches], num_hidden_layers)
    return [
        block
        for match, count in zip(matches, counts, strict=True)
        for block in (
            resolve(_yaml(match["whole"]), count)
            if match["whole"]
            else _repeat(match["kind"], _options(match["options"], match["kind"]), count)
        )
    ]


def _yaml(text: str) -> Any:
    """A mapping or a list as it stands in a file or on the command line."""
    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
            raise ResidualError("residual: aliases (*name) are not read here; write out what they stand for")
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ResidualError(f"residual: cannot read {text!r} ({' '.join(str(error).split())})") from error


def split_outside_brackets(pattern: str) -> list[str]:
    """At the commas that stand outside brackets."""
    parts, depth = [""], 0
    for character in pattern:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def _counts(pattern: str, written: list[str], total: int) -> list[int]:
    for count in written:
        if count != "rest" and not count.isdecimal():
            raise ResidualError(f"residual: {pattern!r} has the count {count!r}; write a number or 'rest'")
    fixed = sum(int(count) for count in written if count != "rest")
    rests = written.count("rest")
    if rests > 1:
        raise ResidualError(f"residual: {pattern!r} says 'rest' {rests} times; once is allowed")
    if fixed > total or (fixed < total and not rests):
        raise ResidualError(
            f"residual: the counts of {pattern!r} add up to {fixed}, num_hidden_layers is {total}; "
            "change one, or let the last fill up with *rest"
        )
    return [total - fixed if count == "rest" else int(count) for count in written]


def _from_sublayers(mapping: Mapping, num_hidden_layers: int) -> list[dict[str, Connection]]:
    for key in mapping:
        if key not in SUBLAYERS:
            raise ResidualError(
                f"residual: unknown key {key!r}{did_you_mean(key, (*SUBLAYERS, 'kind'))}; "
                f"write either kind and its options, or {' and '.join(SUBLAYERS)}"
            )
    if missing := [sublayer for sublayer in SUBLAYERS if sublayer not in mapping]:
        raise ResidualError(f"residual: {dict(mapping)!r} says nothing of {missing[0]!r}; name both sublayers")
    columns = {sublayer: _part(sublayer, mapping[sublayer], num_hidden_layers) for sublayer in SUBLAYERS}
    return [{s: columns[s][layer][s] for s in SUBLAYERS} for layer in range(num_hidden_layers)]


def _options(text: str | None, kind: str) -> dict[str, Any]:
    options = {}
    for part in split_outside_brackets(text) if text and text.strip() else []:
        name, equals, value = part.partition("=")
        if not equals:
            raise ResidualError(f"residual: {kind}({text}): write options as name=value")
        if name.strip() in options:
            raise ResidualError(f"residual: {kind}({text}) gives {name.strip()!r} twice; once is allowed")
        options[name.strip()] = _literal(value.strip())
    return options


def _literal(text: str) -> Any:
    words = {"true": True, "false": False, "null": None}  # YAML's, where none is a word like any other
    if text.lower() in words:
        return words[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return text


def _checked(kind: Any, options: dict[str, Any]) -> Connection:
    """The connection with its options' names and types held against the class's signature."""
    if not isinstance(kind, str):
        raise ResidualError(f"residual: the kind must be a name, not {kind!r}")
    common = {name: value for name, value in options.items() if name in COMMON}
    own = {name: value for name, value in options.items() if name not in COMMON}
    own = _checked_options(kind, find_class(kind).__init__, 3, own)
    return Connection(kind, own | _checked_options(kind, Residual.set_common_options, 1, common))


def _checked_options(kind: str, function: Callable, skipped: int, options: dict[str, Any]) -> dict[str, Any]:
    hints = get_type_hints(function)
    parameters = list(inspect.signature(function).parameters)[skipped:]
    for name, value in options.items():
        if name not in parameters:
            names = [*parameters, *COMMON] if kind not in PRESETS else parameters
            allowed = f"allowed: {', '.join(names)}"
            raise ResidualError(f"residual: {kind!r} has no option {name!r}{did_you_mean(name, names)}; {allowed}")
        options[name] = _checked_value(kind, name, value, hints.get(name, Any))
    return options


def _checked_value(kind: str, name: str, value: Any, hint: Any) -> Any:
    alternatives = get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    for alternative in alternatives:
        if alternative is Any or (alternative in (None, type(None)) and value is None):
            return value
        if get_origin(alternative) is Literal:
            if value in get_args(alternative):
                return value
        elif alternative is float and not isinstance(value, bool):
            try:  # YAML reads 1e-4 as a string
                return float(value)
            except (TypeError, ValueError, OverflowError):
                continue
        elif isinstance(alternative, type) and type(value) is alternative:
            return value
    choices = [repr(c) for a in alternatives if get_origin(a) is Literal for c in get_args(a)]
    expected = f"one of {', '.join(choices)}" if choices else str(getattr(hint, "__name__", hint))
    raise ResidualError(f"residual: option {name!r} of {kind!r} is {value!r}; it takes {expected}")
