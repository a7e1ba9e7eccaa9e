"""The page of a sweep: the answer, its figures and tables, and the same as files for a paper."""

from __future__ import annotations

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
        points=study.points,
        roles={arm: role for arm, role in roles.items() if arm},
        a_a_control=study.a_a_control,
        tables=[verdict_table(study), rate_table(study), cost_table(study), run_table(study)],
        notes=[
            ("The rule", [_RULE]),
            (f"Differences from {study.baseline} that are not the residual connection", differing),
        ],
        facts=_facts(study),
    )


def answer(study: SweepStudy) -> list[Sentence]:
    """A sentence for each question, and whether the instrument works."""
    table = study.verdicts
    if table.empty:
        return [Sentence("No learning rate is tuned yet, so there is no answer.")]
    asked = table[table.role == "arm"]
    return [
        Sentence(_more_stable(study, asked), f"More stable than {study.baseline}?", "stability"),
        Sentence(_better(asked), "Better?", "forest"),
        Sentence(_at_what_cost(asked), "At what cost?", "cost"),
        Sentence(_validated(study), "Does the instrument work?"),
    ]


def _where(rows: pd.DataFrame, several: bool) -> str:
    """``highway (num_hidden_layers=6: -0.05 [-0.07, -0.02])``."""
    parts = []
    for arm, cells_ in rows.groupby("arm", sort=False):
        said = []
        for line in cells_.to_dict("records"):
            size = with_interval(line["difference"], line["difference_low"], line["difference_high"], "+.3f").shown
            said.append(f"{line['point']}: {size}" if several and line["point"] else size)
        parts.append(f"{arm} ({'; '.join(said)} nats)")
    return ", ".join(parts)


def _better(asked: pd.DataFrame) -> str:
    several = asked.point.nunique() > 1
    words = []
    for verdict, how in (("better", "Better"), ("worse", "Worse"), ("equivalent", "Equivalent")):
        rows = asked[asked.verdict == verdict]
        if len(rows):
            words.append(f"{how}: {_where(rows, several)}.")
    left = asked[asked.verdict == "unresolved"]
    if len(left):
        cells_ = len(left)
        mdd = pd.to_numeric(left.detectable).dropna()
        needed = f" These seeds find differences from about {mdd.median():.3f} nats on." if len(mdd) else ""
        whole = "No comparison is decided" if not words else f"Not decided: {cells_} of {len(asked)} comparisons"
        words.append(f"{whole} ({left.reason.mode().iloc[0]}).{needed}")
    return " ".join(words) or "There is nothing to compare."


def _more_stable(study: SweepStudy, asked: pd.DataFrame) -> str:
    runs = study.table_of_runs
    counts = runs.groupby("arm").bad.agg(["sum", "count"])
    base = counts.loc[study.baseline] if study.baseline in counts.index else None
    said = (
        "" if base is None else f"Over all rates {int(base['sum'])} of {int(base['count'])} of its runs ended badly. "
    )
    others = {arm: counts.loc[arm] for arm in dict.fromkeys(asked.arm) if arm in counts.index}
    parts = [f"{arm} {int(found['sum'])} of {int(found['count'])}" for arm, found in others.items()]
    verdicts = [
        f"{line.arm}{' at ' + line.point if line.point else ''} is {line.stability}"
        for line in asked.itertuples()
        if line.stability != "unresolved"
    ]
    at_best = f" By the test: {', '.join(verdicts)}." if verdicts else " No difference in stability is decided."
    return said + (f"The others: {', '.join(parts)}." if parts else "") + at_best


def _at_what_cost(asked: pd.DataFrame) -> str:
    parts = []
    for arm, cells_ in asked.groupby("arm", sort=False):
        step, memory = pd.to_numeric(cells_.step_ratio), pd.to_numeric(cells_.memory_ratio)
        if step.notna().any():
            more = f", memory ×{memory.mean():.2f}" if memory.notna().any() else ""
            parts.append(f"{arm} step time ×{step.mean():.2f}{more}")
    return f"{'; '.join(parts)}." if parts else "No step was timed yet."


def _validated(study: SweepStudy) -> str:
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
    return f"{same[0].upper()}{same[1:]}; {broken}."


def _rows(study: SweepStudy, cells_of: Any) -> list[Row]:
    lines = study.verdicts.to_dict("records")
    return [Row([Cell(x["arm"], x["arm"]), Cell(x["point"], x["point"]), *cells_of(x)], x["arm"], x["point"])
            for x in lines]  # fmt: skip


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


def rate_table(study: SweepStudy) -> Table:
    def cells_of(line: dict[str, Any]) -> list[Cell]:
        edge = "" if line["interior"] else ", at the edge"
        return [
            Cell(f"{line['best_rate']:g}{edge}", line["best_rate"]),
            with_interval(line["trains_to"], line["trains_to_low"], line["trains_to_high"], "g"),
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
        Column("trains to", "multiple of the best rate, or common rate, up to which the median seed trains, 95 %"),
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


def cost_table(study: SweepStudy) -> Table:
    def cells_of(line: dict[str, Any]) -> list[Cell]:
        step, memory = line["step_ratio"], line["memory_ratio"]
        return [
            cell(line["parameters"], ",.0f"),
            cell(line["non_embedding"], ",.0f"),
            cell(line["flops_per_token"], ".3g"),
            cell(line["tokens"], ",.0f"),
            Cell("" if absent(step) else f"×{step:.2f} ({1e3 * line['step_seconds']:,.1f} ms)", step),
            Cell("" if absent(memory) else f"×{memory:.2f} ({line['peak_memory'] / 2**20:,.0f} MiB)", memory),
            cell(line["tuning_runs"]),
        ]

    columns = [
        _ARM, _POINT,
        Column("parameters"), Column("outside embeddings"),
        Column("FLOPs/token", "forward and backward"), Column("tokens", "of a run"),
        Column("step", "time of a step as a ratio to the baseline's"),
        Column("memory", "most bytes of tensors in a step (on a cluster: of the process or device), as a ratio"),
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
        "tokens of a run": ", ".join(f"{value:,.0f}" for value in tokens),
        "declared before": f"margin {chosen.margin:g} nats, delta {chosen.delta:g} nats, alpha {chosen.alpha:g}",
        "standard deviation over seeds": f"{noise} nats ({study.baseline})" if noise else "",
        "unigram entropy, nats per token": ", ".join(study.common("unigram_entropy")),
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
