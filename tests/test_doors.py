"""Tests that the same cells give the same latents in every format and by every door."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import anndata as ad
import numpy as np
import pytest
import scanpy as sc
from anndata import AnnData
from commands import run_child, run_command
from formats.imitated import IMITATIONS
from formats.written import WRITERS
from scipy import sparse

import scalex
from scalex.demo import demo_cells
from scalex.formats import name_sample

FORMATS = WRITERS | IMITATIONS
# Formats that stay on disk.
BACKED = {"h5ad", "zarr"}
OPTIONS: dict[str, Any] = {
    "min_features": 0, "max_iteration": 3, "ignore_umap": True, "batch_size": 32, "n_top_features": 50, "show": False,
}  # fmt: skip
# The same for the command.
SETTINGS = [
    "preprocess.min_features=0", "preprocess.n_top_features=50", "model=paper", "model.max_steps=3", "model.batch_size=32", "trainer=cpu",
    "callbacks=[checkpoint,latent_export]", "model.statistics=domain",
]  # fmt: skip


class Clean(NamedTuple):
    """Cells, and what becomes of them as an AnnData in memory."""

    cells: AnnData
    one: np.ndarray
    two: np.ndarray
    projected: np.ndarray
    run: Path


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Clean:
    demo = demo_cells(60, 400, 2, seed=1)
    cells = AnnData(sparse.csr_matrix(demo.X, dtype=np.float32), obs=demo.obs[[]].copy(), var=demo.var[[]].copy())
    cells.obs_names = [f"{''.join(np.random.default_rng(i).choice(list('ACGT'), 16))}-1" for i in range(60)]
    run = tmp_path_factory.mktemp("clean") / "run"
    one = scalex.SCALEX(cells, **OPTIONS).obsm["latent"]
    two = scalex.SCALEX({"a": cells[:30].copy(), "b": cells[30:].copy()}, outdir=run, **OPTIONS).obsm["latent"]
    # Encoder statistics of the domain of all cells together, as in the default of SCALEX.
    projected = scalex.Reference.load(run).embed(cells, statistics="domain")
    return Clean(cells, one, two, projected, run)


@pytest.fixture(autouse=True)
def _ignore_old_formats() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ad.OldFormatWarning)
        warnings.filterwarnings("ignore", module="anndata")
        yield


def write_two(cells: AnnData, kind: str, folder: Path) -> list[str]:
    """Write each half of the cells to its own folder, whose name distinguishes them."""
    paths = []
    for name, part in (("a", cells[:30]), ("b", cells[30:])):
        (folder / name).mkdir()
        paths.append(str(FORMATS[kind](part.copy(), folder / name)))
    return paths


def assert_result(adata: AnnData, cells: AnnData, latent: np.ndarray, domains: list[str]) -> None:
    assert [name.removesuffix("-query") for name in adata.obs_names] == list(cells.obs_names)
    assert list(adata.obs["domain"]) == domains
    np.testing.assert_array_equal(adata.obsm["latent"], latent)


@pytest.mark.parametrize("kind", FORMATS)
def test_cells_in_any_format_get_the_latents_of_cells_in_memory(clean: Clean, tmp_path: Path, kind: str) -> None:
    (tmp_path / "one").mkdir()
    path = str(FORMATS[kind](clean.cells.copy(), tmp_path / "one"))
    alone = [name_sample(Path(path))] * 60
    assert_result(scalex.SCALEX(path, **OPTIONS), clean.cells, clean.one, alone)

    domains = ["a"] * 30 + ["b"] * 30
    adata = scalex.SCALEX(write_two(clean.cells, kind, tmp_path), outdir=tmp_path / "run", backed=kind in BACKED, **OPTIONS)
    assert_result(adata, clean.cells, clean.two, domains)
    for read in (ad.read_h5ad, sc.read_h5ad):
        written = read(tmp_path / "run" / "adata.h5ad")
        assert_result(written, clean.cells, clean.two, domains)
        assert set(written.var_names) <= set(clean.cells.var_names)
    assert ("it stays on disk" in (tmp_path / "run" / "log.txt").read_text()) == (kind in BACKED)

    for repeat in (False, True):
        both = scalex.SCALEX(path, projection=tmp_path / "run", repeat=repeat, show=False)
        assert_result(both[-60:], clean.cells, clean.projected, alone)


# Text that may be mistaken for a formula, a path, a value, a format, markup or nothing.
NAMES = [
    "$x_{$", "../a", "a/b", "a\nb", "a\tb", "🧬", "x" * 200, "", " ", "nan", "None", "NA", "0", "1.0", "True", "{}", "%s", "<b>", "..",
    "_x",
]  # fmt: skip


def make_named(names: list[str], columns: tuple[str, str] = ("batch", "cell_type")) -> AnnData:
    """Return cells whose domains and types have these names, in columns of these names."""
    cells = demo_cells(9 * len(names), 400, 2, seed=1)
    del cells.obs["batch"], cells.obs["cell_type"]
    for column, step in zip(columns, (1, 3), strict=True):
        cells.obs[column] = np.array([names[i // step % len(names)] for i in range(cells.n_obs)])
    return cells


@pytest.mark.slow
def test_domains_and_types_may_have_any_name(tmp_path: Path) -> None:
    cells = make_named(NAMES)
    scalex.SCALEX(cells, outdir=tmp_path / "run", **OPTIONS | {"ignore_umap": False, "assess": True})
    assert (tmp_path / "run" / "umap.png").exists()
    cells.write_h5ad(tmp_path / "query.h5ad")
    done = run_command(
        "project.py", "reference=run", "dataset.path=query.h5ad", "append=true", "output=grown", "impute='../a'", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    for folder in ("run", "grown"):
        reference = scalex.Reference.load(tmp_path / folder)
        for column, name in (("batch", "domain"), ("cell_type", "cell_type")):
            assert list(reference.cells.obs[name]) == list(cells.obs[column]) * (2 if folder == "grown" else 1)
    assert (tmp_path / "grown" / "projection.png").exists()
    assert set(reference.cells.obs["cell_type_label"].dropna()) <= {*NAMES, "unknown"}
    for name in NAMES:
        assert reference.impute(cells[:2].copy(), name).layers["impute"].shape == (2, 50)


@pytest.mark.parametrize("name", ["$x_{$", "../a", "a\nb", "", " ", "nan", "..", "_index", "a,b"])
def test_columns_may_have_any_name(tmp_path: Path, name: str) -> None:
    for columns in ((name, "cell_type"), ("batch", name)):
        cells = make_named(["a", "b"], columns)
        domains = list(cells.obs[columns[0]])
        options: dict[str, Any] = {"cell_type": columns[1]} | ({} if columns[0] == "batch" else {"batch_name": name})
        adata = scalex.SCALEX(cells, outdir=tmp_path / columns[1].replace("/", "|") / "run", **OPTIONS, **options)
        assert list(adata.obs["domain"]) == domains


@pytest.mark.parametrize("name", ["a/b", "", "_index", "$x_{$", "a,b"])
def test_the_column_of_the_sources_may_have_any_name(clean: Clean, tmp_path: Path, name: str) -> None:
    parts = {"../a": clean.cells[:30].copy(), "a\nb": clean.cells[30:].copy()}
    scalex.SCALEX(parts, batch_key=name, outdir=tmp_path / "run", **OPTIONS)
    assert list(ad.read_h5ad(tmp_path / "run" / "adata.h5ad").obs["domain"]) == ["../a"] * 30 + ["a\nb"] * 30


def test_samples_that_come_one_by_one_are_domains_of_their_own(clean: Clean, tmp_path: Path) -> None:
    first, second = clean.cells[:30].copy(), clean.cells[30:].copy()
    scalex.SCALEX(first, outdir=tmp_path / "run", **OPTIONS)
    reference = scalex.Reference.load(tmp_path / "run")
    assert reference.trained_on.domains == ("all",)
    projected = scalex.SCALEX(second, projection=tmp_path / "run", show=False)
    assert list(projected.obs["domain"]) == ["all"] * 30 + ["all-2"] * 30
    assert set(reference.project({"all": second}).obs["domain"]) == {"all"}
    with pytest.raises(ValueError, match="all-2"):
        reference.impute(second)
    # Numbers of sources say nothing, either.
    scalex.SCALEX([first, second], outdir=tmp_path / "two", **OPTIONS)
    projected = scalex.SCALEX([second, first], projection=tmp_path / "two", repeat=True, show=False)
    assert list(projected.obs["domain"]) == ["0-2"] * 30 + ["1-2"] * 30
    # Names of files do.
    first.write_h5ad(tmp_path / "a.h5ad")
    assert set(scalex.Reference.load(clean.run).project(tmp_path / "a.h5ad").obs["domain"]) == {"a", "b"}


@pytest.mark.parametrize("name", ["$x_{$", "a\nb", "x" * 200, " ", "nan", "${x}", "a b,c=d[1]{2}'\"", os.fsdecode(b"bad\xff")])
def test_files_may_have_any_name(clean: Clean, tmp_path: Path, name: str) -> None:
    path = tmp_path / "cells.h5ad"
    clean.cells[:30].write_h5ad(path)
    path = path.rename(tmp_path / f"{name}.h5ad")
    scalex.SCALEX([path, clean.cells[30:].copy()], outdir=tmp_path / "run", **OPTIONS)
    written = ad.read_h5ad(tmp_path / "run" / "adata.h5ad")
    assert set(written.obs["domain"]) == {os.fsencode(name).decode(errors="replace"), "1"}
    np.testing.assert_array_equal(written.obsm["latent"], clean.two)


GROW = ["model=paper", "model.max_steps=3", "growth.allowed_fall=2", "trainer=cpu", "callbacks=[checkpoint,latent_export]"]


@pytest.fixture(scope="module")
def grown(clean: Clean, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """Return the latents of all cells after continued training on the cells of one file."""
    folder = tmp_path_factory.mktemp("grown")
    clean.cells.write_h5ad(folder / "cells.h5ad")
    done = run_command("train.py", f"reference={clean.run}", *GROW, "dataset=files", "dataset.path=cells.h5ad", "output=grown", cwd=folder)
    assert done.returncode == 0, done.stderr
    return np.asarray(ad.read_h5ad(folder / "grown" / "adata.h5ad").obsm["latent"])


# make campaign takes all formats through the commands.
@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS if "SCALEX_CAMPAIGN" in os.environ else ["h5ad", "10x new"])
def test_the_commands_give_the_latents_of_scalex(clean: Clean, grown: np.ndarray, tmp_path: Path, kind: str) -> None:
    paths = write_two(clean.cells, kind, tmp_path)
    run = [*SETTINGS, "dataset=files", f"dataset.path=[{','.join(paths)}]", "output=run"]
    if kind == "h5ad":
        run_child("train.py", *run, cwd=tmp_path)
    else:
        done = run_command("train.py", *run, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert_result(ad.read_h5ad(tmp_path / "run" / "adata.h5ad"), clean.cells, clean.two, ["a"] * 30 + ["b"] * 30)
    query = FORMATS[kind](clean.cells.copy(), tmp_path)
    for setting, n_before in (("repeat=true", 0), ("repeat=false", 60), ("append=true", 60)):
        arguments = ["reference=run", f"dataset.path={query}", f"output={setting.replace('=', '-')}", "statistics=domain", setting]
        done = run_command("project.py", *arguments, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        written = ad.read_h5ad(tmp_path / setting.replace("=", "-") / "adata.h5ad")
        np.testing.assert_array_equal(written.obsm["latent"][n_before:], clean.projected)
        assert written.n_obs == n_before + 60
    arguments = [f"reference={clean.run}", *GROW, "dataset=files", f"dataset.path={query}", "output=grown"]
    done = run_command("train.py", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(ad.read_h5ad(tmp_path / "grown" / "adata.h5ad").obsm["latent"], grown)
