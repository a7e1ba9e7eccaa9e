"""Tables that no name can break: LaTeX compiles as text, Markdown keeps its columns, no CSV cell is a formula."""

import csv
import io
import re
import shutil
import subprocess

import pytest

from resformer.report.tables import Cell, Column, Row, Table

NAMES = [r"\input{/etc/passwd}", "a|b`c", "50 % & more_#1 $x$ ~^ {}", "two\nlines", "=1+1", "-2", "@cmd", '<b>"x"</b>']


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
