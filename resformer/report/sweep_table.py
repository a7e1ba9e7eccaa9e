"""The verdict table for people: one row for each arm at each point, in HTML, CSV, Markdown and LaTeX."""

import html
import math
from pathlib import Path
from typing import Any

import pandas as pd

from ..sweeps.inference import wilson
from .sweep_data import SweepReport

HINTS = {
    "arm": "the arm",
    "point": "place in the grid",
    "verdict": "against the baseline, by the rule below the table",
    "end states": "of the reporting runs at the arm's best rate",
    "failed": "stuck or diverged, of all reporting runs there, with a 95 % Wilson interval of the rate",
    "loss": "held-out, nats per token, at the arm's best rate: mean over the reporting seeds and 95 % t interval",
    "difference": "from the baseline, each at its own best rate, paired by seed, with 95 % t interval",
    "Holm p": "two-sided, the larger of each at its own rate and the loser at the winner's; adjusted over the sweep",
    "MDD": "smallest true difference that these seeds would have found with 80 % power",
    "at its rate": "difference from the baseline, both at the baseline's best rate, with 95 % t interval",
    "best rate": "chosen on the tuning seeds; in brackets the vertex of a parabola where there is one",
    "stable to": "largest rate at which no run diverged and the mean is within delta of the best",
    "headroom": "decades between the best and the largest stable rate",
    "S": "learning-rate sensitivity, nats (window), and its paired difference from the baseline",
    "centred S": "the same, over a window around the arm's own best rate",
    "spikes/1k": "loss spikes per 1,000 steps with 95 % Poisson interval",
    "OLMo 2 score": "percentage of steps whose loss is 7 deviations off the last 1,000; of runs of 5,000 steps or more",
    "depth limit": "deepest point up to which all runs trained, the rate tuned at each depth",
    "RMS end/start": "of the residual stream, end of the stack over embedding, last look, median over seeds",
    "gradient first/last": "norm of the MLP output matrix's gradient, first block over last, likewise",
    "parameters": "all (outside embeddings)",
    "FLOPs/token": "forward and backward",
    "step": "time of a step as a ratio to the baseline, measured in turn (or, on a cluster, of the fastest run)",
    "memory": "most bytes of tensors in a step (on a cluster: of the process or device), as a ratio to the baseline",
    "tuning runs": "spent on choosing the rate",
}


def verdict_rows(report: SweepReport) -> list[dict[str, tuple[str, Any]]]:
    """For each row, column: (what is shown, what it is sorted by)."""
    rows = []
    for line in report.verdicts.to_dict("records"):
        failed, runs = int(line["failed"]), int(line["runs"])
        interval = "" if not runs else " [{:.0%}, {:.0%}]".format(*wilson(failed, runs))
        vertex = f" ({line['fitted_rate']:.2g})" if line["fitted_rate"] != line["best_rate"] else ""
        edge = "" if line["interior"] else ", at the edge"
        cells = {
            "arm": (line["arm"], line["arm"]),
            "point": (line["point"], line["point"]),
            "verdict": (line["verdict"] + (f": {line['reason']}" if line["reason"] else ""), line["verdict"]),
            "end states": (line["end_states"], failed),
            "failed": (f"{failed}/{runs}{interval}", failed / runs if runs else 0),
            "loss": (_with_interval(line, "loss", ".4f"), line["loss"]),
            "difference": (_with_interval(line, "difference", "+.4f"), line["difference"]),
            "Holm p": (_number(line["p_holm"], ".2g"), line["p_holm"]),
            "MDD": (_number(line["mdd"], ".4f"), line["mdd"]),
            "at its rate": (_with_interval(line, "rate_difference", "+.4f"), line["rate_difference"]),
            "best rate": (f"{line['best_rate']:g}{vertex}{edge}", line["best_rate"]),
            "stable to": (_number(line["largest_stable_rate"], "g"), line["largest_stable_rate"]),
            "headroom": (_number(line["headroom"], ".2f"), line["headroom"]),
            "S": (_sensitivity(line), line["S"]),
            "centred S": (_number(line["S_centred"], ".3f"), line["S_centred"]),
            "spikes/1k": (_events(line), line["events_per_1000"]),
            "OLMo 2 score": (_number(line["olmo2_percent"], ".3f"), line["olmo2_percent"]),
            "depth limit": (_number(line["depth_limit"], ".0f"), line["depth_limit"]),
            "RMS end/start": (_number(line["stream_growth"], ".3g"), line["stream_growth"]),
            "gradient first/last": (_number(line["gradient_ratio"], ".3g"), line["gradient_ratio"]),
            "parameters": (_parameters(line), line["parameters"]),
            "FLOPs/token": (_number(line["flops_per_token"], ".3g"), line["flops_per_token"]),
            "step": (_ratio(line["step_ratio"], line["step_seconds"], 1e3, "ms"), line["step_ratio"]),
            "memory": (_ratio(line["memory_ratio"], line["peak_memory"], 2**-20, "MiB"), line["memory_ratio"]),
            "tuning runs": (str(line["tuning_runs"]), line["tuning_runs"]),
        }
        rows.append(cells)
    return rows


