"""The example notebook: it runs from its first cell to its last, and is kept without what it once printed."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import ROOT, child_environment

nbformat = pytest.importorskip("nbformat", reason="the packages of `dev` are not installed")
nbclient = pytest.importorskip("nbclient", reason="the packages of `dev` are not installed")

NOTEBOOK = ROOT / "docs" / "examples" / "study.ipynb"


@pytest.fixture
def notebook() -> Any:
    read = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(read)
    return read


def test_the_notebook_is_kept_without_outputs(notebook):
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not [cell for cell in code if cell.outputs or cell.execution_count is not None]
    assert set(notebook.metadata) == {"kernelspec", "language_info"}


@pytest.mark.engine
def test_every_cell_of_the_notebook_runs_and_the_study_draws_its_plots(notebook, tmp_path):
    client = nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}})
    client.execute(env=child_environment({"OMP_NUM_THREADS": "1"}))  # two threads on busy cores wait for each other
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    said = "".join(output.text for output in outputs if output.output_type == "stream")
    assert "2 trials measured" in said, said
    assert "\x1b" not in said, "a kernel shows colours, but a progress bar would fill the page"
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 3
    assert (tmp_path / "experiments" / "notebook" / "frozen.yaml").is_file()
