"""The page of a sweep: the answer, its figures and tables, and the same as files for a paper."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from ..sweeps.inference import clopper_pearson
from .comparison import outcome_figures
from .depth import depth_figures
from .page import Page, Sentence
from .paper import methods, references
from .sweep import SweepStudy, read_sweep
from .tables import Cell, Column, Row, Table, absent, cell, with_interval

_RULE = (
    "More or less stable: at the declared rates, common to all arms (or, where none are declared, at multiples of each "
    "arm's own best rate), its seeds end badly (diverged, stuck or degraded against their fellows) more or less often "
    "than the baseline's, by an exact permutation of seeds. "
    "Better or worse: the sound runs at the best rates differ in a paired t test, whoever seems to lose credited with "
    "what its tuning may have left. As stable, equivalent: the exact bounds, or two one-sided t tests, lie inside the "
    "declared margin. Each p is adjusted by Holm over every comparison that was declared and for the looks taken, and "
    "something is said only if the A/A control came out null at that point and the positive control was flagged. "
    "Everything else is unresolved."
)


MOST_NAMED = 6
"""Arms that one sentence names."""
NEAR = 0.05
"""Of the baseline's step time and memory: what is nearer is said to cost the same."""
LEAD = ("forest", "stability", "cost", "loss-over-learning-rate")


def write_page(folder: Path, static: bool = True) -> tuple[Path, str | None]:
    """Write ``folder``/report/index.html, its tables (LaTeX, Markdown, CSV), references.bib and methods.txt.

    Args:
        static: also write each figure as SVG, PNG and PDF under ``figures``.

    Returns:
        The page, and what could not be drawn, in one line, or none.

    Raises:
        ValueError: one line, if ``folder`` is no sweep's.
    """
    study = read_sweep(folder)
    out = folder / "report"
    page = page_of(study)
    texts = {"references.bib": references(study), "methods.txt": methods(study)}
    out.mkdir(parents=True, exist_ok=True)
    for table in page.tables:
        if table.rows:
            page.links += [(f"{table.caption}, {file.suffix[1:]}", file.name) for file in table.save(out)]
    for name, text in texts.items():
        (out / name).write_text(text, encoding="utf-8")
        page.links.append((name, name))
    return out / "index.html", page.write(out / "index.html", static)


def page_of(study: SweepStudy) -> Page:
    config = study.sweep.config
    warnings = []
    if study.missing:
        warnings.append(
            f"Partial: {len(study.state.outcomes)} of the {len(study.state.trials)} trials known so far are finished. "
            "Verdicts wait for the rest, and everything below may still change."
        )
    roles = {config.controls.baseline: "baseline", config.controls.a_a_control: "A/A control"}
    roles |= {config.controls.positive_control: "positive control"}
    roles |= {config.controls.sensitivity_control: "sensitivity control"}
    roles |= dict.fromkeys(config.controls.equal_time.values(), f"{config.controls.baseline} for as long")
    differing = [
        f"{arm}: {'; '.join(map(str, found)) or 'none'}"
        + (f" (because: {because})" if (because := study.sweep.because.get(arm)) else "")
        for arm, found in (study.plan.get("differences") or {}).items()
    ]
    return Page(
        study.title,
        [*outcome_figures(study), *depth_figures(study)],
        answer=answer(study),
        warnings=warnings + study.problems,
        arms=study.arms,
        lead=LEAD,
        focus=study.focus,
        points=study.points,
        roles={arm: role for arm, role in roles.items() if arm},
        a_a_control=study.a_a_control,
        tables=[
            _without_points(study, table)
            for table in (verdict_table(study), rate_table(study), cost_table(study), run_table(study))
        ],
        notes=[
            ("The rule", [_RULE]),
            (f"Differences from {study.baseline} that are not the residual connection", differing),
        ],
        facts=_facts(study),
    )


def answer(study: SweepStudy) -> list[Sentence]:
    """A sentence for each question, its short first, and whether the instrument works."""
    table = study.verdicts
    if table.empty:
        return [Sentence("No learning rate is tuned yet, so there is no answer.")]
    asked = table[table.role == "arm"]
    return [
        _more_stable(study, asked), _better(study, asked), _at_what_cost(study, asked), _validated(study)
    ]  # fmt: skip


def _listed(names: Iterable[str]) -> str:
    """``a, b and 12 more``."""
    names = list(names)
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED + 1 else ""
    return ", ".join(names[:MOST_NAMED] if more else names) + more


