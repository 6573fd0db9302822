"""Tests of the scripts for other interpreters, with stand-ins for their packages, and of the methods that run in this one."""

from __future__ import annotations

import ast
import json
import runpy
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData

import scalex.data
from benchmarks.peer_speed import measure_loop, write_cells
from benchmarks.quality.peers import Embedding, embed_by_harmony, embed_by_pca, list_peers
from benchmarks.quality.sets import ONE_DOMAIN, SETS, cut_at_random, make_cells, restrict_types, sample
from benchmarks.synthetic import make_data

SCRIPTS = Path(__file__).parents[2] / "benchmarks" / "peers"


def list_imports(script: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(script.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name.split(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(str(node.module).split(".")[0])
    return found


@pytest.mark.parametrize("script", sorted(SCRIPTS.glob("*.py")), ids=lambda script: script.stem)
def test_scripts_import_nothing_of_this_project(script: Path) -> None:
    assert "benchmarks" not in list_imports(script)
    # The published package is also called scalex.
    assert ("scalex" in list_imports(script)) == script.stem.startswith("published")


@pytest.fixture
def cells(demo: AnnData, tmp_path: Path) -> Path:
    demo = demo[:, :100].copy()
    demo.obs["batch"] = demo.obs["batch"].astype(str)
    path = tmp_path / "cells.h5ad"
    demo.write_h5ad(path)
    return path


def run_script(name: str, *arguments: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    # The scripts set these before they load libraries.
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS", "TQDM_DISABLE"):
        monkeypatch.setenv(variable, "1")
    monkeypatch.setattr("logging.disable", lambda level: None)
    runpy.run_path(str(SCRIPTS / name), run_name="__main__")


class Scvi:
    """Stand-in for `scvi.model.SCVI` and `SCANVI`, as far as the scripts use them."""

    trainings: list[dict[str, Any]] = []  # noqa: RUF012

    def __init__(self, adata: AnnData, **settings: Any) -> None:
        self.adata = adata

    @staticmethod
    def setup_anndata(adata: AnnData, batch_key: str, layer: str | None = None) -> None:
        assert batch_key in adata.obs
        assert layer is None or layer in adata.layers

    @staticmethod
    def prepare_query_anndata(adata: AnnData, model: Scvi) -> None:
        assert adata.n_vars == model.adata.n_vars

    @classmethod
    def load_query_data(cls, adata: AnnData, model: Scvi) -> Scvi:
        return cls(adata)

    @classmethod
    def from_scvi_model(cls, model: Scvi, *, unlabeled_category: str, labels_key: str) -> Scvi:
        assert unlabeled_category in set(model.adata.obs[labels_key])
        return cls(model.adata)

    def train(self, **settings: Any) -> None:
        self.trainings.append(settings)
        for callback in settings.get("callbacks", ()):
            for _ in range(settings["max_epochs"]):
                callback.on_train_epoch_end(None, None)

    def get_latent_representation(self, adata: AnnData | None = None) -> np.ndarray:
        return np.zeros(((self.adata if adata is None else adata).n_obs, 30), np.float32)


@pytest.fixture
def fake_scvi(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = ModuleType("scvi")
    module.settings, module.model = SimpleNamespace(seed=None), SimpleNamespace(SCVI=Scvi, SCANVI=Scvi)
    monkeypatch.setitem(sys.modules, "scvi", module)
    monkeypatch.setattr(Scvi, "trainings", [])


@pytest.mark.usefixtures("fake_scvi")
@pytest.mark.parametrize("options", [(), ("labels",)])
def test_scvi_script_writes_latents(options: tuple[str, ...], cells: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adata = ad.read_h5ad(cells)
    adata.obs["label"] = "unknown"
    adata.write_h5ad(cells)
    run_script("scvi.py", cells, tmp_path / "latents.npz", 3, *options, monkeypatch=monkeypatch)
    with np.load(tmp_path / "latents.npz") as found:
        assert found["names"].tolist() == adata.obs_names.tolist()
        assert found["latent"].shape == (300, 30)
        assert np.isfinite(found["seconds"])
    assert len(Scvi.trainings) == 1 + len(options)
    assert sys.modules["scvi"].settings.seed == 3


@pytest.mark.usefixtures("fake_scvi")
def test_scvi_query_script_writes_latents_of_both_sides(cells: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ad.read_h5ad(cells)[:50].copy().write_h5ad(tmp_path / "query.h5ad")
    run_script("scvi_query.py", cells, tmp_path / "query.h5ad", tmp_path / "latents.npz", 0, monkeypatch=monkeypatch)
    with np.load(tmp_path / "latents.npz") as found:
        assert [len(found[side]) for side in ("reference", "query")] == [300, 50]


@pytest.mark.parametrize("options", [(), ("processed",), ("short",)])
def test_published_script_writes_latents(options: tuple[str, ...], cells: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings_used = {}

    def integrate(paths: list[str], **settings: Any) -> AnnData:
        settings_used.update(settings)
        adata = ad.read_h5ad(paths[0])
        adata.obsm["latent"] = np.zeros((adata.n_obs, 10), np.float32)
        return adata

    monkeypatch.setattr("scalex.SCALEX", integrate)
    run_script("published.py", cells, tmp_path / "latents.npz", 124, 100, *options, monkeypatch=monkeypatch)
    with np.load(tmp_path / "latents.npz") as found:
        assert set(found.files) == {"names", "latent", "seconds"}
    assert (settings_used["min_features"], settings_used["seed"], settings_used["processed"]) == (100, 124, "processed" in options)
    assert settings_used["max_iteration"] == (300 if "short" in options else 30_000)


class PublishedVae:
    """Stand-in for the network of the published package, as far as the scripts use it."""

    def __init__(self, encoder: list[Any], decoder: list[Any], n_domain: int) -> None:
        assert n_domain == decoder[0][2] == 3

    def fit(self, loader: Any, *, max_iteration: int, **settings: Any) -> None:
        for _ in range(-(-max_iteration // len(loader))):
            assert sum(1 for _ in loader) == len(loader)

    def encodeBatch(self, loader: Any, **settings: Any) -> None:  # noqa: N802
        assert all(len(minibatch) <= 64 for minibatch in loader)


@pytest.fixture
def fake_published(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("scalex.net", "scalex.net.vae", "scalex.net.utils"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setattr(sys.modules["scalex.net.vae"], "VAE", PublishedVae, raising=False)
    monkeypatch.setattr(sys.modules["scalex.net.utils"], "EarlyStopping", lambda **settings: None, raising=False)
    monkeypatch.setattr(scalex.data, "SingleCellDataset", lambda adata: torch.from_numpy(adata.X.toarray()), raising=False)


@pytest.mark.usefixtures("fake_published")
@pytest.mark.parametrize(("name", "arguments"), [("published_loop.py", (10, 5, 64, "cpu")), ("published_embed.py", ())])
def test_published_scripts_print_their_speed(
    name: str, arguments: tuple[object, ...], cells: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_script(name, cells, *arguments, monkeypatch=monkeypatch)
    assert json.loads(capsys.readouterr().out)["cells_per_second"] > 0


@pytest.mark.usefixtures("fake_scvi")
def test_scvi_loop_prints_its_speed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    write_cells(make_data(100, n_domains=2, batch_size=64, n_features=50), tmp_path / "cells.h5ad")
    monkeypatch.setattr("importlib.metadata.version", lambda name: "1.4")
    run_script("scvi_loop.py", tmp_path / "cells.h5ad", 2, 64, "cpu", monkeypatch=monkeypatch)
    assert json.loads(capsys.readouterr().out)["cells_per_second"] > 0
    (settings,) = Scvi.trainings
    # The first epoch does not count.
    assert (settings["max_epochs"], settings["batch_size"], settings["accelerator"]) == (3, 64, "cpu")


def test_a_failed_interpreter_is_an_error(tmp_path: Path) -> None:
    interpreter = tmp_path / "python"
    interpreter.write_text("#!/bin/sh\necho no scalex.net >&2\nexit 3\n")
    interpreter.chmod(0o755)
    data = make_data(100, n_domains=2, batch_size=64, n_features=50)
    write_cells(data, tmp_path / "cells.h5ad")
    with pytest.raises(SystemExit, match=r"--published .*published_loop.py stopped with exit code 3:\nno scalex.net"):
        measure_loop("--published", str(interpreter), "published_loop.py", tmp_path / "cells.h5ad", 1)()


def test_scripts_get_inputs_and_counts(tmp_path: Path) -> None:
    data = make_data(100, n_domains=2, batch_size=64, n_features=50)
    write_cells(data, tmp_path / "cells.h5ad")
    written = ad.read_h5ad(tmp_path / "cells.h5ad")
    np.testing.assert_array_equal(written.X.toarray(), data.inputs().toarray())
    counts = pd.DataFrame(data.cells.read(data.rows).toarray(), columns=data.cells.var.index)
    np.testing.assert_array_equal(written.layers["counts"].toarray(), counts[list(data.preprocessor.features)])
    assert written.obs["batch"].astype(str).tolist() == [data.domains[code] for code in data.domain]


def test_harmony_accepts_both_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    cells = make_cells("made", SETS["pbmc_protein_asap_cite"])
    components = embed_by_pca(cells)
    module: Any = ModuleType("harmonypy")
    monkeypatch.setitem(sys.modules, "harmonypy", module)
    for transposed in (False, True):
        module.run_harmony = lambda z, obs, key, transposed=transposed, **settings: SimpleNamespace(Z_corr=z.T if transposed else z)
        np.testing.assert_allclose(embed_by_harmony(cells).latent, components.latent, rtol=1e-6)
    one = make_cells("made", ONE_DOMAIN["pancreas_indrop4"])
    del module.run_harmony
    assert embed_by_harmony(one).latent.shape == (one.adata.n_obs, 30)


def test_peers_without_their_interpreter_have_no_embedding() -> None:
    cells = make_cells("made", SETS["mop_atac"])
    found = {peer.name: peer for peer in list_peers(None, None)}
    assert list(found) == ["PCA", "Harmony", "scVI", "published package"]
    assert found["scVI"].run(cells, 0) is None
    assert found["published package"].run(cells, 124) is None


def test_embeddings_are_selected_by_name(tmp_path: Path) -> None:
    embedding = Embedding(np.array(["a", "b"]), np.array([[1.0], [2.0]], np.float32), 3.0)
    embedding.save(tmp_path / "folder" / "kept.npz")
    loaded = Embedding.load(tmp_path / "folder" / "kept.npz")
    assert loaded.select(np.array(["b", "a"])).tolist() == [[2.0], [1.0]]
    assert loaded.training_seconds == 3.0
    assert np.isnan(loaded.whole_seconds)


def test_random_domains_are_even_and_a_type_can_be_kept_in_one_domain() -> None:
    cells = make_cells("made", SETS["pancreas_celseq_indrop"])
    cut = cut_at_random(cells, 0)
    assert abs(np.diff(cut.adata.obs["batch"].value_counts())) <= 1
    assert (cut.adata.obs["cell_type"] == cells.adata.obs["cell_type"]).all()
    alone = restrict_types(cells, {"alpha": "inDrop4"}).adata.obs
    assert set(alone.loc[alone["cell_type"] == "alpha", "batch"]) == {"inDrop4"}
    assert (alone["cell_type"] != "alpha").sum() == (cells.adata.obs["cell_type"] != "alpha").sum()


def test_a_sample_keeps_the_shares_of_types_in_domains() -> None:
    obs = pd.DataFrame({"batch": ["a"] * 600 + ["b"] * 400, "cell_type": (["x"] * 3 + ["y"]) * 250})
    obs.loc[0, "cell_type"] = "rare"
    rows = sample(obs, 100, seed=0)
    assert (np.diff(rows) > 0).all()
    shares = obs.iloc[rows].groupby(["batch", "cell_type"]).size()
    assert shares.to_dict() == {("a", "rare"): 1, ("a", "x"): 45, ("a", "y"): 15, ("b", "x"): 30, ("b", "y"): 10}
    assert len(sample(obs, 1000, seed=0)) == 1000
