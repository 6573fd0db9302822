"""Opening the folder of a finished run, and refusing other folders."""

from __future__ import annotations

import copy
import hashlib
import os
import pickle
import shutil
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData

import scalex
from scalex.projection.reference import Reference
from scalex.reference.lineage import write_lineage


@pytest.fixture
def folder(trained: Any, tmp_path: Path) -> Path:
    """Return a copy of a finished run that a test may change."""
    return Path(shutil.copytree(trained.folder, tmp_path / "copy"))


@pytest.fixture(scope="module")
def reference(trained: Any) -> Reference:
    return Reference.load(trained.folder)


def change_checkpoint(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = folder / "checkpoint" / "best.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    change(checkpoint)
    torch.save(checkpoint, path)


def hash_files(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()}


def test_a_reference_holds_the_cells_of_the_run_without_expression(trained: Any, reference: Reference) -> None:
    exported = trained.exported
    np.testing.assert_array_equal(reference.latent, exported.obsm["latent"])
    assert reference.cells.X is None
    assert reference.cells.raw is None
    assert not reference.cells.layers
    assert list(reference.cells.obs_names) == list(exported.obs_names)
    assert list(reference.cells.var_names) == list(exported.var_names)
    assert list(reference.raw_var.index) == list(exported.raw.var_names)
    np.testing.assert_array_equal(reference.cells.obsm["X_umap"], exported.obsm["X_umap"])
    assert list(reference.cells.obs["leiden"]) == list(exported.obs["leiden"])
    assert list(reference.trained_on.preprocessor.features) == list(exported.var_names)
    assert scalex.Reference is Reference


def test_describe_returns_what_the_model_was_trained_on(trained: Any, reference: Reference) -> None:
    exported = trained.exported
    described = reference.describe()
    assert described["folder"] == str(trained.folder)
    assert described["n_cells"] == described["n_training_cells"] == exported.n_obs < trained.cells.n_obs
    assert (described["n_features"], described["n_latent"]) == (200, 10)
    assert described["domains"] == exported.obs["batch"].value_counts().to_dict()
    assert {"batch", "cell_type", "leiden"} <= set(described["labels"])
    assert not {"domain", "path", "projection"} & set(described["labels"])
    assert (described["values"], described["statistics"]) == ("counts", "running")
    assert described["all_columns"] is True
    lineage = described["lineage"]
    assert [(version["folder"], version["action"], version["n_cells"]) for version in lineage] == [("run", "trained", exported.n_obs)]
    for name, value in described.items():
        assert f"{name}: {value}" in repr(reference)


def test_a_moved_folder_needs_only_two_files(trained: Any, reference: Reference, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "sent.zip", "w") as archive:
        for name in ("adata.h5ad", "checkpoint/best.ckpt"):
            archive.write(trained.folder / name, name)
    with zipfile.ZipFile(tmp_path / "sent.zip") as archive:
        archive.extractall(tmp_path / "elsewhere" / "received")
    received = Reference.load(str(tmp_path / "elsewhere" / "received"))
    np.testing.assert_array_equal(received.embed(trained.query), reference.embed(trained.query))
    assert received.describe()["folder"] == str(tmp_path / "elsewhere" / "received")


def test_a_reference_does_not_change_its_folder(trained: Any, folder: Path) -> None:
    before = hash_files(folder)
    used = Reference.load(folder)
    used.project(trained.query)
    used.impute(trained.query, "domain0")
    used.transfer_labels(trained.query)
    assert hash_files(folder) == before


def test_expression_is_never_read(trained: Any, reference: Reference, folder: Path) -> None:
    with h5py.File(folder / "adata.h5ad", "r+") as file:
        del file["X"], file["raw/X"]
        if "layers" in file:
            del file["layers"]
    without = Reference.load(folder)
    for repeat in (False, True):
        expected, found = (r.project(trained.query, repeat=repeat, impute="domain0") for r in (reference, without))
        for name in ("latent", "X_umap"):
            np.testing.assert_array_equal(found.obsm[name], expected.obsm[name])
        np.testing.assert_array_equal(found.layers["impute"], expected.layers["impute"])
        assert found.obs.equals(expected.obs)
    assert (found.X != expected.X).nnz == 0
    assert (found.raw.X != expected.raw.X).nnz == 0


def test_embedding_reads_no_cells_of_the_reference(trained: Any, reference: Reference, folder: Path) -> None:
    with h5py.File(folder / "adata.h5ad", "r+") as file:
        for name in ("obs", "var", "uns", "obsp", "raw/var"):
            del file[name]
    damaged = Reference.load(folder)
    np.testing.assert_array_equal(damaged.embed(trained.query), reference.embed(trained.query))
    with pytest.raises(ValueError, match=r"adata\.h5ad is not a readable AnnData file \(.*obs"):
        damaged.project(trained.query)


def test_a_folder_without_raw_projects_the_same(trained: Any, reference: Reference, folder: Path) -> None:
    with h5py.File(folder / "adata.h5ad", "r+") as file:
        del file["X"], file["raw"]
    without = Reference.load(folder)
    np.testing.assert_array_equal(without.project(trained.query).obsm["latent"], reference.project(trained.query).obsm["latent"])
    found, expected = (r.project(trained.query, repeat=True) for r in (without, reference))
    assert (found.X != expected.X).nnz == 0
    assert list(found.raw.var_names) == list(expected.raw.var_names)
    assert (found.raw.X != expected.raw.X).nnz == 0


def test_the_error_for_unknown_labels_lists_the_available_ones(trained: Any, reference: Reference) -> None:
    with pytest.raises(KeyError, match=r"label='celltype': the reference has no such labels\. It has: .*cell_type.*leiden"):
        reference.transfer_labels(trained.query, "celltype")
    with pytest.raises(KeyError, match="label='celltype'"):
        reference.label_transfer("celltype")


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("depth", r"label='depth': this column of the reference is not categorical\. Only labels are transferred\. It has: .*cell_type"),
        ("domain", r"label='domain': this column of the reference tells where cells are from\."),
        ("nothing", r"label='nothing': no cell of the reference has a label in this column\."),
    ],
)
def test_a_column_without_labels_is_refused(trained: Any, folder: Path, label: str, message: str) -> None:
    adata = ad.read_h5ad(folder / "adata.h5ad")
    adata.obs["depth"] = np.arange(adata.n_obs)
    adata.obs["nothing"] = pd.Categorical([None] * adata.n_obs, categories=["a"])
    adata.write_h5ad(folder / "adata.h5ad")
    changed = Reference.load(folder)
    for use in (changed.transfer_labels, lambda query, label: changed.project(query, label=label)):
        with pytest.raises(ValueError, match=message):
            use(trained.query, label)