def _short(study: SweepStudy, asked: pd.DataFrame, column: str, words: dict[str, str]) -> str:
    """``Yes: a, b (depth=12). Not decided: c (2 of 3 points).``: the arms by verdict, the decided ones first."""
    if asked.empty:
        return "There is nothing to compare."
    points = asked.groupby("arm").point.count()
    order = list(dict.fromkeys([*study.by_merit(), *points.index]))
    said = []
    for verdict, how in (words | {"unresolved": "Not decided"}).items():
        found = asked[asked[column] == verdict].groupby("arm", sort=False).point
        counts, only = found.count().reindex(order).dropna(), found.first()
        if how == "Not decided" and counts.sum() == len(asked):
            return f"Not decided for {f'any of the {len(points)} arms' if len(points) > 1 else points.index[0]}."
        part = (
            "" if n == points[arm] else f" ({only[arm]})" if n == 1 else f" ({n:.0f} of {points[arm]} points)"
            for arm, n in counts.items()
        )
        names = map("".join, zip(counts.index, part, strict=True))
        if len(counts):
            said.append(f"{how}: {_listed(names)}.")
    return " ".join(said)


def _better(study: SweepStudy, asked: pd.DataFrame) -> Sentence:
    """The sizes of what is decided, and what the rest waits for."""
    several = asked.point.nunique() > 1
    parts = []
    for arm in (arm for arm in study.by_merit() if (asked[asked.arm == arm].verdict != "unresolved").any()):
        sizes = []
        for line in asked[(asked.arm == arm) & (asked.verdict != "unresolved")].to_dict("records"):
            size = with_interval(line["difference"], line["difference_low"], line["difference_high"], "+.3f").shown
            if line["failed"]:
                size += f" (of sound runs; {line['failed']} of {line['runs']} ended badly)"
            sizes.append(f"{line['point']} {size}" if several and line["point"] else size)
        parts.append(f"{arm} {', '.join(sizes)}")
    words = f"In nats per token, with 95 % intervals: {_listed_long(parts)}." if parts else ""
    left = asked[asked.verdict == "unresolved"]
    if len(left):
        words += f" {'Not decided' if parts else 'Why'}: {left.reason.mode().iloc[0]}."
    short = _short(study, asked, "verdict", {"better": "Yes", "worse": "Worse", "equivalent": "Equivalent"})
    return Sentence(words.strip(), f"Lower loss than {study.baseline}?", "forest", short)


def _listed_long(parts: list[str]) -> str:
    """As ``_listed``, of what holds commas itself."""
    more = f"; and {len(parts) - MOST_NAMED} more" if len(parts) > MOST_NAMED else ""
    return "; ".join(parts[:MOST_NAMED]) + more


def _more_stable(study: SweepStudy, asked: pd.DataFrame) -> Sentence:
    """With all finished runs that ended badly, whatever their rate: the baseline's, then from the most to the least."""
    counts = study.table_of_runs.groupby("arm", sort=False).bad.agg(["sum", "count"])
    counts = counts.loc[[arm for arm in counts.index if arm == study.baseline or arm in set(asked.arm)]]
    counts = counts.assign(share=counts["sum"] / counts["count"])
    said = [f"{arm} {int(found['sum'])} of {int(found['count'])}"
            for arm, found in counts.sort_values("share", ascending=False, kind="stable").iterrows()
            if arm != study.baseline and found["sum"]]  # fmt: skip
    none = int((counts["sum"] == 0).sum() - (study.baseline in counts.index and counts["sum"][study.baseline] == 0))
    base = counts[counts.index == study.baseline]
    parts = [f"{study.baseline} {int(row['sum'])} of {int(row['count'])}" for _, row in base.iterrows()]
    parts += [_listed(said)] if said else []
    parts += [f"no run of {none} other arm{'s' if none > 1 else ''}"] if none else []
    words = {"more stable": "Yes", "less stable": "Less", "as stable": "As stable"}
    text = f"Ended badly, over all learning rates: {'; '.join(parts)}."
    return Sentence(text, f"More stable than {study.baseline}?", "stability", _short(study, asked, "stability", words))


