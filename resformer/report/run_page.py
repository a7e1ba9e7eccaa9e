"""The page of a run: RUN_DIR/report.html, one file that needs no network."""

from __future__ import annotations

import html
import json
import sys
from pathlib import Path
from typing import Any

import vl_convert

from ..files import write_atomically
from .charts import save
from .run_data import RunFiles, pool, read_run
from .run_figures import figures

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 1180px; padding: 0 1rem; color: #1a1a1a; }
h1 { font-size: 1.6rem; }
figure { margin: 1.5rem 0; overflow-x: auto; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; }
dt { color: #555; } dd { margin: 0; overflow-wrap: anywhere; }
.failed { background: #fbe3d6; border-left: 4px solid #D55E00; padding: .6rem .8rem; }
figcaption { color: #555; font-size: .85rem; }
"""
_SCRIPT = """
for (const [name, spec] of Object.entries(specs))
  vegaEmbed("#" + name, spec, { actions: { export: true, source: false, compiled: false, editor: false } });
"""


def write_run_page(folder: Path, static: bool = False) -> Path:
    """Write ``folder``/report.html.

    Args:
        folder: of a run, finished or not.
        static: also write each figure as SVG, PNG and PDF under ``folder``/figures.

    Returns:
        The page.

    Raises:
        ValueError: if ``folder`` is no run's, or its recorder was off.
    """
    return _write(read_run(folder), f"Run {folder.resolve().name}", static)


def show_run_page(folder: Path) -> None:
    """Write the page and say where it is; without room for it, the run has ended all the same."""
    try:
        print(f"the stream by depth and time    {write_run_page(folder)}")
    except OSError as error:
        again = f"python recipes/report.py {folder} writes it when there is"
        print(f"warning: no room for {folder / 'report.html'} ({error.strerror}); {again}", file=sys.stderr)


def write_pooled_page(folders: list[Path], out: Path, static: bool = True) -> Path:
    """Write ``out``/report.html of several seeds of one configuration: medians, and their range as a band.

    Args:
        folders: of the runs.
        static: as in ``write_run_page``.

    Raises:
        ValueError: as ``write_run_page``, and if the runs differ in more than their seeds.
    """
    run = pool([read_run(folder) for folder in folders], out)
    out.mkdir(parents=True, exist_ok=True)
    return _write(run, f"{len(folders)} runs: {', '.join(folder.resolve().name for folder in folders)}", static)


def _write(run: RunFiles, title: str, static: bool) -> Path:
    charts, caption = figures(run), _caption(run)
    if static:
        for name, chart in charts.items():
            save(chart, run.folder / "figures", name, caption)
    page = run.folder / "report.html"
    body = _banner(run) + _facts(run) + "".join(figure(name, caption) for name in charts)
    write_page(page, title, body, {name: chart.to_dict() for name, chart in charts.items()})
    return page


def write_page(file: Path, title: str, body: str, specs: dict[str, dict]) -> None:
    """A page whose ``<div id=NAME>`` become the figures of ``specs``; whole at any instant, or not there."""
    library = vl_convert.javascript_bundle().replace("</script", "<\\/script")  # type: ignore[call-arg]
    text = f"""<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>{html.escape(title)}</title><link rel="icon" href="data:,">
<style>{_STYLE}</style></head>
<body><h1>{html.escape(title)}</h1>
{body}
<script>{library}</script>
<script>const specs = {json.dumps(specs).replace("</", "<" + chr(92) + "/")};{_SCRIPT}</script>
</body></html>
"""
    write_atomically(file, text)


def figure(name: str, caption: str) -> str:
    return f'<figure><div id="{name}"></div><figcaption>{html.escape(caption)}</figcaption></figure>\n'


def _banner(run: RunFiles) -> str:
    lines = []
    for one in run.members or (run,):
        who = f"Run {one.folder.resolve().name}" if run.members else "This run"
        state = one.summary.get("end_state")
        if state in ("stuck", "degraded", "diverged"):
            step = one.summary.get("divergence_step")
            since = "" if step is None else f" from step {step} on"
            lines.append(f'<p class="failed"><b>{html.escape(f"{who} ended {state}{since}")}.</b></p>\n')
        if below := _last(one, "gradients_below_eps"):
            share = f"{100 * below:.0f} % of the tensors that AdamW moves"
            lines.append(f'<p class="failed">{html.escape(who)}: at the last look the gradient of {share} had an RMS '
                         "under ten times its eps: their updates freeze.</p>\n")  # fmt: skip
        if not one.summary:
            lines.append(f"<p>{html.escape(who)} has not ended: everything below may still change.</p>\n")
    return "".join(lines)


def _last(run: RunFiles, metric: str) -> float | None:
    found = run.whole(metric)
    return None if found.empty else float(found.sort_values("step").value.iloc[-1])


def _facts(run: RunFiles) -> str:
    """Of several runs, what is not the same is said of each."""
    each = [_facts_of(one) for one in run.members or (run,) if one.summary]
    names = each[0] if each else ()
    facts = {name: list(dict.fromkeys(str(one[name]) for one in each if one[name] is not None)) for name in names}
    rows = "".join(f"<dt>{name}</dt><dd>{html.escape('; '.join(of))}</dd>" for name, of in facts.items() if of)
    return f"<dl>{rows}</dl>\n" if rows else ""


def _facts_of(run: RunFiles) -> dict[str, Any]:
    summary = run.summary
    spikes = summary.get("spikes", {})
    return {
        "residual": json.dumps(run.config.get("model", {}).get("residual")),
        "end state": summary.get("end_state") or summary.get("status"),
        "held-out loss": _number(summary.get("val_loss"), "nats per token"),
        "unigram entropy": _number(summary.get("unigram_entropy"), "nats per token"),
        "spikes": f"{len(spikes.get('loss', []))} of the loss, {len(spikes.get('grad_norm', []))} of the gradient norm",
        "clipped": _number(summary.get("clip_rate"), "of the steps"),
        "parameters": f"{summary.get('parameters', 0):,}",
        "data": f"{summary.get('data_source')} ({summary.get('data_fingerprint')})",
        "code": summary.get("git_commit"),
    }


def _number(value: float | None, unit: str) -> str | None:
    return None if value is None else f"{value:.4f} {unit}"


def _caption(run: RunFiles) -> str:
    optimizer, summary = run.config.get("optimizer", {}), run.summary
    runs = run.members or (run,)
    seeds = ", ".join(str(one.summary.get("seeds", {}).get("init", "?")) for one in runs)
    number = f"{len(runs)} runs, seeds {seeds}: median and range" if run.members else f"1 run, seed {seeds}"
    return (
        f"{number}; {summary.get('tokens', 0):,} tokens; {optimizer.get('name')}, peak "
        f"learning rate {optimizer.get('learning_rate')}, {run.config.get('schedule', {}).get('name')}; "
        f"{summary.get('device', 'device not known')}. Statistics of the stream: held-out probe batch, float32."
    )
