"""The page of a sweep, in a real browser without a network, and its figures and tables as files."""

import csv
import json
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from report_helpers import must_be_readable, opened

sys.path.insert(0, str(Path(__file__).parents[1] / "sweep"))
from sweep_helpers import ROOT, definition, environment, sweep

from resformer.report.sweep import read_sweep
from resformer.report.sweeps import page_of


def report(folder: Path) -> subprocess.CompletedProcess:
    line = [sys.executable, str(ROOT / "recipes" / "report.py"), str(folder)]
    return subprocess.run(line, capture_output=True, text=True, env=environment(), check=False)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    assert sweep(folder, definition(folder)).returncode == 0
    result = report(folder / "sweep")
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == str(folder / "sweep" / "report" / "index.html")
    return folder / "sweep"


@pytest.fixture
def page(browser, whole):
    view, problems = opened(browser, whole / "report" / "index.html")
    yield view
    assert problems == []


def column(page, name: str) -> list[str]:
    head = [text.strip() for text in page.locator("#verdicts th").all_inner_texts()]
    return page.locator(f"#verdicts tbody tr:visible td:nth-child({head.index(name) + 1})").all_inner_texts()


def test_every_figure_is_drawn_without_a_network(page):
    for chart in page.locator(".chart").all():
        assert chart.locator("canvas, svg").first.bounding_box()["width"] > 200
        assert chart.get_attribute("role") == "img"
        assert re.search(r"values from|: ", chart.get_attribute("aria-label"))
    assert "72 finished of 72" in page.inner_text("body")


def test_the_answer_comes_first(page):
    answer = page.inner_text("#answer")
    assert "More stable than pre?" in answer and "Lower loss than pre?" in answer and "At what cost?" in answer
    assert re.search(r"Worse: post\..*num_hidden_layers=1 \+0\.50\d", answer)
    assert "the A/A control again came out null" in answer.replace("The A/A", "the A/A")
    links = page.locator("#answer a").evaluate_all("links => links.map((a) => a.getAttribute('href'))")
    assert all(page.locator(link).count() == 1 for link in links) and "#forest" in links


@pytest.mark.parametrize("width", [360, 1280, 2560])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_the_window_and_can_be_read(browser, whole, width, scheme):
    must_be_readable(browser, whole / "report" / "index.html", width, scheme)


def test_the_references_are_those_of_the_kinds_compared(whole):
    text = (whole / "report" / "references.bib").read_text()
    assert "eprint = {1706.03762}" in text and "note = {residual connection: post}" in text
    assert "He et al" not in text and "author = {He and others}" in text  # of plain


def test_the_table_sorts_by_any_column_both_ways(page):
    page.click("#verdicts th button:text-is('loss')")
    losses = [float(text.split()[0]) for text in column(page, "loss") if text]  # of an arm without a sound run: none
    assert losses == sorted(losses)
    page.click("#verdicts th button:text-is('loss')")
    assert [float(text.split()[0]) for text in column(page, "loss") if text] == losses[::-1]
    page.click("#verdicts th button:text-is('arm')")
    assert column(page, "arm") == sorted(column(page, "arm"))


def test_filters_hide_rows_and_marks(page):
    def drawn() -> set:
        return set(
            page.evaluate("""() => {
            const arms = new Set(), walk = (item) => {
                if (item.datum && item.datum.arm && item.datum.point) arms.add(item.datum.arm + "|" + item.datum.point);
                (item.items || []).forEach(walk);
            };
            for (const chart of document.querySelectorAll("[data-spec=loss-over-learning-rate]"))
                if (chart.checkVisibility()) walk(views.get(chart).scenegraph().root);
            return [...arms];
        }""")
        )

    assert len(drawn()) == 8
    page.locator("input[value='post']").uncheck()
    page.locator("input[value='num_hidden_layers=1']").uncheck()
    page.wait_for_timeout(500)
    assert drawn() == {f"{arm}|num_hidden_layers=2" for arm in ("pre", "again", "plain")}
    assert sorted(column(page, "arm")) == ["again", "plain", "pre"]
    page.locator("input[value='post']").check()
    assert "post" in column(page, "arm")
    page.hover("#arms label:has-text('post')")
    assert page.evaluate("[...views.values()].every((view) => view.signal('lit').join() === 'post')")


