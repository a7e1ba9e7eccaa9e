"""The page of a run: RUN_DIR/report.html, one file that needs no network."""

from __future__ import annotations

import html
import json
import os
from pathlib import Path

import vl_convert

from .charts import save
from .run_data import RunFiles, read_run
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
    run = read_run(folder)
    charts = figures(run)
    if static:
        for name, chart in charts.items():
            save(chart, folder / "figures", name)
    page = folder / "report.html"
    title = f"Run {folder.resolve().name}"
    body = _banner(run) + _facts(run) + "".join(_figure(name, _caption(run)) for name in charts)
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
    temporary = file.with_name(f".{file.name}.tmp-{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, file)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _figure(name: str, caption: str) -> str:
    return f'<figure><div id="{name}"></div><figcaption>{html.escape(caption)}</figcaption></figure>\n'


def _banner(run: RunFiles) -> str:
    state = run.summary.get("end_state")
    if state in ("stuck", "degraded", "diverged"):
        step = run.summary.get("divergence_step")
        since = "" if step is None else f" from step {step} on"
        return f'<p class="failed"><b>This run ended {html.escape(state)}{since}.</b></p>\n'
    return "" if run.summary else "<p>This run has not ended: everything below may still change.</p>\n"


def _facts(run: RunFiles) -> str:
    summary = run.summary
    spikes = summary.get("spikes", {})
    facts = {
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
    rows = "".join(f"<dt>{k}</dt><dd>{html.escape(str(v))}</dd>" for k, v in facts.items() if v is not None)
    return f"<dl>{rows}</dl>\n" if summary else ""


def _number(value: float | None, unit: str) -> str | None:
    return None if value is None else f"{value:.4f} {unit}"


def _caption(run: RunFiles) -> str:
    optimizer, summary = run.config.get("optimizer", {}), run.summary
    seeds = summary.get("seeds", {})
    return (
        f"1 run, seed {seeds.get('init', '?')}; {summary.get('tokens', 0):,} tokens; {optimizer.get('name')}, peak "
        f"learning rate {optimizer.get('learning_rate')}, {run.config.get('schedule', {}).get('name')}; "
        f"{summary.get('device', 'device not known')}. Statistics of the stream: held-out probe batch, float32."
    )
