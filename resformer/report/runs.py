"""Pages of runs: of one, of its seeds, or of any side by side."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import altair as alt

from ..keys import flat
from ..programs import command_of
from ..stability.endstate import END_STATES
from ..stability.findings import OURS, findings
from .depth import depth_figures
from .drawing import LIBRARY
from .page import Page, Sentence
from .study import Run, Study, compared, differences, group, listed, number, said
from .tables import Table, of_arms

MOST_FINDINGS = 4
"""Of a run, on its page: the first ones."""
_ENDS = {
    "ok": "It trained to the end, without a spike",
    "spiked-recovered": "It spiked and recovered",
    "degraded": "It ended well above the best loss of what it was compared with",
    "stuck": "It got stuck: it knows little more than how frequent each token is",
    "diverged": "It diverged",
}


def write_page(folders: Sequence[Path], out: Path | None = None, static: bool = False) -> tuple[Path, str | None]:
    """Write ``report.html`` of runs: into the folder of a single one, or into ``out``.

    Args:
        folders: of runs, finished or not; those that differ in their seeds alone are one arm.
        out: folder of the page; a comparison's page is written to the first run's folder's parent by default.
        static: also write each figure as SVG, PNG and PDF under ``figures``.

    Returns:
        The page, and what could not be drawn, in one line, or none.

    Raises:
        ValueError: one line, if a folder is no run's.
    """
    if out is None:
        out = folders[0] if len(folders) == 1 else folders[0].resolve().parent / "comparison"
    study = compared(folders, out)
    file = out / ("report.html" if len(folders) == 1 else "index.html")
    return file, page_of(study).write(file, static, _library_of_sweep(folders[0]) if len(folders) == 1 else None)


def show_run_page(folder: Path) -> None:
    """Write the page and say where it is; without room or a process for it, the run has ended all the same."""
    again = f"{command_of('report')} {folder} writes it when there is"
    try:
        page, trouble = write_page([folder])
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        print(f"warning: no room for {folder / 'report.html'} ({why}); {again}", file=sys.stderr)
        return
    print(f"the stream by depth and time    {page}")
    for sentence in _answer(compared([folder])):
        print(f"what stands out                 {sentence}")
    if trouble is not None:
        print(f"warning: {page} has no figures: {trouble}", file=sys.stderr)


def figures(folder: Path) -> dict[str, alt.TopLevelMixin]:
    """Every figure of a run as one chart, by name, for a notebook; those without data are left out.

    Raises:
        ValueError: one line, if ``folder`` is no run's.
    """
    return {figure.name: figure.chart() for figure in depth_figures(compared([folder])) if figure.panels}


def _library_of_sweep(folder: Path) -> Path | None:
    """A trial's page takes the script that its sweep's page has."""
    sweep = folder.resolve().parent.parent
    return sweep / "report" / LIBRARY if (sweep / "sweep.yaml").exists() else None


def page_of(study: Study) -> Page:
    warnings = [f"{run.name}: {problem}." for run in study.runs for problem in run.problems]
    warnings += [
        f"{run.name} has not ended: {_so_far(run)}everything below may still change."
        for run in study.runs
        if not run.summary
    ]
    several = len(study.runs) > 1
    tables = [_differing(study), _outcomes(study)] if several else []
    return Page(
        study.title,
        depth_figures(study),
        answer=_answer(study),
        focus=study.focus,
        warnings=warnings,
        arms=study.arms,
        tables=[table for table in tables if table.rows],
        facts=_facts(study),
    )


def _answer(study: Study) -> list[Sentence]:
    """How each run ended, and what of it stands out."""
    found = []
    for run in study.runs:
        who = f"{run.name}: " if len(study.runs) > 1 else ""
        state = run.summary.get("end_state") or run.summary.get("status")
        if state is None:
            continue
        words = _ENDS.get(str(state), f"It ended {state}") if state in END_STATES else f"It ended {state}"
        since = run.summary.get("divergence_step")
        since = f" from step {since} on" if state == "diverged" and since is not None else ""
        loss = number(run.summary.get("val_loss"))
        reached = "" if loss is None else f"; held-out loss {loss:.4f} nats per token"
        told = _found(run)
        ended = f"{who}{words}{since}{reached}{_spiked(run)}."
        if not who and told:
            (text, figure, source), *told = told
            found.append(Sentence(f"What stands out most: {text[0].lower()}{text[1:]}.", "", figure, ended, source))
        else:
            found.append(Sentence("" if who else "Nothing else stands out.", "", "loss", ended))
        found += [Sentence(f"{who}{text}.", "", figure, source=source) for text, figure, source in told]
        below = _last(run, "gradients_below_eps")
        if below:
            text = (
                f"{who}at the last look the gradient of {100 * below:.0f} % of the tensors that AdamW moves was under "
            )
            found.append(Sentence(text + "ten times its eps: their updates freeze.", figure="updates"))
    return found


def _so_far(run: Run) -> str:
    """``step 120 of 500, loss 3.1, about 4 min left; ``, as far as its files say."""
    steps, most = run.metrics.get("step"), number(group(run.config, "train").get("max_steps"))
    if steps is None or most is None or not len(steps.dropna()):
        return ""
    step, words = float(steps.max()), []
    words.append(f"step {step:,.0f} of {most:,.0f}")
    last = {name: run.metrics[name].dropna() for name in ("loss", "tokens", "tokens_per_second") if name in run.metrics}
    if len(last.get("loss", ())):
        words.append(f"loss {last['loss'].iloc[-1]:.3f}")
    if step and len(last.get("tokens", ())) and len(last.get("tokens_per_second", ())):
        seconds = (most - step) * last["tokens"].iloc[-1] / step / last["tokens_per_second"].iloc[-1]
        words.append(f"about {seconds / 60:,.0f} min left")
    return ", ".join(words) + "; "


def _found(run: Run) -> list[tuple[str, str, str]]:
    """What the declared rules find, the figure that shows it, and its source; frozen tensors are said apart."""
    try:
        all_found = findings(run.layers)
    except ValueError:  # a metric of another version, which no rule knows
        return []
    told = [finding for finding in all_found if finding.metric != "gradients_below_eps"][:MOST_FINDINGS]
    sources = [f.source.replace(OURS, "a threshold of ours") for f in told]
    return [(f"{f.sentence[0].upper()}{f.sentence[1:]}", _figure_of(f.metric), source)
            for f, source in zip(told, sources, strict=True)]  # fmt: skip


def _figure_of(metric: str) -> str:
    places = {"stream_rms": "stream", "attention": "attention", "log_z": "attention", "stream_grad": "gradients",
              "gradient_": "gradients", "branch_": "branches", "internal": "internals"}  # fmt: skip
    return next((figure for start, figure in places.items() if metric.startswith(start)), "")


def _spiked(run: Run) -> str:
    spikes = group(run.summary, "spikes")
    loss, gradient = (len(listed(spikes.get(of))) for of in ("loss", "grad_norm"))
    spike = "spike" if loss == 1 else "spikes"
    return f"; {loss} {spike} of the loss, {gradient} of the gradient" if loss or gradient else ""


def _last(run: Run, metric: str) -> float | None:
    rows = run.layers[(run.layers.metric == metric) & (run.layers.sublayer == "model")].sort_values("step")
    return None if rows.empty else float(rows.value.iloc[-1])


def _of_arm(study: Study, arm: str) -> list[Run]:
    return [run for run in study.runs if run.arm == arm]


def _differing(study: Study) -> Table:
    """In what the configurations differ, seeds and folders apart."""
    firsts = [_of_arm(study, arm)[0] for arm in study.arms]
    found = {key: [_short(value) for value in values] for key, values in differences(firsts).items()}
    return of_arms("differences", "In what the runs' configurations differ", study.arms, found, first=True)


def _outcomes(study: Study) -> Table:
    rows: dict[str, list[str]] = {}
    for arm in study.arms:
        runs = _of_arm(study, arm)
        losses = [loss for run in runs if (loss := number(run.summary.get("val_loss"))) is not None]
        speeds = [speed for run in runs if (speed := number(run.summary.get("tokens_per_second"))) is not None]
        states = [str(run.summary.get("end_state") or run.summary.get("status") or "not ended") for run in runs]
        parameters = number(runs[0].summary.get("parameters"))
        for key, value in {
            "runs (seeds)": f"{len(runs)} ({', '.join(str(run.seed) for run in runs)})",
            "how they ended": ", ".join(f"{states.count(s)} {s}" for s in dict.fromkeys(states)),
            "held-out loss, nats per token": _range(losses, ".4f"),
            "parameters": "" if parameters is None else f"{parameters:,.0f}",
            "tokens per second": _range(speeds, ",.0f"),
        }.items():
            rows.setdefault(key, []).append(value)
    return of_arms("outcomes", "How the runs ended", study.arms, rows, first=True)


def _range(values: Sequence[float], form: str) -> str:
    if not values:
        return ""
    low, high = format(min(values), form), format(max(values), form)
    return low if low == high else f"{low} to {high}"


def _short(value: Any) -> str:
    text = "" if value is None else said(value)
    return text if len(text) <= 160 else text[:157] + "..."


def _facts(study: Study) -> dict[str, str]:
    """Once for all figures: what was trained, on what, with what; of several runs, what is not the same is said of
    each."""

    def values(*keys: str) -> str:
        found = [
            " ".join(str(run.summary[key]) for key in keys if run.summary.get(key) is not None) for run in study.runs
        ]
        return "; ".join(dict.fromkeys(text for text in found if text))

    def configured(*keys: str) -> str:
        found = [
            ", ".join(said(flat(run.config)[key]) for key in keys if key in flat(run.config)) for run in study.runs
        ]
        return "; ".join(dict.fromkeys(text for text in found if text))

    facts = {
        "residual": configured("model.residual"),
        "seeds": ", ".join(str(run.seed) for run in study.runs),
        "parameters": values("parameters"),
        "tokens": values("tokens"),
        "optimiser, peak learning rate, schedule": configured(
            "optimizer.name", "optimizer.learning_rate", "schedule.name"
        ),
        "unigram entropy, nats per token": values("unigram_entropy"),
        "share of steps clipped": values("clip_rate"),
        "data (fingerprint)": values("data_source", "data_fingerprint"),
        "device, precision": values("device", "precision"),
        "code": values("git_commit"),
        "statistics of the stream": "on one held-out probe batch, in evaluation mode and float32; lines are medians "
        "over seeds, bands reach from the smallest seed to the largest" if len(study.runs) > 1
        else "on one held-out probe batch, in evaluation mode and float32",
    }  # fmt: skip
    return {name: value for name, value in facts.items() if value}
