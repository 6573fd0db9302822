"""The command ``scalex genes`` on a finished run."""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path

import anndata as ad
import matplotlib.image as mpimg
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from commands import Done, run_program

from scalex import AnnDataSource
from scalex.commands.genes import ACTIONS, HELP
from scalex.genes import compare_conditions, find_markers, make_pseudobulk

# PyDESeq2 warns of few samples and of its own libraries.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def cells(demo: AnnData, tmp_path: Path) -> AnnData:
    """Write cells of four donors of two conditions, and a run of some of them."""
    demo.obs["donor"] = pd.Categorical([f"d{i % 4}" for i in range(300)])
    demo.obs["treated"] = pd.Categorical(["yes" if i % 4 < 2 else "no" for i in range(300)])
    demo.write_h5ad(tmp_path / "cells.h5ad")
    (tmp_path / "run").mkdir()
    run = demo[10:].copy()
    run.obs["leiden"] = run.obs["cell_type"].cat.rename_categories(lambda name: f"cluster of {name}")
    run.obs["domain"] = run.obs["batch"]
    run.X = np.log1p(run.X.toarray())
    run.raw = run
    run.write_h5ad(tmp_path / "run" / "adata.h5ad")
    return demo


def run_genes(folder: Path, *arguments: str) -> Done:
    return run_program("genes", *arguments, cwd=folder)


def test_markers_are_those_of_the_function(cells: AnnData, tmp_path: Path) -> None:
    done = run_genes(tmp_path, "markers", "run=run", "output=found/markers.csv", "n_features=4")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "Wrote found/markers.csv and found/markers.png\n"
    expected = find_markers(ad.read_h5ad(tmp_path / "run" / "adata.h5ad"), n_features=4)
    found = pd.read_csv(tmp_path / "found" / "markers.csv")
    assert found["feature"].tolist() == expected["feature"].tolist()
    np.testing.assert_allclose(found["auroc"], expected["auroc"], rtol=1e-3)
    assert mpimg.imread(tmp_path / "found" / "markers.png").shape[0] > 100


def test_domains_may_be_left_out(cells: AnnData, tmp_path: Path) -> None:
    assert run_genes(tmp_path, "markers", "run=run/adata.h5ad", "domain=null", "groupby=cell_type", "output=m.csv").returncode == 0
    assert "domains" not in pd.read_csv(tmp_path / "m.csv")


def test_sums_and_tests_are_those_of_the_functions(cells: AnnData, tmp_path: Path) -> None:
    named = ["label=leiden", "sample=donor", "condition=treated"]
    done = run_genes(tmp_path, "pseudobulk", "path=cells.h5ad", "run=run", *named, "min_cells=3", "output=sums.h5ad")
    assert done.returncode == 0, done.stderr
    assert re.search(r"^Pseudobulk: \d+ groups of 290 cells$", done.stderr, re.MULTILINE)
    obs = ad.read_h5ad(tmp_path / "run" / "adata.h5ad").obs
    expected = make_pseudobulk(AnnDataSource(path=cells), label="leiden", sample="donor", condition="treated", obs=obs, min_cells=3)
    sums = ad.read_h5ad(tmp_path / "sums.h5ad")
    np.testing.assert_array_equal(sums.X, expected.X)
    assert list(sums.obs_names) == list(expected.obs_names)
    sides = ["treated=yes", "baseline=no"]
    done = run_genes(tmp_path, "compare", "path=sums.h5ad", *named, *sides, "adjust_for=[]", "output=changes.csv")
    assert done.returncode == 0, done.stderr
    assert re.search(r"^cluster of \w+: \d+ features tested in 4 samples$", done.stderr, re.MULTILINE)
    table = compare_conditions(sums, "leiden", "treated", treated="yes", baseline="no", sample="donor", adjust_for=[]).table
    found = pd.read_csv(tmp_path / "changes.csv")
    assert found["feature"].tolist() == table["feature"].tolist()
    np.testing.assert_allclose(found["log2_fold_change"], table["log2_fold_change"], rtol=1e-3)
    assert done.stdout == f"Wrote changes.csv ({len(table):,} tests)\n"


def test_a_figure_is_not_overwritten(cells: AnnData, tmp_path: Path) -> None:
    (tmp_path / "m.png").write_text("mine")
    done = run_genes(tmp_path, "markers", "run=run", "groupby=cell_type", "output=m.csv")
    assert done.returncode == 1
    assert "output=m.png exists, and is not overwritten" in done.stderr
    assert (tmp_path / "m.png").read_text() == "mine"
    assert not (tmp_path / "m.csv").exists()


