"""The notebook of examples/ runs from its first cell to its last, and shows what its text says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

nbformat: Any = pytest.importorskip("nbformat", reason="nbformat is not installed: pip install nbclient ipykernel")
nbclient: Any = pytest.importorskip("nbclient", reason="nbclient is not installed: pip install nbclient ipykernel")
pytest.importorskip("ipykernel", reason="ipykernel is not installed: pip install nbclient ipykernel")

NOTEBOOK = Path(__file__).parents[2] / "examples" / "notebook" / "evolve.ipynb"


def results(notebook: Any) -> list[str]:
    """Return the value of every cell that ends with one, as text."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return [output["data"]["text/plain"] for output in outputs if output["output_type"] == "execute_result"]


def test_the_notebook_runs_and_its_stored_outputs_are_of_such_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    stored = nbformat.read(NOTEBOOK, as_version=4)
    fresh = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(fresh, timeout=500, resources={"metadata": {"path": str(tmp_path)}}).execute()
    config, table, answer, ending, report = results(fresh)
    assert "strategy='sec'" in config
    assert [line.split()[0] for line in table.splitlines()[-3:]] == ["0", "1", "2"]
    assert answer.strip("'").startswith("312=")
    assert ending == "(4, 'all 3 iterations done')"
    assert report == "('report.html', True)"
    assert len(results(stored)) == 5, "the stored notebook is executed"
    assert ending in results(stored)
