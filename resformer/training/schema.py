"""What an editor is told of a run's YAML file beyond the types of its keys: names of connections, and ranges."""

import dataclasses
from typing import Any


def with_kinds_and_ranges(schema: dict[str, Any], described: type) -> dict[str, Any]:
    """The JSON schema of ``RunConfig``, which it is given as ``described``, with both in place."""
    from ..model.specification import KINDS, PRESETS  # help waits for none of these

    for item in dataclasses.fields(described):
        place = schema["properties"][item.name]
        if dataclasses.is_dataclass(item.type):
            for inner in dataclasses.fields(item.type):
                place["properties"][inner.name] |= _range(inner)
        else:
            place |= _range(item)
    schema["properties"]["model"]["properties"]["residual"]["anyOf"] = [{"enum": sorted({*KINDS, *PRESETS})}, {}]
    return schema


def _range(item: dataclasses.Field) -> dict[str, Any]:
    bounds = item.metadata.get("range")
    return dict(zip(("minimum", "maximum"), bounds, strict=True)) if bounds else {}