def _at_equal_time(asked: pd.DataFrame) -> list[str]:
    """Of each arm compared with the baseline trained for longer: the verdict, and whether that was long enough."""
    said = []
    for line in asked[asked.equal_time != ""].to_dict("records"):
        size = with_interval(
            line["equal_time_difference"], line["equal_time_low"], line["equal_time_high"], "+.3f"
        ).shown  # fmt: skip
        longer, step = line["equal_time_tokens"], line["step_ratio"]
        far = not (absent(longer) or absent(step)) and abs(longer / step - 1) > NEAR
        warning = f", trained ×{longer:.2f} as long where a step takes ×{step:.2f}" if far else ""
        where = f" ({line['point']})" if line["point"] else ""
        said.append(f"At equal time {line['arm']}{where} is {line['equal_time']} {size}{warning}.".replace("  ", " "))
    return said


def _at_what_cost(study: SweepStudy, asked: pd.DataFrame) -> Sentence:
    """What lies more than ``NEAR`` from the baseline, from the dearest on; the others by name."""
    columns = ["step_ratio", "memory_ratio"]
    ratios = asked.assign(**{name: pd.to_numeric(asked[name]) for name in columns}).groupby("arm", sort=False)[columns]
    ratios = ratios.mean().dropna(subset=["step_ratio"])
    question = "At what cost?"
    if ratios.empty:
        return Sentence("", question, "cost", "No step was timed yet.")
    apart = ((ratios - 1).abs() > NEAR).any(axis=1)
    said = [
        f"{arm} ×{row.step_ratio:.2f}" + ("" if absent(row.memory_ratio) else f" (memory ×{row.memory_ratio:.2f})")
        for arm, row in ratios[apart].sort_values("step_ratio", ascending=False).iterrows()
    ]  # fmt: skip
    near = f"Within {NEAR:.0%} of {study.baseline}: {_listed(ratios.index[~apart])}." if (~apart).any() else ""
    near = " ".join([*([near] if near else []), *_at_equal_time(asked)])
    whole = f"Time of a step: {_listed(said)}."
    if len(said) <= 3:
        return Sentence(near if said else "", question, "cost", whole if said else near)
    low, high = ratios.step_ratio.min(), ratios.step_ratio.max()
    short = f"Between ×{low:.2f} and ×{high:.2f} the time of a step."
    return Sentence(f"{whole} {near}".strip(), question, "cost", short)


def _validated(study: SweepStudy) -> Sentence:
    controls, analysis = study.sweep.config.controls, study.analysis
    null = list(analysis.a_a_is_null.values())
    if controls.a_a_control is None:
        same = "there is no A/A control, so no verdict stands"
    elif not null or None in null:
        same = f"the A/A control {controls.a_a_control} is not finished"
    else:
        bad = [point or "the only point" for point, ok in analysis.a_a_is_null.items() if not ok]
        same = f"the A/A control {controls.a_a_control} came out null, as it should"
        same = (
            f"the A/A control {controls.a_a_control} is NOT null at {', '.join(bad)}: no verdict stands there"
            if bad
            else same
        )
    fired = {True: "was flagged, as it should be", False: "was NOT flagged: no verdict stands", None: "is not finished"}
    broken = f"the positive control {controls.positive_control} {fired[analysis.positive_control_fired]}"
    broken = broken if controls.positive_control else "there is no positive control, so no verdict stands"
    works = bool(null) and all(null) and analysis.positive_control_fired
    waits = not null or None in null or analysis.positive_control_fired is None
    there = controls.a_a_control and controls.positive_control
    partly = any(null) and analysis.positive_control_fired
    short = "Yes." if works else "Not known yet." if there and waits else "Not everywhere." if partly else "No."
    return Sentence(f"{same[0].upper()}{same[1:]}; {broken}.", "Does the instrument work?", short=short)


def _rows(study: SweepStudy, cells_of: Any) -> list[Row]:
    lines = study.verdicts.to_dict("records")
    return [Row([Cell(x["arm"], x["arm"]), Cell(x["point"], x["point"]), *cells_of(x)], x["arm"], x["point"])
            for x in lines]  # fmt: skip


def _without_points(study: SweepStudy, table: Table) -> Table:
    """Without the column of the points where there is one point, which has no name."""
    if list(study.points) != [""]:
        return table
    kept = [i for i, column in enumerate(table.columns) if column.name != "point"]
    rows = [dataclasses.replace(row, cells=[row.cells[i] for i in kept]) for row in table.rows]
    return dataclasses.replace(table, columns=[table.columns[i] for i in kept], rows=rows)


_ARM, _POINT = Column("arm"), Column("point", "place in the grid")


