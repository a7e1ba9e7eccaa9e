"""The page of a sweep: one HTML file that needs no network, and the same figures and table as files of their own."""

import html
import json
from pathlib import Path

import vl_convert

from .charts import save
from .sweep_data import SweepReport, read_sweep
from .sweep_depth_figures import depth_figures
from .sweep_figures import figures
from .sweep_table import html_table, save_table

_HERE = Path(__file__).parent
_RULE = (
    "Better or worse is said only if the A/A arm came out null at that point, the arm known to break was flagged, both "
    "best learning rates lie inside the grid, the 95 % interval of the paired difference excludes zero, and p, "
    "adjusted by Holm over all comparisons of the sweep, is below alpha, even where the loser may take the winner's "
    "rate (lest a badly tuned one decide). Equivalent: two one-sided tests against the "
    "margin, adjusted likewise. Unstable: a reporting run at the arm's best rate ended stuck or diverged. Everything "
    "else is unresolved."
)


def write_page(folder: Path) -> Path:
    """Write ``folder``/report/index.html, figures/ (SVG, PNG, PDF) and the verdict table (CSV, Markdown, LaTeX).

    Returns:
        The page.

    Raises:
        ValueError: if ``folder`` is no sweep's.
    """
    report = read_sweep(folder)
    out = folder / "report"
    charts = figures(report) | depth_figures(report)
    for name, chart in charts.items():
        save(chart, out / "figures", name)
    save_table(report, out)
    page = out / "index.html"
    page.write_text(_page(report, {name: chart.to_dict() for name, chart in charts.items()}), encoding="utf-8")
    return page


def _page(report: SweepReport, specs: dict[str, dict]) -> str:
    library = vl_convert.javascript_bundle()  # type: ignore[call-arg]  # its stub knows no default
    parts = {
        "TITLE": html.escape(f"Sweep {report.sweep.folder.resolve().name}"),
        "STATUS": _status(report),
        "FACTS": _facts(report),
        "FILTERS": _filters("arm", list(report.sweep.arms)) + _filters("point", list(report.sweep.points)),
        "TABLE": html_table(report),
        "RULE": html.escape(_RULE),
        "FIGURES": "".join(_figure(name) for name in specs) or "<p>No run is finished yet.</p>",
        "DIFFERENCES": _differences(report),
        "RUNS": _runs(report),
        "SPECS": json.dumps(specs).replace("</", "<\\/"),
        "LIBRARY": library.replace("</script", "<\\/script"),
        "SCRIPT": (_HERE / "sweep_page.js").read_text(encoding="utf-8"),
        "STYLE": (_HERE / "sweep_page.css").read_text(encoding="utf-8"),
    }
    page = (_HERE / "sweep_page.html").read_text(encoding="utf-8")
    before, *rest = page.split("{{")
    return before + "".join(parts[name] + text for name, _, text in (piece.partition("}}") for piece in rest))


def _status(report: SweepReport) -> str:
    if not report.missing:
        return f"<p class='whole'>All {len(report.state.outcomes)} trials are finished.</p>"
    return (
        f"<p class='partial'>Partial: {len(report.state.outcomes)} of the {len(report.state.trials)} trials known so "
        "far are finished. Verdicts wait for the rest, and everything below may still change.</p>"
    )


def _facts(report: SweepReport) -> str:
    controls, chosen, analysis = report.sweep.config.controls, report.sweep.config.statistics, report.analysis
    say = {None: "not finished", True: "null, as it should be", False: "NOT null: no verdict stands"}
    null = "; ".join(f"{point or 'all'}: {say[is_null]}" for point, is_null in analysis.a_a_is_null.items())
    fired = {None: "not finished", True: "fired, as it should", False: "did NOT fire: no verdict stands"}
    seed_noise = "; ".join(f"{point or 'all'}: {sd:.4f}" for point, sd in analysis.sigma_seed.items())
    entropy = ", ".join(f"{float(value):.4f}" for value in report.common("unigram_entropy"))
    tokens = report.verdicts.tokens.dropna().unique() if not report.verdicts.empty else []
    facts = {
        "data": f"{', '.join(report.common('data_source'))} ({', '.join(report.common('data_fingerprint'))})",
        "tokens of a run": ", ".join(f"{value:,.0f}" for value in tokens),
        "unigram entropy": f"{entropy} nats per token",
        "standard deviation over seeds": f"{seed_noise} nats (baseline)",
        f"A/A arm {controls.a_a_control or '(none)'}": null or "there is none: no verdict stands",
        f"arm known to break {controls.positive_control or '(none)'}": fired[analysis.positive_control_fired]
        if controls.positive_control
        else "there is none: no verdict stands",
        "declared before": f"margin {chosen.margin:g} nats, delta {chosen.delta:g} nats, alpha {chosen.alpha:g}",
        "recipe": f"{report.recipe_hash} (sweep.yaml)",
        "code": ", ".join(report.common("git_commit")) or "not under git",
        "device": ", ".join(report.common("device")),
        "precision": _precision(report.common("precision")),
    }
    return "<dl>" + "".join(f"<dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd>" for k, v in facts.items()) + "</dl>"


def _precision(found: list[str]) -> str:
    names = ["float32" if name == "no" else name for name in found]
    mixed = " (NOT one for all trials: small differences may come from that)" if len(names) > 1 else ""
    return ", ".join(names) + mixed


def _filters(kind: str, names: list[str]) -> str:
    if len(names) < 2:
        return ""
    boxes = "".join(
        f'<label><input type="checkbox" data-filter="{kind}" value="{html.escape(name, quote=True)}" checked> '
        f"{html.escape(name)}</label>"
        for name in names
    )
    return f"<fieldset><legend>{'arms' if kind == 'arm' else 'points'}</legend>{boxes}</fieldset>"


def _figure(name: str) -> str:
    links = ", ".join(f'<a href="figures/{name}.{ending}">{ending.upper()}</a>' for ending in ("svg", "png", "pdf"))
    return f'<figure><div id="{name}" class="chart"></div><figcaption>{links}</figcaption></figure>'


def _differences(report: SweepReport) -> str:
    lines = []
    for arm, found in report.plan.get("differences", {}).items():
        because = report.sweep.because.get(arm)
        why = f" <em>because: {html.escape(because)}</em>" if because else ""
        items = "".join(f"<li>{html.escape(text)}</li>" for text in found) or "<li>none</li>"
        lines.append(f"<li><b>{html.escape(arm)}</b>{why}<ul>{items}</ul></li>")
    return f"<ul>{''.join(lines)}</ul>" if lines else "<p>Not recorded.</p>"


def _runs(report: SweepReport) -> str:
    columns = ["arm", "point", "learning_rate", "seed", "role", "end_state", "val_loss"]
    head = "".join(f'<th tabindex="0" role="button">{name.replace("_", " ")}</th>' for name in columns)
    body = []
    for line in report.runs.to_dict("records"):
        cells = "".join(
            f'<td data-sort="{html.escape(str(line[name]))}">'
            + html.escape(f"{line[name]:.4f}" if name == "val_loss" else str(line[name]))
            + "</td>"
            for name in columns
        )
        link = f'<td><a href="../{html.escape(line["folder"], quote=True)}/">files</a></td>'
        arm, point = (html.escape(str(line[name]), quote=True) for name in ("arm", "point"))
        body.append(f'<tr data-arm="{arm}" data-point="{point}">{cells}{link}</tr>')
    return f'<table id="runs"><thead><tr>{head}<th></th></tr></thead><tbody>{"".join(body)}</tbody></table>'