def html_table(report: SweepReport) -> str:
    """A table whose headings sort it; every row says its arm and point, so that a page can filter."""
    rows = verdict_rows(report)
    if not rows:
        return "<p>No learning rate is tuned yet.</p>"
    head = "".join(
        f'<th title="{html.escape(HINTS[name])}" tabindex="0" role="button">{html.escape(name)}</th>'
        for name in rows[0]
    )
    body = []
    for row in rows:
        cells = "".join(
            f'<td data-sort="{html.escape("" if _absent(key) else str(key))}"'
            f"{_verdict_class(name, key)}>{html.escape(str(shown))}</td>"
            for name, (shown, key) in row.items()
        )
        arm, point = (html.escape(str(row[name][1]), quote=True) for name in ("arm", "point"))
        body.append(f'<tr data-arm="{arm}" data-point="{point}">{cells}</tr>')
    return f'<table id="verdicts"><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table>'


def save_table(report: SweepReport, folder: Path) -> list[Path]:
    """verdicts.csv (numbers), verdicts.md and verdicts.tex (as shown)."""
    folder.mkdir(parents=True, exist_ok=True)
    report.verdicts.to_csv(folder / "verdicts.csv", index=False)
    rows = [{name: str(shown) for name, (shown, _) in row.items()} for row in verdict_rows(report)]
    (folder / "verdicts.md").write_text(_markdown(rows), encoding="utf-8")
    (folder / "verdicts.tex").write_text(_latex(rows), encoding="utf-8")
    return [folder / f"verdicts.{ending}" for ending in ("csv", "md", "tex")]


def _markdown(rows: list[dict[str, str]]) -> str:
    if not rows:
        return ""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *[list(row.values()) for row in rows]]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def _latex(rows: list[dict[str, str]]) -> str:
    """A tabular of the columns that fit a page; needs \\usepackage{booktabs}."""
    columns = ["arm", "point", "verdict", "failed", "loss", "difference", "Holm p", "MDD", "best rate", "S"]
    lines = [" & ".join(columns)] + [
        " & ".join(_escaped(row[name].partition(":")[0] if name == "verdict" else row[name]) for name in columns)
        for row in rows
    ]
    body = " \\\\\n".join([lines[0] + " \\\\\n\\midrule\n" + lines[1] if len(lines) > 1 else lines[0], *lines[2:]])
    return f"\\begin{{tabular}}{{{'l' * len(columns)}}}\n\\toprule\n{body} \\\\\n\\bottomrule\n\\end{{tabular}}\n"


def _escaped(text: str) -> str:
    for character in "&%_#$":
        text = text.replace(character, "\\" + character)
    return text


def _absent(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _number(value: Any, form: str) -> str:
    return "" if _absent(value) or pd.isna(value) else format(value, form)


def _with_interval(line: dict[str, Any], name: str, form: str) -> str:
    if _absent(line[name]):
        return ""
    if _absent(line[f"{name}_low"]):
        return format(line[name], form)
    return f"{line[name]:{form}} [{line[f'{name}_low']:{form}}, {line[f'{name}_high']:{form}}]"


def _sensitivity(line: dict[str, Any]) -> str:
    text = f"{line['S']:.3f} ({line['S_low']:g} to {line['S_high']:g})"
    if _absent(line["S_difference_low"]):
        return text
    return f"{text}, {line['S_difference']:+.3f} [{line['S_difference_low']:+.3f}, {line['S_difference_high']:+.3f}]"


def _events(line: dict[str, Any]) -> str:
    if _absent(line["events_per_1000"]):
        return ""
    return f"{line['events_per_1000']:.2f} [{line['events_low']:.2f}, {line['events_high']:.2f}]"


def _parameters(line: dict[str, Any]) -> str:
    return "" if _absent(line["parameters"]) else f"{line['parameters']:,.0f} ({line['non_embedding']:,.0f})"


def _ratio(ratio: Any, value: Any, factor: float, unit: str) -> str:
    return "" if _absent(ratio) else f"x {ratio:.2f} ({value * factor:,.0f} {unit})"


def _verdict_class(name: str, key: Any) -> str:
    return f' class="verdict {html.escape(str(key))}"' if name == "verdict" else ""