def verdict_table(study: SweepStudy) -> Table:
    def cells_of(line: dict[str, Any]) -> list[Cell]:
        failed, runs = int(line["failed"]), int(line["runs"])
        interval = "" if not runs else " [{:.0%}, {:.0%}]".format(*clopper_pearson(failed, runs))
        kind = str(line["verdict"])
        return [
            Cell(str(line["stability"]), str(line["stability"])),
            cell(line["bad_ends"]),
            Cell(kind, kind, kind),
            cell(line["reason"]),
            with_interval(line["difference"], line["difference_low"], line["difference_high"], "+.4f"),
            with_interval(line["loss"], line["loss_low"], line["loss_high"], ".4f"),
            Cell(f"{failed}/{runs}{interval}", failed / runs if runs else 0),
            cell(line["p_adjusted"], ".2g"),
            cell(line["detectable"], ".4f"),
        ]

    columns = [
        _ARM, _POINT,
        Column("stability", f"against {study.baseline}, by the rule below"),
        Column("bad ends", "of the reporting runs: x1 is the arm's own best rate, other numbers are rates"),
        Column("verdict", f"of the loss, against {study.baseline}, by the rule below"),
        Column("why", print=False),
        Column("difference", "from the baseline, each at its own best rate, sound runs, paired by seed, 95 %, nats"),
        Column("loss", "held-out, nats per token, at the arm's best rate: mean over seeds, 95 % t interval"),
        Column("failed", "diverged, stuck or degraded, of all reporting runs there, with an exact 95 % interval"),
        Column("adjusted p", "two-sided, the loser credited with its tuning regret; for all comparisons and looks"),
        Column("detectable", "smallest true difference that these seeds find with 80 % power, nats"),
    ]  # fmt: skip
    rows = _rows(study, cells_of)
    return Table("verdicts", "Verdicts", columns, rows, first=True, numbers=study.verdicts if rows else None)


def _trains_to(line: dict[str, Any], sign: str) -> Cell:
    """``sign`` stands before multiples of a best rate; 0 is the place of an arm that trains at none of those asked."""
    if absent(line["trains_to"]):
        return Cell("")
    found = [line["trains_to"], line["trains_to_low"], line["trains_to_high"]]
    place, low, high = (f"{sign}{value:g}" if value else "none" for value in found)
    return Cell(f"{place} [{low}, {high}]", line["trains_to"])


def rate_table(study: SweepStudy) -> Table:
    rules = study.sweep.rules()

    def cells_of(line: dict[str, Any]) -> list[Cell]:
        edge = "" if line["interior"] else ", at the edge"
        return [
            Cell(f"{line['best_rate']:g}{edge}", line["best_rate"]),
            _trains_to(line, "" if rules.common_of(line["arm"]) else "x"),
            with_interval(line["S"], line["S_low"], line["S_high"], ".3f"),
            cell(line["S_below"], ".3f"),
            cell(line["S_above"], ".3f"),
            with_interval(line["events_per_1000"], line["events_low"], line["events_high"], ".2f"),
            cell(line["olmo2_percent"], ".3f"),
            cell(line["depth_limit"], ".0f"),
            cell(line["stream_growth"], ".3g"),
            cell(line["gradient_ratio"], ".3g"),
            cell(line["end_states"]),
        ]

    columns = [
        _ARM, _POINT,
        Column("best rate", "vertex of a parabola through the tuning runs around the best rung, or that rung"),
        Column("trains to", "common rate, or multiple (x) of the best rate, up to which the median seed trains, 95 %"),
        Column("S", "learning-rate sensitivity, nats (Wortsman et al. 2023), on rates common to all"),
        Column("S, below", "its part from rates below the best", print=False),
        Column("S, above", "its part from rates above the best", print=False),
        Column("spikes/1k", "loss spikes per 1,000 steps with a 95 % interval that allows for runs that differ"),
        Column("OLMo 2 score", "percentage of steps whose loss is 7 deviations off the last 1,000", print=False),
        Column("depth limit", "deepest point up to which all runs trained, the rate tuned at each depth"),
        Column("RMS end/start", "of the stream, end of the stack over embedding, last look, median over seeds"),
        Column("gradient first/last", "norm of the MLP output matrix's gradient, first block over last, likewise"),
        Column("end states", "of the reporting runs at the arm's best rate", print=False),
    ]  # fmt: skip
    return Table("rates", "Learning rates and stability", columns, _rows(study, cells_of), folded=True)