def test_links_lead_to_files_that_are_there(page, whole):
    links = page.evaluate("[...document.querySelectorAll('a')].map((a) => a.getAttribute('href'))")
    assert len(links) > 72
    assert all((whole / "report" / link).resolve().exists() for link in links if not link.startswith("#"))


def test_figures_and_tables_are_files_too(whole):
    out = whole / "report"
    for name in (
        "forest",
        "stability",
        "loss-over-learning-rate",
        "ladder",
        "cost",
        "stream",
        "gradients",
    ):
        ElementTree.parse(out / "figures" / f"{name}.svg")
        assert (out / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (out / "figures" / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    rows = list(csv.DictReader((out / "verdicts.csv").open()))
    said = {(row["arm"], row["point"]): row for row in rows}
    post = said["post", "num_hidden_layers=2"]
    assert post["verdict"] == "worse"
    assert float(post["stream_growth"]) == 2**4  # the stand-in for training doubles it at each of four sites
    assert float(post["gradient_ratio"]) == pytest.approx(4 / 3)
    assert float(said["again", "num_hidden_layers=2"]["memory_ratio"]) == 1
    assert float(post["difference"]) == pytest.approx(0.5, abs=0.01)
    assert said["plain", "num_hidden_layers=1"]["stability"] == "less stable"
    markdown = (out / "verdicts.md").read_text().splitlines()
    assert len(markdown) == len(rows) + 2
    assert len({line.count("|") for line in markdown}) == 1
    latex = (out / "verdicts.tex").read_text()
    assert latex.count(r"\\") == len(rows) + 1
    assert not re.search(r"(?<!\\)[%_#]", latex)


def test_a_part_of_a_sweep_gives_a_page_that_says_so(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "part")
    for trial in (tmp_path / "part" / "trials").glob("post_*seed=[0-5]"):
        shutil.rmtree(trial)
    for trial in (tmp_path / "part" / "trials").glob("plain_*"):
        shutil.rmtree(trial)
    assert report(tmp_path / "part").returncode == 0
    text = (tmp_path / "part" / "report" / "index.html").read_text()
    assert "Partial:" in text
    rows = list(csv.DictReader((tmp_path / "part" / "report" / "verdicts.csv").open()))
    assert {row["arm"]: row["verdict"] for row in rows} == {
        "pre": "baseline", "again": "unresolved", "post": "unresolved"
    }  # fmt: skip
    shutil.rmtree(tmp_path / "part" / "trials")
    assert report(tmp_path / "part").returncode == 0
    assert "No learning rate is tuned yet" in (tmp_path / "part" / "report" / "index.html").read_text()


def test_trials_of_two_precisions_are_pointed_out(whole, tmp_path):
    assert "NOT one for all trials" not in (whole / "report" / "index.html").read_text()
    shutil.copytree(whole, tmp_path / "mixed")
    summary = next((tmp_path / "mixed" / "trials").glob("post_*")) / "summary.json"
    text = summary.read_text()
    here = json.loads(text)["precision"]  # of this machine
    other = "no" if here == "bf16" else "bf16"
    summary.write_text(text.replace(f'"precision": "{here}"', f'"precision": "{other}"'))
    assert "bf16, float32 (NOT one for all trials" in page_of(read_sweep(tmp_path / "mixed")).html()


def test_a_folder_that_is_no_sweep_is_one_line(tmp_path):
    for arguments in (tmp_path, tmp_path / "nowhere"):
        result = report(arguments)
        assert result.returncode == 2
        assert len(result.stderr.splitlines()) == 1
        assert "no sweep.yaml" in result.stderr
