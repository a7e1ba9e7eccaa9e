"""The shipped notebook in a real kernel: each cell runs, and what it ends with shows itself."""

from pathlib import Path

import pytest
from face_helpers import tiny, tiny_sweep

NOTEBOOK = Path(__file__).parents[2] / "recipes" / "first_steps.ipynb"


@pytest.mark.slow
def test_each_cell_runs_and_shows_what_it_ends_with(run, sweep, text, tmp_path):
    """With a run and a sweep that are there already, which the same calls open again."""
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    told = tiny_sweep(text, sweep.folder)
    cells[0].source += f"""
residual, settings = "post*1,pre*rest", {tiny(text) | {"run_dir": str(run.folder)}}
few, sweep_settings = {told["base"]}, { ({"sweep_dir": told["sweep_dir"], "executor": told["executor"]}) }
"""
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [
        {kind for output in cell.outputs if output.output_type == "execute_result" for kind in output.data}
        for cell in cells
    ]
    ends_in_a_value = [cell.source.splitlines()[-1].startswith(("run", "resformer.", "sweep")) for cell in cells]
    assert sum(ends_in_a_value) >= 7
    for cell, kinds, expected in zip(cells, shown, ends_in_a_value, strict=True):
        assert ("text/html" in kinds) == expected, cell.source
    figures = next(cell for cell in cells if cell.source == "run.figures()")
    assert "<svg" in figures.outputs[0].data["text/html"]
