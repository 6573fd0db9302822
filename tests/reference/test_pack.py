"""A reference packed for others: what it holds, and that it projects to the same bits."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import anndata as ad
import numpy as np
import pytest
import torch
from anndata import AnnData

from scalex.projection.reference import Reference
from scalex.reference.pack import round_to_steps
from scalex.training.grown_cells import open_expression


def hash_files(folder: Path) -> dict[str, str]:
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.rglob("*")) if path.is_file()}


def read_names(path: str | Path) -> set[str]:
    with ZipFile(path) as archive:
        return set(archive.namelist())


def assert_equal(found: AnnData, expected: AnnData, *, same_labels: bool = True) -> None:
    """Compare projections. What rests on rounded components may differ."""
    for name in ("latent", "X_umap"):
        np.testing.assert_array_equal(found.obsm[name], expected.obsm[name], strict=True)
    components = expected.obsm["input_pca"]
    assert (np.abs(found.obsm["input_pca"] - components).max(0) <= components.std(0) / 64).all()
    assert list(found.obs) == list(expected.obs)
    soft = [name for name in expected.obs if name.endswith(("_probability", "_unknown"))]
    # The second of two types with hardly any neighbours.
    second = [name for name in expected.obs if name.endswith("_runner_up")]
    assert found.obs.drop(columns=soft + second).equals(expected.obs.drop(columns=soft + second))
    assert all((found.obs[name].astype(str) == expected.obs[name].astype(str)).mean() > 0.98 for name in second)
    assert soft
    for name in soft:
        np.testing.assert_allclose(found.obs[name], expected.obs[name], atol=0.02)


@pytest.mark.parametrize("repeat", [False, True])
def test_a_packed_reference_projects_as_the_run_does(trained: Any, scored: Reference, packed: Reference, repeat: bool) -> None:
    np.testing.assert_array_equal(packed.embed(trained.query), scored.embed(trained.query))
    found, expected = (one.project(trained.query, repeat=repeat, impute="domain0") for one in (packed, scored))
    assert_equal(found, expected)
    np.testing.assert_array_equal(found.layers["impute"], expected.layers["impute"])
    if repeat:
        assert (found.X != expected.X).nnz == 0
        assert (found.raw.X != expected.raw.X).nnz == 0
        assert found.raw.var.equals(expected.raw.var)


def test_labels_and_adapters_are_those_of_the_run(trained: Any, scored: Reference, packed: Reference) -> None:
    found, expected = (one.transfer_labels(trained.query) for one in (packed, scored))
    assert found["label"].equals(expected["label"])
    np.testing.assert_allclose(found["probability"], expected["probability"], atol=0.01)
    found, expected = (one.embed(trained.query, adapter=one.fit_adapter(trained.query)) for one in (packed, scored))
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_what_is_in_the_file(trained: Any, scored: Reference, packed: Reference) -> None:
    names = {"README.md", "adata.h5ad", "checkpoint/best.ckpt", "lineage.json"}
    assert read_names(packed.given) == names | {"umap.png", "metrics.json"}
    for name in ("umap.png", "metrics.json"):
        assert (packed.folder / name).read_bytes() == (scored.folder / name).read_bytes()
    adata, exported = ad.read_h5ad(packed.folder / "adata.h5ad"), trained.exported
    assert adata.X is None
    assert adata.raw is None
    assert not adata.layers
    assert not adata.obsp
    assert adata.obs.equals(exported.obs)
    assert adata.var.equals(exported.var)
    assert {name: values.dtype.name for name, values in adata.obsm.items()} == {
        "latent": "float32", "X_umap": "float32", "input_pca": "int16",
    }  # fmt: skip
    assert set(adata.uns) == {"input_pca", "scalex"}
    assert set(adata.uns["scalex"]) == {"version", "scores", "about", "raw_var"}
    checkpoint = torch.load(packed.folder / "checkpoint" / "best.ckpt", weights_only=True)
    whole = torch.load(trained.folder / "checkpoint" / "best.ckpt", weights_only=True)
    assert set(checkpoint) == {"pytorch-lightning_version", "state_dict", "hyper_parameters", "trained_on", "model"}
    for name, value in whole["state_dict"].items():
        assert torch.equal(checkpoint["state_dict"][name], value)


def test_the_state_of_an_optimizer_is_left_out(trained: Any, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(trained.folder, tmp_path / "run"))
    path = folder / "checkpoint" / "best.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    torch.save(checkpoint | {"optimizer_states": [torch.zeros(100_000)]}, path)
    Reference.load(folder).pack(tmp_path / "a.zip")
    with ZipFile(tmp_path / "a.zip") as archive:
        assert archive.getinfo("checkpoint/best.ckpt").file_size < path.stat().st_size - 400_000 + 100_000


def test_the_run_stays_as_it_is_and_the_same_reference_makes_the_same_file(trained: Any, scored: Reference, tmp_path: Path) -> None:
    before = hash_files(trained.folder)
    sums = {Reference.load(trained.folder).pack(tmp_path / name / "atlas.zip") for name in ("one", "two")}
    assert hash_files(trained.folder) == before
    assert sums == {hashlib.sha256((tmp_path / "one" / "atlas.zip").read_bytes()).hexdigest()}


def test_no_part_of_a_file_is_left_by_an_error(scored: Reference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("the disk is gone")

    monkeypatch.setattr(ZipFile, "writestr", fail)
    with pytest.raises(OSError, match="the disk is gone"):
        scored.pack(tmp_path / "atlas.zip")
    assert list(tmp_path.iterdir()) == []


def test_wrong_names_of_the_file_are_refused(scored: Reference, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"atlas\.tar: a reference is packed as \.zip\. Let the name of the file end so"):
        scored.pack(tmp_path / "atlas.tar")
    (tmp_path / "atlas.zip").write_text("mine")
    with pytest.raises(FileExistsError, match=r"atlas\.zip exists, and is not overwritten\. Choose another name, or remove it"):
        scored.pack(tmp_path / "atlas.zip")
    assert (tmp_path / "atlas.zip").read_text() == "mine"


class TestColumns:
    @pytest.fixture
    def pack(self, scored: Reference, tmp_path: Path) -> Callable[..., Reference]:
        def pack(obs: Any) -> Reference:
            scored.pack(tmp_path / "atlas.zip", obs=obs)
            return Reference.load(tmp_path / "atlas.zip")

        return pack

    def test_only_domains_and_clusters(self, trained: Any, scored: Reference, pack: Callable[..., Reference]) -> None:
        packed = pack(obs=False)
        obs = packed.cells.obs
        assert set(obs) == {"domain", "leiden"}
        assert list(obs.index[:3]) == ["0", "1", "2"]
        assert packed.labels == ["leiden"]
        found, expected = (one.project(trained.query, repeat=True, label=None) for one in (packed, scored))
        for name in ("latent", "X_umap", "input_pca"):
            np.testing.assert_array_equal(found.obsm[name], expected.obsm[name])
        assert found.obs.equals(expected.obs)
        message = r"label='cell_type': the packed reference does not hold such labels of its cells: obs= left them out\. It has: leiden"
        with pytest.raises(KeyError, match=message):
            packed.transfer_labels(trained.query)
        # The default label may be absent.
        assert "cell_type_label" not in packed.project(trained.query, repeat=True).obs
        content = Path(packed.given).read_bytes() + (packed.folder / "adata.h5ad").read_bytes()
        assert str(trained.exported.obs_names[0]).encode() not in content
        # The picture shows types.
        assert "umap.png" not in read_names(packed.given)
        assert "cell_type" not in (packed.folder / "README.md").read_text()

    def test_columns_that_are_asked_for(self, trained: Any, scored: Reference, pack: Callable[..., Reference]) -> None:
        packed = pack(obs=["cell_type"])
        assert set(packed.cells.obs) == {"domain", "leiden", "cell_type"}
        found, expected = (one.transfer_labels(trained.query)["label"] for one in (packed, scored))
        assert found.equals(expected)
        with pytest.raises(KeyError, match=r"label='batch': the packed reference does not hold such labels"):
            packed.transfer_labels(trained.query, "batch")
        packed.pack(packed.folder.parent / "again.zip", obs=True)
        again = Reference.load(packed.folder.parent / "again.zip")
        assert again.describe()["all_columns"] is False

    def test_a_column_that_does_not_exist(self, pack: Callable[..., Reference]) -> None:
        with pytest.raises(KeyError, match=r"obs=celltype: the cells have no such column\. Columns: .*cell_type"):
            pack(obs=["cell_type", "celltype"])

    def test_a_value_that_is_no_list(self, pack: Callable[..., Reference]) -> None:
        with pytest.raises(ValueError, match="obs=cell_type: True or False or a list of text is needed"):
            pack(obs="cell_type")


def test_a_packed_reference_can_be_packed_again(trained: Any, scored: Reference, packed: Reference, tmp_path: Path) -> None:
    packed.pack(tmp_path / "again.zip", license="CC-BY-4.0")
    again = Reference.load(tmp_path / "again.zip")
    np.testing.assert_array_equal(again.cells.obsm["input_pca"], packed.cells.obsm["input_pca"])
    assert again.raw_var.equals(scored.raw_var)
    assert (again.about.title, again.about.license, again.about.contact) == ("Demo cells", "CC-BY-4.0", "lab@example.org")
    assert again.lineage == packed.lineage == scored.lineage


def test_statistics_of_domains_are_kept(trained_by_domain: Any, tmp_path: Path) -> None:
    reference = Reference.load(trained_by_domain.folder)
    reference.pack(tmp_path / "atlas.zip")
    packed = Reference.load(tmp_path / "atlas.zip")
    assert packed.describe()["statistics"] == "domain"
    np.testing.assert_array_equal(packed.embed(trained_by_domain.query), reference.embed(trained_by_domain.query))


def test_continued_training_from_a_packed_reference_is_refused(packed: Reference) -> None:
    message = (
        r"atlas\.zip holds no expression, since it is a packed reference, .* Give the run folder that was packed, or project new cells"
    )
    with pytest.raises(ValueError, match=message):
        open_expression(packed)


def test_an_atlas_grows_from_a_packed_reference(trained: Any, scored: Reference, packed: Reference, tmp_path: Path) -> None:
    from scalex.cells import AnnDataSource
    from scalex.projection.to_folder import project_to

    source = AnnDataSource(path=trained.query, batch_key="batch")
    for name, one in (("packed", packed), ("run", scored)):
        project_to(tmp_path / name, one, source, append=True)
    grown, expected = Reference.load(tmp_path / "packed"), Reference.load(tmp_path / "run")
    assert_equal(grown.cells, expected.cells)
    assert [one["action"] for one in grown.lineage] == ["trained", "projected"]
    assert json.loads((tmp_path / "packed" / "report.json").read_text())["reference"]["folder"] == packed.given
    # Who made the packed one, and under which license, holds for what grows from it.
    assert grown.about == packed.about
    assert "about" not in ad.read_h5ad(tmp_path / "run" / "adata.h5ad").uns["scalex"]


def test_components_are_rounded_by_a_hundredth_of_their_spread() -> None:
    values = (np.random.default_rng(0).normal(size=(500, 3)) * [1e-6, 1, 1e6]).astype(np.float32)
    numbers, steps = round_to_steps(values)
    assert numbers.dtype == np.int16
    restored = numbers * steps
    assert restored.dtype == np.float32
    assert (np.abs(restored - values).max(0) <= values.std(0) / 128).all()
    # Powers of two are exact, so that packing again changes nothing.
    np.testing.assert_array_equal(np.multiply(*round_to_steps(restored)), restored)


@pytest.mark.parametrize(("factor", "shift"), [(0, 3), (1, 1e4), (np.nan, 0)])
def test_components_without_spread_or_far_from_0_stay_as_they_are(factor: float, shift: float) -> None:
    values = np.random.default_rng(0).normal(size=(500, 3)).astype(np.float32)
    values[:, 1] = values[:, 1] * factor + shift
    assert round_to_steps(values) is None


def test_settings_stay_with_the_maker(trained: Any, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(trained.folder, tmp_path / "run"))
    (folder / "config.yaml").write_text("dataset:\n  path: patients/somebody.h5ad\n")
    Reference.load(folder).pack(tmp_path / "atlas.zip")
    assert "config.yaml" not in read_names(tmp_path / "atlas.zip")
