"""The card of a packed reference, and what its maker says."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import anndata as ad
import h5py
import pandas as pd
import pytest

from scalex import demo_cells
from scalex.projection.reference import Reference

# Those of the run.
SCORES = {"total": 0.7, "kept": 0.6543, "mixed": 0.5, "wrong": 0.0321}


@pytest.fixture
def card(packed: Reference) -> str:
    return (packed.folder / "README.md").read_text()


def test_it_tells_cells_domains_and_types(trained: Any, card: str) -> None:
    exported = trained.exported
    assert card.startswith("# Demo cells\n")
    assert f"| cells | {exported.n_obs:,}, of which the model was trained on {exported.n_obs:,} |" in card
    for name in ("domain", "cell_type"):
        for value, count in exported.obs[name].value_counts().items():
            assert f"| {value} | {count:,} |" in card
    assert f"({', '.join(exported.var_names[:3])}, ...)" in card


def test_it_tells_the_model_the_scores_and_the_checksum(trained: Any, packed: Reference, card: str) -> None:
    sha256 = hashlib.sha256((packed.folder / "checkpoint" / "best.ckpt").read_bytes()).hexdigest()
    assert f"| sha256 of checkpoint/best.ckpt | {sha256} |" in card
    for name, value in SCORES.items():
        assert f"| {name} | {value:.3f} |" in card
    assert "counts are normalized to a total of 10,000 for each cell, then log1p" in card
    assert f"Cells have at least {trained.min_features} detected features" in card
    assert "![UMAP of the cells of the training](umap.png)" in card


def test_it_tells_what_was_given_and_what_was_not(card: str) -> None:
    assert "| contact | lab@example.org |" in card
    assert "| license | not given: ask before you use or pass on this file |" in card
    assert "| species | not given |" in card


def test_its_lines_of_python_run(trained: Any, packed: Reference, card: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    query = trained.query.copy()
    query.obs["donor"] = "new"
    query.write_h5ad("query.h5ad")
    shutil.copy(packed.given, "atlas.zip")
    names: dict[str, Any] = {}
    exec(card.split("```python\n")[1].split("```")[0], names)
    assert list(names["labels"].index) == list(query.obs_names)


def test_names_cannot_change_its_tables(trained: Any, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(trained.folder, tmp_path / "run"))
    with h5py.File(folder / "adata.h5ad", "a") as file:
        column = file["obs/cell_type/categories"]
        column[0] = "a | b\n# <script> ![x](http://host)"
    Reference.load(folder).pack(tmp_path / "atlas.zip", title="one\n# two")
    with ZipFile(tmp_path / "atlas.zip") as archive:
        card = archive.read("README.md").decode()
    assert card.startswith("# one # two\n")
    assert "| a \\| b # &lt;script> !\\[x\\](http://host) |" in card


def test_the_species_of_ensembl_identifiers_is_told(tmp_path: Path) -> None:
    from scalex import SCALEX

    cells = demo_cells(150, 400, 2, seed=1)
    cells.var_names = [f"ENSMUSG{n:011d}" for n in range(cells.n_vars)]
    cells.obs["donor"] = pd.Categorical(["x"] * cells.n_obs)
    SCALEX(cells, outdir=tmp_path / "run", min_features=0, max_iteration=2, ignore_umap=True, show=False, verbose=False)
    reference = Reference.load(tmp_path / "run")
    assert reference.describe()["species"] == "mouse (Mus musculus)"
    assert reference.describe()["names"].startswith("Ensembl identifiers (ENSMUSG0000")
    reference.pack(tmp_path / "own.zip", species="Mus spretus")
    assert Reference.load(tmp_path / "own.zip").describe()["species"] == "Mus spretus"


def test_describe_tells_what_the_maker_said(packed: Reference, scored: Reference) -> None:
    described = packed.describe()
    assert {name: described[name] for name in ("title", "species", "license", "contact")} == {
        "title": "Demo cells", "species": None, "license": None, "contact": "lab@example.org",
    }  # fmt: skip
    assert described["scores"] == SCORES
    assert scored.describe()["title"] is None
    assert '<td style="text-align:left">Demo cells</td>' in packed._repr_html_()
    assert "total 0.7, kept 0.654, " in packed._repr_html_()


@pytest.mark.parametrize("scores", ["[1]", '"text"', '{"kept": [1], "mixed": "x", "wrong": 0.5}'])
def test_scores_and_words_that_are_none_are_left_out(trained: Any, tmp_path: Path, scores: str) -> None:
    folder = Path(shutil.copytree(trained.folder, tmp_path / "run"))
    (folder / "metrics.json").write_text(scores)
    for uns in ({"scalex": "text"}, {"scalex": {"about": "text"}}, {}):
        with h5py.File(folder / "adata.h5ad", "a") as file:
            del file["uns"]
            ad.io.write_elem(file, "uns", uns)
        described = Reference.load(folder).describe()
        assert described["scores"] == ({"wrong": 0.5} if "wrong" in scores else {})
        assert described["title"] is None
