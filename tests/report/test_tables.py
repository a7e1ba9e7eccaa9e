"""Tables that no name can break: LaTeX compiles as text, Markdown keeps its columns, no CSV cell is a formula."""

import csv
import html
import io
import re
import shutil
import subprocess

import markdown_it
import pandas as pd
import pytest

from resformer.markup import code, inert, markdown
from resformer.report.tables import Cell, Column, Row, Table

NAMES = [r"\input{/etc/passwd}", "a|b`c", "50 % & more_#1 $x$ ~^ {}", "two\nlines", "=1+1", "-2", "@cmd", '<b>"x"</b>',
         "[2cm]", "*", "![p](http://t.example/x.png)", "[click](javascript:alert(1))"]  # fmt: skip
LIVE = ["![p](http://t.example/x.png)", "[click](javascript:alert(1))", "[a][b]", "*a*", "_a_", "__a__", "~~a~~", "`a`",
        "# a", "> a", "- a", "+ a", "1. a", "1) a", "---", "- - -", "***", "___", "<img src=x>", "&lt;b>",
        "a|b", "a\\|b", "a\\", "a\n\n# b", "http://t.example", "www.t.example", "<http://t.example>"]  # fmt: skip


@pytest.fixture
def table():
    columns = [Column("arm"), Column("loss", print=False), Column("a_b")]
    return Table(
        "t", "T", columns, [Row([Cell(name, name), Cell("1.5", 1.5), Cell("-0.1 [-0.2, 0]")]) for name in NAMES]
    )


def test_latex_is_text(table):
    text = table.latex()
    assert r"\input" not in text and r"\textbackslash{}input\{" in text
    assert not re.search(r"(?<!\\)[%_#$]|(?<!\\)&(?! )", text.split(r"\midrule")[1])
    assert text.count(r" \\") == len(NAMES) + 1 and text.count("\n") == len(NAMES) + 6
    assert "1.5" not in text  # a column that does not fit on paper


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="no LaTeX is installed")
def test_latex_compiles(table, tmp_path):
    head = "\\documentclass{article}\\usepackage{booktabs}\\usepackage[T1]{fontenc}\\begin{document}\n"
    (tmp_path / "t.tex").write_text(head + table.latex() + "\\end{document}\n")
    line = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "t.tex"]
    assert subprocess.run(line, cwd=tmp_path, capture_output=True, check=False).returncode == 0


def test_markdown_keeps_its_columns(table):
    lines = table.markdown().splitlines()
    assert len(lines) == len(NAMES) + 2
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {4}
    assert "<b>" not in table.markdown()


def test_no_cell_of_a_csv_is_a_formula(table):
    rows = list(csv.reader(io.StringIO(table.csv())))
    assert all(not cell or cell[0] not in "=+@\t" for row in rows for cell in row)
    assert [row[0] for row in rows[1:]][4:7] == ["'=1+1", "-2", "'@cmd"]


@pytest.mark.parametrize("text", LIVE)
def test_markdown_is_text_in_a_list_and_in_a_cell(text):
    reader = markdown_it.MarkdownIt("commonmark").enable(["table", "strikethrough"])
    said = html.escape(" ".join(text.split()))
    assert reader.render(f"- {markdown(text)}\n") == f"<ul>\n<li>{said}</li>\n</ul>\n"
    assert reader.render(f"{markdown(text)}\n") == f"<p>{said}</p>\n"
    row = f"| {markdown(text)} | {code(text)} |"
    cells = re.findall("<td>(.*)</td>", reader.render(f"| | |\n| --- | --- |\n{row}\n"))
    assert [re.sub("</?code>", "", cell) for cell in cells] == [said, said]


def test_what_markdown_reads_as_text_stays_as_it_is():
    for text in ("num_hidden_layers=2", "-0.1", "+3", "p = 0.01: as stable", "1.5", "a > b", "50 %", "C#", "a-b"):
        assert markdown(text) == text


def test_no_row_of_latex_is_an_argument_of_the_line_before(table):
    assert "[2cm]" in table.latex()
    assert not re.search(r"^\s*[\[*]", table.latex(), re.MULTILINE)


@pytest.mark.parametrize(
    "text", ["  =1", "\t=1", "\n=1", "\uff1d1+1", "\uff0b1", "\uff0d1", "\uff20a", "\ufeff=1", "\u200b=1", "\0=1"]
)
def test_no_blank_or_wide_sign_hides_a_formula(text):
    assert inert(text).startswith("'")


def test_a_cell_of_a_csv_is_one_line_and_a_number_stays_one(table):
    table.numbers = pd.DataFrame({"a\n=1": ["a\n=1", "a\r=1", "-2", -2.5, None]})
    rows = list(csv.reader(io.StringIO(table.csv())))
    assert rows == [["a =1"], ["a =1"], ["a =1"], ["-2"], ["-2.5"], [""]]
