"""How results show themselves in a notebook: tables, and figures that need no network."""

import html
from collections.abc import Mapping
from typing import Any

import altair as alt
import vl_convert


class Figures(dict[str, alt.TopLevelMixin]):
    """Altair charts by name; shown together in a notebook, each on its own with ``figures[name]``."""

    def _repr_html_(self) -> str:
        return "".join(f"<figure>{svg(chart)}</figure>" for chart in self.values())


def svg(chart: alt.TopLevelMixin) -> str:
    """A chart as a picture that a page can hold, drawn without any network."""
    return str(vl_convert.vegalite_to_svg(chart.to_dict()))


def png(chart: alt.TopLevelMixin) -> bytes:
    """A chart as a picture for places that take no other."""
    return bytes(vl_convert.vegalite_to_png(chart.to_dict(), scale=2.0))  # type: ignore[call-arg]


def facts(title: str, values: Mapping[str, Any]) -> str:
    """A table of names and values, those that are None left out, under a title."""
    rows = "".join(
        f"<tr><th style='text-align:left'>{html.escape(name)}</th><td>{html.escape(said(value))}</td></tr>"
        for name, value in values.items()
        if value is not None
    )
    return f"<table><caption><b>{html.escape(title)}</b></caption>{rows}</table>"


def said(value: Any) -> str:
    """Numbers with the digits that a person reads."""
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