def test_transferred_labels_have_one_row_per_cell(trained: Any, reference: Reference) -> None:
    found = reference.transfer_labels(trained.query)
    assert list(found.index) == list(trained.query.obs_names)
    assert {"label", "probability"} <= set(found)
    assert found["probability"].between(0, 1).all()
    known = set(trained.cells.obs["cell_type"]) | {"unknown"}
    assert set(found["label"].astype(str)) <= known


class TestRefusedFolder:
    def test_no_folder(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"reference=.*absent: no such folder\. Give the folder of a finished training"):
            Reference.load(tmp_path / "absent")

    def test_an_empty_folder(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"is not a reference: it lacks checkpoint/best\.ckpt and adata\.h5ad\. Give the"):
            Reference.load(tmp_path)

    @pytest.mark.parametrize("missing", ["checkpoint/best.ckpt", "adata.h5ad"])
    def test_a_folder_without_one_of_the_two_files(self, folder: Path, missing: str) -> None:
        (folder / missing).unlink()
        with pytest.raises(FileNotFoundError, match=f"is not a reference: it lacks {missing}. Give the folder of a finished training"):
            Reference.load(folder)

    def test_a_newer_format(self, folder: Path) -> None:
        change_checkpoint(folder, lambda checkpoint: checkpoint["trained_on"].update(format=99, version="9.1"))
        with pytest.raises(ValueError, match=r"saved in format 99 by scalex 9\.1; this version reads format 2\. Install"):
            Reference.load(folder)

    def test_a_newer_format_with_unknown_settings(self, folder: Path) -> None:
        def newer(checkpoint: dict[str, Any]) -> None:
            checkpoint["trained_on"] = {"format": 3, "version": "9.1", "all": "new"}
            checkpoint["hyper_parameters"]["of_the_future"] = 1

        change_checkpoint(folder, newer)
        with pytest.raises(ValueError, match=r"saved in format 3 by scalex 9\.1"):
            Reference.load(folder)

    @pytest.mark.parametrize("weight", ["net.hidden.weight", "net.output_norm.running_mean", "net.heads.bias"])
    def test_weights_of_another_size(self, folder: Path, weight: str) -> None:
        def cut(checkpoint: dict[str, Any]) -> None:
            checkpoint["state_dict"][weight] = checkpoint["state_dict"][weight][:-1]

        change_checkpoint(folder, cut)
        with pytest.raises(ValueError, match=rf"(?s)The weights in .*best\.ckpt do not fit the model that it describes: .*{weight}"):
            Reference.load(folder)

    def test_a_missing_weight(self, folder: Path) -> None:
        change_checkpoint(folder, lambda checkpoint: checkpoint["state_dict"].pop("net.heads.weight"))
        with pytest.raises(ValueError, match=r"(?s)do not fit the model that it describes: .*net\.heads\.weight"):
            Reference.load(folder)

    def test_cells_of_another_model(self, folder: Path) -> None:
        adata = ad.read_h5ad(folder / "adata.h5ad")
        adata.obsm["latent"] = adata.obsm["latent"][:, :7]
        adata.write_h5ad(folder / "adata.h5ad")
        with pytest.raises(ValueError, match=r"does not belong to .*best\.ckpt, whose model needs obsm\['latent'\] of 10 dimensions"):
            Reference.load(folder)

    def test_cells_without_latents(self, folder: Path, demo: AnnData) -> None:
        demo.write_h5ad(folder / "adata.h5ad")
        with pytest.raises(ValueError, match=r"does not belong to .*best\.ckpt, whose model needs obsm"):
            Reference.load(folder)

    @pytest.mark.parametrize("content", [b"", b"a text", b"\x89HDF\r\n\x1a\n and then nothing"])
    def test_a_file_of_cells_that_is_no_anndata(self, folder: Path, content: bytes) -> None:
        (folder / "adata.h5ad").write_bytes(content)
        with pytest.raises(ValueError, match=r"adata\.h5ad is not a readable AnnData file"):
            Reference.load(folder)

    @pytest.mark.parametrize("content", [b"", b"a text", b"another text", b"PK\x03\x04 and then nothing"])
    def test_a_file_of_the_model_that_is_no_checkpoint(self, folder: Path, content: bytes) -> None:
        (folder / "checkpoint" / "best.ckpt").write_bytes(content)
        with pytest.raises(ValueError, match=r"best\.ckpt is not a checkpoint of scalex"):
            Reference.load(folder)

    def test_a_checkpoint_of_something_else(self, folder: Path) -> None:
        torch.save({"state_dict": {}, "epoch": 3}, folder / "checkpoint" / "best.ckpt")
        with pytest.raises(ValueError, match=r"best\.ckpt is not a checkpoint of scalex \(KeyError"):
            Reference.load(folder)

    def test_a_checkpoint_with_damaged_preprocessing_or_weights(self, folder: Path) -> None:
        path = folder / "checkpoint" / "best.ckpt"
        sound = torch.load(path, weights_only=True)
        changed = copy.deepcopy(sound)
        changed["trained_on"]["preprocessor"]["mean"].fill_(torch.nan)
        torch.save(changed, path)
        with pytest.raises(ValueError, match=r"best\.ckpt: The preprocessing is damaged: the means are not those"):
            Reference.load(folder)
        next(iter(sound["state_dict"].values())).fill_(torch.nan)
        torch.save(sound, path)
        with pytest.raises(ValueError, match=r"best\.ckpt: the weights .* are not finite"):
            Reference.load(folder)

    @pytest.mark.parametrize("content", ["[1, 2]", '"text"', "{}", "[" * 100_000, "[]"], ids=range(5))
    @pytest.mark.parametrize("name", ["growth.json", "lineage.json"])
    def test_json_that_is_not_what_it_should_be(self, folder: Path, name: str, content: str) -> None:
        (folder / name).write_text(content)
        with pytest.raises(ValueError, match=rf"{name} is broken \(.*\): copy the folder again"):
            Reference.load(folder)

    def test_cells_that_are_in_another_file(self, folder: Path, tmp_path: Path) -> None:
        with h5py.File(tmp_path / "secret.h5", "w") as file:
            file["secret"] = b"hush"
        with h5py.File(folder / "adata.h5ad", "a") as file:
            file["uns/leak"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "secret")
        with pytest.raises(ValueError, match=r"adata\.h5ad is not a readable .* uns/leak takes its data from another file, .*secret\.h5"):
            Reference.load(folder)