def test_counts_may_be_in_several_files(cells: AnnData, tmp_path: Path) -> None:
    for name, part in (("a", cells[:100]), ("b", cells[100:])):
        part.write_h5ad(tmp_path / f"{name}.h5ad")
    named = ["label=cell_type", "sample=donor"]
    assert run_genes(tmp_path, "pseudobulk", "path=[a.h5ad,b.h5ad]", "run=run", *named, "output=two.h5ad").returncode == 0
    by_file = run_genes(tmp_path, "pseudobulk", "path=[a.h5ad,b.h5ad]", "label=cell_type", "sample=file", "output=file.h5ad")
    assert by_file.returncode == 0, by_file.stderr
    assert set(ad.read_h5ad(tmp_path / "file.h5ad").obs["file"]) == {"a", "b"}
    by_glob = run_genes(tmp_path, "pseudobulk", "path=?.h5ad", "run=run", *named, "output=glob.h5ad")
    assert by_glob.returncode == 0, by_glob.stderr
    assert (ad.read_h5ad(tmp_path / "glob.h5ad").X == ad.read_h5ad(tmp_path / "two.h5ad").X).all()
    assert run_genes(tmp_path, "pseudobulk", "path=cells.h5ad", "run=run", *named, "output=one.h5ad").returncode == 0
    two, one = (ad.read_h5ad(tmp_path / name) for name in ("two.h5ad", "one.h5ad"))
    np.testing.assert_array_equal(two.X, one.X)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("marker", "scalex genes marker: there is no such action; did you mean markers?"),
        ("markers run=run", "ValueError: Missing settings: output=. scalex genes markers --help shows how."),
        ("markers run=run output=m.csv group=x", "ValueError: group: there is no such setting; did you mean groupby?"),
        ("markers run=run output=m.txt", "ValueError: output=m.txt: the name of the file must end with .csv."),
        ("markers run=run output=cells.csv", "FileExistsError: output=cells.csv exists, and is not overwritten. Choose another name, or"),
        ("markers run=absent output=m.csv", "FileNotFoundError: absent: no .h5ad file and no folder of a finished run."),
        ("markers run=cells.csv output=m.csv", "FileNotFoundError: cells.csv: no .h5ad file and no folder of a finished run."),
        ("markers run=run output=m.csv groupby=type", "KeyError: groupby='type' is not in obs. Columns: "),
        ("markers run=run output=m.csv n_features=few", "n_features=few: a whole number of at least 1 is needed"),
        (
            "markers run=cells.h5ad output=m.csv groupby=cell_type domain=null",
            "ValueError: Markers need normalized expression, and there is none",
        ),
        ("pseudobulk path=absent.h5ad label=cell_type sample=donor output=s.h5ad", "FileNotFoundError: "),
        ("pseudobulk path=run/adata.h5ad label=cell_type sample=donor output=s.h5ad", "ValueError: Pseudobulk needs counts, and X holds"),
        (
            "compare path=cells.h5ad label=cell_type sample=donor condition=treated treated=yes baseline=no adjust_for=[] output=c.csv",
            "ValueError: There are several rows for the same cell_type, treated and donor. The samples are the replicates, and not their",
        ),
        (
            "compare path=cells.h5ad label=cell_type sample=donor condition=treated treated=maybe baseline=no adjust_for=[] output=c.csv",
            "ValueError: treated='maybe': allowed are two different values of 'treated': no, yes.",
        ),
    ],
)
def test_errors_are_one_line_and_leave_nothing(cells: AnnData, tmp_path: Path, arguments: str, message: str) -> None:
    (tmp_path / "cells.csv").write_text("mine")
    before = sorted(path.name for path in tmp_path.iterdir())
    done = run_genes(tmp_path, *arguments.split())
    assert done.returncode == 1
    assert message in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert (tmp_path / "cells.csv").read_text() == "mine"


def test_without_pydeseq2_the_extra_is_named(cells: AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_pseudobulk(AnnDataSource(path=cells), label="cell_type", sample="donor", condition="treated").write_h5ad(tmp_path / "sums.h5ad")
    monkeypatch.setitem(sys.modules, "pydeseq2.dds", None)
    settings = "path=sums.h5ad label=cell_type condition=treated treated=yes baseline=no sample=donor adjust_for=[] output=c.csv"
    done = run_genes(tmp_path, "compare", *settings.split())
    assert done.returncode == 1
    assert done.stderr.endswith("compare_conditions needs PyDESeq2, which is not installed: pip install 'scalex[de]'.\n")


def test_the_help_lists_all_settings(tmp_path: Path) -> None:
    for arguments in ([], ["--help"], ["markers", "--help"]):
        assert run_genes(tmp_path, *arguments) == Done(0, HELP, "")
    for action, function in ACTIONS.items():
        part = HELP[HELP.index(f"\n{action}:") :]
        listed = set(re.findall(r"(?:^|  )([a-z_]+)=", part[: part.index("\n\n")]))
        assert listed == set(inspect.signature(function).parameters), action
