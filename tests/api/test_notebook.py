"""The notebook in configs/ runs from its first cell to its last, in a kernel of its own."""

import os
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

NOTEBOOK = Path(__file__).resolve().parents[2] / "configs" / "from_python.ipynb"
SMALL = """
config = {
    "data.name": "synthetic", "data.synthetic_users": 60, "data.synthetic_items": 30,
    "data.synthetic_interactions": 900, "model.dim": 8, "run.epochs": 3, "run.choose": False,
    "run.log_every": 2, "device": "cpu", "data.cache": FOLDER, "run.dir": FOLDER + "/run",
}
user, liked = 1, [2, 3]
"""
"""In place of the parameters: a training of a second."""


def test_every_cell_of_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    (parameters,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    parameters.source = f"FOLDER = {str(tmp_path)!r}\n{SMALL}"
    root = str(NOTEBOOK.parents[1])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]))
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3").execute(cwd=str(NOTEBOOK.parent))

    shown = {cell.source.split("\n")[-1]: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}
    assert "popularity" in shown["run"][-1]["data"]["text/html"]
    assert "<svg" in shown["run.plan"][-1]["data"]["image/svg+xml"]
    assert shown["run.recommend(user, k=5)"][-1]["data"]["text/html"].count("<tr") == 6  # a heading and five
    assert shown["opened.recommend(user, k=3)"][-1]["data"]["text/html"].count("<tr") == 4
    training = "".join(each.get("text", "") for each in shown["run"])
    assert "training: " in training, "the bar of a training"


def test_the_notebook_is_kept_without_outputs() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)