class Hostile:
    """An object whose unpickling creates a directory."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.path),)


class TestHostileFolder:
    def test_unpickling_would_run_the_code(self, tmp_path: Path) -> None:
        """Without this, the tests below could not fail."""
        torch.save({"state_dict": Hostile(tmp_path / "run")}, tmp_path / "file")
        torch.load(tmp_path / "file", weights_only=False)
        assert (tmp_path / "run").is_dir()

    @pytest.mark.parametrize("where", ["state_dict", "trained_on", "hyper_parameters", "beside"])
    def test_a_checkpoint_with_code_is_refused_without_running_it(self, folder: Path, tmp_path: Path, where: str) -> None:
        changed = OrderedDict(torch.load(folder / "checkpoint" / "best.ckpt", weights_only=True))
        changed[where] = Hostile(tmp_path / "run")
        torch.save(changed, folder / "checkpoint" / "best.ckpt")
        with pytest.raises(
            ValueError,
            match=r"best\.ckpt is not a checkpoint of scalex \(UnpicklingError\)\. It may be truncated or damaged: copy it again",
        ):
            Reference.load(folder)
        assert not (tmp_path / "run").exists()

    @pytest.mark.filterwarnings("ignore:Detected pickle protocol")
    def test_a_bare_pickle_is_refused_without_running_it(self, folder: Path, tmp_path: Path) -> None:
        (folder / "checkpoint" / "best.ckpt").write_bytes(pickle.dumps(Hostile(tmp_path / "run")))
        with pytest.raises(ValueError, match=r"best\.ckpt is not a checkpoint of scalex"):
            Reference.load(folder)
        assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize(
        "name", ["lineage.json", "config.yaml", "adata.h5ad", "metrics.json", ".composed.yaml", "checkpoint/last.ckpt"]
    )
    def test_other_files_are_not_unpickled(self, folder: Path, tmp_path: Path, name: str) -> None:
        (folder / name).write_bytes(pickle.dumps(Hostile(tmp_path / "run")))
        if name in ("lineage.json", "adata.h5ad"):
            with pytest.raises(ValueError, match=name):
                Reference.load(folder)
        else:
            Reference.load(folder)
        assert not (tmp_path / "run").exists()


def test_the_lineage_lists_all_versions(reference: Reference, folder: Path) -> None:
    write_lineage(folder, reference.lineage, "projected", 512)
    lineage = Reference.load(folder).lineage
    assert [(version["folder"], version["action"], version["n_cells"]) for version in lineage] == [
        ("run", "trained", reference.cells.n_obs),
        ("copy", "projected", 512),
    ]
    assert {version["version"] for version in lineage} == {reference.trained_on.version}