def _equal_time_cell(line: dict[str, Any]) -> Cell:
    size = with_interval(line["equal_time_difference"], line["equal_time_low"], line["equal_time_high"], "+.4f").shown
    return Cell(" ".join(word for word in (line["equal_time"], size) if word), line["equal_time"])


def cost_table(study: SweepStudy) -> Table:
    timed = bool(study.sweep.config.controls.equal_time)

    def cells_of(line: dict[str, Any]) -> list[Cell]:
        step, memory = line["step_ratio"], line["memory_ratio"]
        return [
            cell(line["parameters"], ",.0f"),
            cell(line["non_embedding"], ",.0f"),
            cell(line["flops_per_token"], ".3g"),
            cell(line["tokens"], ",.0f"),
            Cell("" if absent(step) else f"×{step:.2f} ({1e3 * line['step_seconds']:,.1f} ms)", step),
            Cell("" if absent(memory) else f"×{memory:.2f} ({line['peak_memory'] / 2**20:,.0f} MiB)", memory),
            *([_equal_time_cell(line)] if timed else []),
            cell(line["tuning_runs"]),
        ]

    columns = [
        _ARM, _POINT,
        Column("parameters"), Column("outside embeddings"),
        Column("FLOPs/token", "forward and backward"), Column("tokens", "of a run"),
        Column("step", "time of a step as a ratio to the baseline's"),
        Column("memory", "most bytes of tensors in a step (on a cluster: of the process or device), as a ratio"),
        *([Column("at equal time", "loss against the baseline trained for as long, 95 %, nats")] if timed else []),
        Column("tuning runs", "spent on choosing the rate"),
    ]  # fmt: skip
    return Table("costs", "Costs", columns, _rows(study, cells_of), folded=True)


def run_table(study: SweepStudy) -> Table:
    names = ["arm", "point", "learning_rate", "seed", "role", "end_state"]
    columns = [
        *(Column(name.replace("_", " ")) for name in names),
        Column("held-out loss"),
        Column("files", print=False),
    ]
    rows = []
    for line in study.table_of_runs.to_dict("records"):
        cells_ = [cell(line[name]) for name in names] + [cell(line["val_loss"], ".4f")]
        page = study.folder / line["folder"] / "report.html"
        href = f"../{line['folder']}/{'report.html' if page.exists() else ''}"
        rows.append(
            Row([*cells_, Cell("page" if page.exists() else "folder", "", "", href)], line["arm"], line["point"])
        )
    return Table("runs", "All finished runs", columns, rows, folded=True, numbers=study.table_of_runs if rows else None)


def _facts(study: SweepStudy) -> dict[str, str]:
    config, analysis = study.sweep.config, study.analysis
    noise = "; ".join(f"{point + ': ' if point else ''}{sd:.4f}" for point, sd in analysis.sigma_seed.items())
    tokens = study.verdicts.tokens.dropna().unique() if len(study.verdicts) else []
    seeds, chosen = config.seeds, config.statistics
    facts = {
        "trials": f"{len(study.state.outcomes)} finished of {len(study.state.trials)}",
        "rates": f"chosen on {len(seeds.tuning)} tuning seeds, reported on {len(seeds.reporting)} others",
        "tokens of a run": "; ".join(f"{value:,.0f}" for value in tokens),
        "declared before": f"margin {chosen.margin:g} nats, delta {chosen.delta:g} nats, alpha {chosen.alpha:g}",
        "standard deviation over seeds": f"{noise} nats ({study.baseline})" if noise else "",
        "unigram entropy, nats per token": ", ".join(f"{value:.4f}" for value in study.numbers("unigram_entropy")),
        "data": ", ".join(study.common("data_source")),
        "fingerprint of the data": ", ".join(study.common("data_fingerprint")),
        "device": ", ".join(study.common("device")),
        "precision": _precision(study.common("precision")),
        "code": ", ".join(study.common("git_commit")) or "not under git",
        "recipe": f"{study.recipe_hash} (sweep.yaml)",
        "figures over depth": "of the reporting runs at their arm's best rate; lines are medians over seeds, bands "
        "reach from the smallest seed to the largest",
    }  # fmt: skip
    return {name: value for name, value in facts.items() if value}


def _precision(found: list[str]) -> str:
    names = ["float32" if name == "no" else name for name in found]
    mixed = " (NOT one for all trials: small differences may come from that)" if len(names) > 1 else ""
    return ", ".join(names) + mixed
