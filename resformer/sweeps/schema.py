"""What an editor is told of a sweep's YAML file beyond the types of its keys: the keys of a run inside it,
and ranges."""

import dataclasses
import json
from typing import Any

from ..keys import WHOLE_VALUES, nested
from ..training.config import run_parser

_BECAUSE = {"type": "string", "description": "Why the arm differs in more than its residual connection."}


def with_keys_of_a_run(schema: dict[str, Any]) -> dict[str, Any]:
    """A sweep's JSON schema in which ``base``, ``arms``, ``grid``, ``exclude`` and ``positive_control_at`` hold keys of
    a run, nested or dotted, and nothing else."""
    run = json.loads(run_parser().get_completion_script("jsonschema"))
    found = _dotted(run["properties"])
    dotted = {name: {"$ref": f"#/$defs/{name}"} for name in found}
    parts: dict[str, Any] = {
        f"^{name.replace('.', '[.]')}[.]": {} for name in WHOLE_VALUES
    }  # of a value that is itself a mapping
    groups = {name: _closed(keys) for name, keys in nested(dotted).items() if name not in dotted}

    def keys(properties: dict[str, Any]) -> dict[str, Any]:
        return _closed(properties) | {"patternProperties": parts}

    schema["$defs"] = found | {
        "run": keys(groups | dotted),
        "arm": keys(groups | dotted | {"because": _BECAUSE}),
        "values": keys({name: {"type": "array", "items": value} for name, value in dotted.items()}),
        "point": keys(dotted | {"arm": {"type": "string"}}),
    }
    own, at = schema["properties"], schema["properties"]["controls"]["properties"]
    for place, name, described in (
        (own, "base", {"$ref": "#/$defs/run"}),
        (own, "arms", {"type": "object", "additionalProperties": {"$ref": "#/$defs/arm"}}),
        (own, "grid", {"$ref": "#/$defs/values"}),
        (own, "exclude", {"type": "array", "items": {"$ref": "#/$defs/point"}}),
        (at, "positive_control_at", {"$ref": "#/$defs/point"}),
    ):
        place[name] = {key: place[name][key] for key in ("description", "default") if key in place[name]} | described
    return schema


def with_ranges(schema: dict[str, Any], described: type) -> dict[str, Any]:
    """The JSON schema of ``described``, a dataclass of groups, with the range of each number in place."""
    for item in dataclasses.fields(described):
        place = schema["properties"][item.name]
        if dataclasses.is_dataclass(item.type):
            with_ranges(place, item.type)  # type: ignore[arg-type]
        elif bounds := item.metadata.get("range"):
            one = place["items"] if place.get("type") == "array" else place
            one |= dict(zip(("minimum", "maximum"), bounds, strict=True))
    return schema


def _closed(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _dotted(properties: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The keys of nested groups, of which a group is what holds no other key than those it names."""
    found: dict[str, Any] = {}
    for name, value in properties.items():
        if value.get("additionalProperties") is False:
            found |= _dotted(value["properties"], f"{prefix}{name}.")
        elif name != "$schema":
            found[f"{prefix}{name}"] = value
    return found
