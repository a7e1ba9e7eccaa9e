"""The page of all claims that were run: a table first, then a figure with two sentences for each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import altair as alt
import numpy as np
import pandas as pd

from ..report.charts import HEIGHT, Figure, Panel, lines, over_seeds, rounded, stacked, styled
from ..report.page import Page, Sentence
from ..report.tables import Cell, Column, Row, Table, cell
from ..sweeps.inference import Estimate
from . import CLAIMS
from .claim import ERROR, Claim, Plot
from .results import Stored

_RULE = (
    "Each claim has criteria that were written down before its first run: bounds for numbers of ours. Reproduced: the "
    f"{1 - ERROR:.0%} interval over seeds of every one lies within its bounds (levels shared among the criteria of a "
    "claim). Not reproduced: one lies wholly outside. Everything else is unresolved at this size. Means have t "
    "intervals, chances exact ones. The error is that of one claim: of twenty true ones about one may be called false."
)
_KIND = {"reproduced": "better", "not reproduced": "worse", "unresolved": "unresolved"}


def write_page(found: Mapping[str, Stored], out: Path, size: str) -> tuple[Path, str | None]:
    """Write ``out``/index.html, its table as LaTeX, Markdown and CSV, and all figures.

    Returns:
        The page, and what could not be drawn, in one line, or none.
    """
    page = page_of(found, size)
    for table in page.tables:
        page.links += [(f"{table.caption}, {file.suffix[1:]}", file.name) for file in table.save(out)]
    return out / "index.html", page.write(out / "index.html", static=True)


def page_of(found: Mapping[str, Stored], size: str) -> Page:
    counts: Counter[str] = Counter(one.result.verdict for one in found.values())
    said = ", ".join(f"{counts[verdict]} {verdict}" for verdict in _KIND if counts[verdict])
    missing = [name for name, claim in CLAIMS.items() if name not in found and size in claim.study.sizes]
    others = [name for name, claim in CLAIMS.items() if size not in claim.study.sizes]
    results = [one.result for one in found.values()]
    return Page(
        f"What is said of residual connections, checked ({size})",
        [figure(CLAIMS[name], one) for name, one in found.items()],
        answer=[Sentence(f"{len(found)} of {len(CLAIMS)} claims: {said}.")],
        warnings=[words for words, names in ((f"Not run yet: {', '.join(missing)}.", missing), (
            f"Not to be checked at this size: {', '.join(others)}; --size gpu does.", others)) if names],
        tables=[overview(found), details(found)],
        notes=[("The rule", [_RULE]),
               ("What would settle it", [f"{name}: {CLAIMS[name].settles}." for name in found])],
        facts={"dates": ", ".join(sorted({result.date for result in results})),
               "commits": ", ".join(sorted({str(result.commit)[:7] for result in results})),
               "devices": ", ".join(sorted({result.device for result in results})),
               "minutes": f"{sum(result.seconds for result in results) / 60:.1f}",
               "command": "python recipes/claims.py --all" + (f" --size {size}" if size != "laptop" else "")},
    )  # fmt: skip


def overview(found: Mapping[str, Stored]) -> Table:
    """One row for each claim: verdict, and one number of the paper's against one of ours."""
    columns = [Column("claim"), Column("says", print=False), Column("source"), Column("verdict"), Column("the paper"),
               Column("here"), Column("made", print=False)]  # fmt: skip
    table = Table("claims", "All claims", columns, first=True)
    for name, one in found.items():
        claim, result = CLAIMS[name], one.result
        first = number(result.estimates[0]) if result.estimates else result.trouble
        table.rows.append(Row([
            Cell(name, name, href=f"#{name}"), cell(claim.says), cell(claim.source),
            Cell(result.verdict, result.verdict, _KIND[result.verdict]), cell(claim.number),
            cell(f"{claim.criteria[0].says}: {first}"), cell(f"{result.date}, {str(result.commit)[:7]}"),
        ]))  # fmt: skip
    return table


def details(found: Mapping[str, Stored]) -> Table:
    """One row for each criterion."""
    table = Table("criteria", "All criteria", [Column("claim"), Column("criterion"), Column("estimate and interval"),
                  Column("seeds")], folded=True)  # fmt: skip
    for name, one in found.items():
        for criterion, estimate in zip(CLAIMS[name].criteria, one.result.estimates, strict=False):
            table.rows.append(Row([cell(name), cell(criterion.words), Cell(number(estimate), estimate.mean),
                                   cell(estimate.n)]))  # fmt: skip
    return table


def number(found: Estimate) -> str:
    """``-0.51 [-0.55, -0.47]``."""
    return f"{found.mean:.3g} [{found.low:.3g}, {found.high:.3g}]"


def figure(claim: Claim, one: Stored) -> Figure:
    how = f"They: {claim.paper}. We: {claim.ours}. Criterion: {'; '.join(c.words for c in claim.criteria)}."
    panels = [panel for plot in claim.plots if (panel := _panel(plot, one)) is not None]
    title = f"{claim.says}: {one.result.verdict}"
    note = f"{claim.sees} {claim.shows_not}"
    if gone := _not_drawn(claim, one):
        note += f" Zero or not finite, so not drawn: {gone}."
    return Figure(
        claim.name, title, f"{how} Lines are medians, bands reach over seeds; shares are of all.", panels, note=note
    )


def _not_drawn(claim: Claim, one: Stored) -> str:
    """Where a logarithmic axis has no place for a value: its arms and x."""
    drawn = one.table[one.table.metric.isin([plot.metric for plot in claim.plots if plot.log_y])]
    gone = drawn[~(np.isfinite(drawn.value) & (drawn.value > 0))]
    return ", ".join(f"{arm} at {x:g}" for arm, x in gone[["arm", "x"]].drop_duplicates().itertuples(index=False))


def _panel(plot: Plot, one: Stored) -> Panel | None:
    frame = one.table[one.table.metric == plot.metric]
    if plot.layers_at is None:
        frame = frame[frame.layer == -1]
    else:
        frame = frame[(frame.x == plot.layers_at) & (frame.layer >= 0)].assign(x=lambda rows: rows.layer)
    frame = frame[np.isfinite(frame.value) & ((frame.value > 0) | (not plot.log_y))]
    if frame.empty:
        return None
    if frame.x.nunique() == 1:
        return Panel(plot.title, _by_arm(frame, plot), switch=plot.log_y)
    if plot.share:
        frame = frame.groupby(["arm", "x"], as_index=False, sort=False).value.mean()
        frame["seed"] = 0
    rows = over_seeds(frame.rename(columns={"arm": "part"}), "part", "x")
    scale = alt.Scale(type="log", nice=False) if plot.log_x and (rows.x > 0).all() else alt.Scale(zero=False)
    x = alt.X("x:Q", title=plot.x + (" (log)" if scale.to_dict().get("type") else ""), scale=scale)
    chart = lines(rows, x, plot.y, styled("part", list(dict.fromkeys(rows.part))), log=plot.log_y)
    return Panel(plot.title, chart, switch=plot.log_y)


def _by_arm(frame: pd.DataFrame, plot: Plot) -> alt.LayerChart:
    """Arms side by side where nothing else is varied: a point for each seed, a line at their mean."""
    rows = rounded(frame.rename(columns={"arm": "part"})[["part", "seed", "value"]])
    parts = list(dict.fromkeys(rows.part))
    scale = alt.Scale(type="log", nice=False) if plot.log_y else alt.Scale(zero=False)
    x = alt.X("part:N", title=None, sort=parts, axis=alt.Axis(labelAngle=-30))
    y = alt.Y("value:Q", title=plot.y, scale=scale)
    colour = styled("part", parts)["color"].legend(None)
    chart = alt.Chart(rows).encode(x=x, color=colour)
    points = chart.mark_point(filled=True, size=45, opacity=0.7).encode(y=y, tooltip=list(rows))
    means = chart.mark_tick(thickness=2, size=28).encode(y=alt.Y("mean(value):Q", title=plot.y, scale=scale))
    return stacked(points, means, height=HEIGHT)
