"""Adapters: fitted once to new cells, frozen, stored, and applied cell by cell."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest
from anndata import AnnData
from numpy.typing import NDArray
from scipy.special import softmax

import scalex
from scalex.cells import AnnDataSource
from scalex.projection.reference import Reference
from scalex.projection.to_folder import project_to, project_to_anndata
from scalex.reference.adapter import Adapter, DomainMap


@pytest.fixture(scope="module")
def reference(trained: Any) -> Reference:
    return Reference.load(trained.folder)


def disturb(adata: AnnData, strength: float) -> AnnData:
    """Return cells as of another technology, in which many genes are counted more often, others less."""
    adata = adata.copy()
    factor = np.exp(np.random.default_rng(0).normal(0, strength, adata.n_vars))
    adata.X = adata.X.multiply(factor).tocsr().astype(np.float32)
    adata.X.data = np.ceil(adata.X.data)
    adata.obs["technology"] = "other"
    adata.obs["condition"] = np.where(np.arange(adata.n_obs) % 2, "control", "treated")
    return adata


@pytest.fixture(scope="module")
def query(trained: Any) -> AnnData:
    enough = trained.query[np.diff(trained.query.X.indptr) >= trained.min_features]
    return disturb(enough.copy(), 1.2)


@pytest.fixture(scope="module")
def adapter(reference: Reference, query: AnnData) -> Adapter:
    return reference.fit_adapter(query, batch_key="technology")


def apply_naively(own: DomainMap, cell: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the formula in the docstring for one cell."""
    z = cell.astype(np.float64)
    weight = softmax([-np.sum(np.square(z - center)) / own.width for center in own.center_KZ])
    parts = [factor * (z @ own.matrix_ZZ) + offset for factor, offset in zip(own.factor_KZ, own.offset_KZ, strict=True)]
    total: NDArray[np.float64] = np.sum([one * part for one, part in zip(weight, parts, strict=True)], axis=0)
    return total


class TestAdapter:
    def test_brings_the_cells_to_the_reference(self, reference: Reference, query: AnnData, adapter: Adapter) -> None:
        numbers = adapter.description["domains"]["other"]
        assert numbers["n_cells"] == query.n_obs
        assert numbers["mixing"]["before"] < 0.6 < numbers["mixing"]["after"]
        assert numbers["agreement"]["after"] > numbers["agreement"]["before"]
        types = reference.cells.obs["cell_type"].astype(str)
        accuracy = {}
        for name, one in (("without", None), ("with", adapter)):
            found = reference.transfer_labels(query, batch_key="technology", adapter=one)["best"].astype(str)
            accuracy[name] = (found.to_numpy() == query.obs["cell_type"].astype(str).to_numpy()).mean()
        assert set(types) >= set(query.obs["cell_type"].astype(str))
        assert accuracy["with"] > accuracy["without"] + 0.02
        assert accuracy["with"] > 0.8

    def test_maps_a_cell_as_its_formula_says(self, reference: Reference, query: AnnData, adapter: Adapter) -> None:
        before, after = (reference.embed(query, batch_key="technology", adapter=one) for one in (None, adapter))
        naive = [apply_naively(adapter.maps["other"], cell) for cell in before[:20]]
        np.testing.assert_allclose(after[:20], naive, rtol=1e-4, atol=1e-5)

    def test_a_latent_depends_on_the_cell_and_the_adapter_alone(
        self, reference: Reference, query: AnnData, adapter: Adapter, tmp_path: Path
    ) -> None:
        """Other orders, subsets, chunks, sources, doors and a stored adapter give the same bits."""
        adapter.save(tmp_path)
        expected = reference.embed(query, batch_key="technology", adapter=adapter)
        order = np.random.default_rng(1).permutation(query.n_obs)
        shuffled = reference.embed(query[order].copy(), batch_key="technology", adapter=tmp_path)
        np.testing.assert_array_equal(shuffled, expected[order])
        few = reference.embed(query[:3].copy(), batch_key="technology", adapter=adapter, chunk_size=1)
        np.testing.assert_array_equal(few, expected[:3])
        query.write_h5ad(tmp_path / "query.h5ad")
        projected = reference.project(tmp_path / "query.h5ad", batch_key="technology", repeat=True, adapter=tmp_path, chunk_size=7)
        np.testing.assert_array_equal(projected.obsm["latent"], expected)
        again = reference.fit_adapter(query, batch_key="technology")
        np.testing.assert_array_equal(reference.embed(query, batch_key="technology", adapter=again), expected)

    def test_the_inputs_move_as_well(self, reference: Reference, query: AnnData, adapter: Adapter) -> None:
        plain, adapted = (reference.project(query, batch_key="technology", repeat=True, adapter=one) for one in (None, adapter))
        shift = adapted.obsm["input_pca"] - plain.obsm["input_pca"]
        np.testing.assert_allclose(shift, np.broadcast_to(adapter.maps["other"].shift_P, shift.shape), atol=1e-4)
        own = reference.cells.obs["cell_type"].astype(str).to_numpy()
        distances = []
        for found in (plain, adapted):
            types = found.obs["cell_type"].astype(str).to_numpy()
            means = [
                (found.obsm["input_pca"][types == one].mean(0), reference.cells.obsm["input_pca"][own == one].mean(0)) for one in set(types)
            ]
            distances.append(np.mean([np.linalg.norm(new - known) for new, known in means]))
        assert distances[1] < 0.8 * distances[0]

    def test_is_fitted_to_some_cells_and_applied_to_all(self, reference: Reference, trained: Any) -> None:
        query = disturb(trained.cells, 0.3)
        query = query[np.diff(query.X.indptr) >= trained.min_features].copy()
        control = query[query.obs["condition"] == "control"].copy()
        some = reference.fit_adapter(query, batch_key="technology", fit_on='condition == "control"')
        alone = reference.fit_adapter(control, batch_key="technology")
        assert some.description["domains"]["other"]["n_cells"] == control.n_obs
        latents = [reference.embed(query, batch_key="technology", adapter=one) for one in (some, alone)]
        np.testing.assert_array_equal(*latents)

    def test_one_map_is_that_of_all_cells_and_several_are_told_by_name(
        self, reference: Reference, query: AnnData, adapter: Adapter
    ) -> None:
        other_name = query.copy()
        other_name.obs["technology"] = "the same"
        np.testing.assert_array_equal(
            reference.embed(other_name, batch_key="technology", adapter=adapter),
            reference.embed(query, batch_key="technology", adapter=adapter),
        )
        two = replace(adapter, maps=dict.fromkeys(("control", "treated"), adapter.maps["other"]))
        with pytest.raises(ValueError, match=r"no map of the domains other\. It has: control, treated\. .*dataset\.batch_key"):
            reference.embed(query, batch_key="technology", adapter=two)

    def test_leaves_the_reference_as_it_is(self, reference: Reference, query: AnnData, adapter: Adapter) -> None:
        projected = reference.project(query, batch_key="technology", adapter=adapter)
        np.testing.assert_array_equal(projected.obsm["latent"][: reference.cells.n_obs], reference.latent)


class TestFolder:
    def test_holds_plain_arrays_and_json(self, adapter: Adapter, tmp_path: Path) -> None:
        adapter.save(tmp_path / "a" / "b")
        assert {path.name for path in (tmp_path / "a" / "b").iterdir()} == {"adapter.json", "adapter.npz"}
        with np.load(tmp_path / "a" / "b" / "adapter.npz", allow_pickle=False) as arrays:
            assert {"matrix_ZZ/0", "center_KZ/0", "factor_KZ/0", "offset_KZ/0", "shift_P/0", "width"} == set(arrays)
        text = json.loads((tmp_path / "a" / "b" / "adapter.json").read_text())
        assert {"format", "version", "reference", "fingerprint", "fit_on", "seed", "domains"} <= text.keys()

    @pytest.mark.parametrize("damage", ["newer", "json", "arrays", "lacks"])
    def test_a_damaged_adapter_is_named(self, adapter: Adapter, tmp_path: Path, damage: str) -> None:
        adapter.save(tmp_path)
        text = json.loads((tmp_path / "adapter.json").read_text())
        if damage == "newer":
            (tmp_path / "adapter.json").write_text(json.dumps(text | {"format": 99}))
        elif damage == "json":
            (tmp_path / "adapter.json").write_text("{")
        elif damage == "arrays":
            (tmp_path / "adapter.npz").write_bytes((tmp_path / "adapter.npz").read_bytes()[:50])
        else:
            (tmp_path / "adapter.json").write_text(json.dumps(text | {"maps": ["other", "more"]}))
        with pytest.raises(ValueError, match="is not a readable adapter"):
            Adapter.load(tmp_path)

    def test_no_adapter_there(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="no adapter is there"):
            Adapter.load(tmp_path)

    def test_an_adapter_of_another_model_is_refused(self, reference: Reference, query: AnnData, adapter: Adapter) -> None:
        other = replace(adapter, description={**adapter.description, "fingerprint": "0"})
        with pytest.raises(ValueError, match="of another model"):
            reference.embed(query, adapter=other)

    def test_an_adapter_of_other_statistics_is_refused(self, reference: Reference, query: AnnData, adapter: Adapter) -> None:
        with pytest.raises(ValueError, match="statistics 'running', and these cells are embedded with 'domain'"):
            reference.embed(query, adapter=adapter, statistics="domain")


class TestFit:
    def test_few_cells_are_refused(self, reference: Reference, query: AnnData) -> None:
        with pytest.raises(ValueError, match=r"Domain other has 99 cells .* at least 100"):
            reference.fit_adapter(query[:99].copy(), batch_key="technology")

    def test_cells_that_the_training_would_have_dropped_take_no_part(self, reference: Reference, query: AnnData) -> None:
        poor = query[:40].copy()
        poor.X = poor.X.multiply(np.arange(poor.n_vars) < 5).tocsr()
        both = ad.concat([query, poor], index_unique="-", merge="same")
        assert reference.fit_adapter(both, batch_key="technology").description["domains"]["other"]["n_cells"] == query.n_obs

    @pytest.mark.parametrize("condition", ["condtion == 'control'", "n == ", "condition", "__import__('os')"])
    def test_what_is_no_condition_is_named(self, reference: Reference, query: AnnData, condition: str) -> None:
        with pytest.raises(ValueError, match=r"fit_on=.*Give a condition on columns of obs.*Columns: .*condition"):
            reference.fit_adapter(query, batch_key="technology", fit_on=condition)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"adapt": True, "adapter": "folder"}, "use only one of them"),
            ({"fit_on": "a == 1"}, "add adapt=true"),
        ],
    )
    def test_options_that_do_not_go_together(
        self, reference: Reference, query: AnnData, tmp_path: Path, options: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            project_to(tmp_path, reference, AnnDataSource(path=query), **options)
        with pytest.raises(ValueError, match=message):
            scalex.SCALEX(query, projection=reference.folder, show=False, **options)

    def test_an_adapter_needs_a_reference(self, query: AnnData) -> None:
        with pytest.raises(ValueError, match="give its folder"):
            scalex.SCALEX(query, adapt=True)

    def test_a_domain_whose_types_would_change_places_is_refused(
        self, reference: Reference, query: AnnData, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("scalex.projection.adaptation.MAX_FALL", -2.0)
        monkeypatch.setattr("scalex.projection.adaptation.MIXING_APART", 1.1)
        with pytest.raises(ValueError, match=r"Domain other: its cells would lie among cells of other types .*scalex train reference="):
            reference.fit_adapter(query, batch_key="technology")

    def test_a_domain_that_is_mixed_stays_where_an_alignment_would_harm(
        self, reference: Reference, trained: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("scalex.projection.adaptation.MAX_FALL", -2.0)
        own = trained.cells[np.diff(trained.cells.X.indptr) >= trained.min_features].copy()
        adapter = reference.fit_adapter(own)
        latents = [reference.embed(own, adapter=one) for one in (None, adapter)]
        np.testing.assert_array_equal(*latents)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, reference: Reference, query: AnnData) -> Path:
    folder = tmp_path_factory.mktemp("adapted")
    project_to(folder, reference, AnnDataSource(path=query, batch_key="technology"), append=True, adapt=True)
    return folder


class TestDoors:
    def test_the_folder_of_a_projection_holds_its_adapter(
        self, reference: Reference, folder: Path, query: AnnData, adapter: Adapter
    ) -> None:
        written = ad.read_h5ad(folder / "adata.h5ad")
        expected = reference.embed(query, batch_key="technology", adapter=adapter)
        np.testing.assert_array_equal(written.obsm["latent"][reference.cells.n_obs :], expected)
        np.testing.assert_array_equal(reference.embed(query, batch_key="technology", adapter=folder / "adapter"), expected)
        assert json.loads((folder / "report.json").read_text())["adapter"]["domains"]["other"]["n_cells"] == query.n_obs
        assert written.uns["scalex"]["projection"]["adapter"]["fingerprint"] == adapter.description["fingerprint"]

    def test_a_reference_grows_by_adapted_cells(self, folder: Path, query: AnnData, tmp_path: Path) -> None:
        shutil.copytree(folder, tmp_path / "grown")
        grown = Reference.load(tmp_path / "grown")
        assert grown.lineage[-1]["action"] == "projected with an adapter"
        # The new version has the same model, so that the adapter still belongs to it.
        latent = grown.embed(query, batch_key="technology", adapter=tmp_path / "grown" / "adapter")
        np.testing.assert_array_equal(latent, grown.latent[-query.n_obs :])

    def test_the_function_for_notebooks(self, reference: Reference, query: AnnData, folder: Path) -> None:
        options = {"projection": reference.folder, "batch_name": "technology", "repeat": True, "show": False, "eval": True}
        found = scalex.SCALEX(query, adapt=True, **options)
        np.testing.assert_array_equal(found.obsm["latent"], ad.read_h5ad(folder / "adata.h5ad").obsm["latent"][-query.n_obs :])
        np.testing.assert_array_equal(scalex.SCALEX(query, adapter=folder / "adapter", **options).obsm["latent"], found.obsm["latent"])

    def test_a_domain_that_lies_apart_is_told(
        self, reference: Reference, query: AnnData, trained: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.WARNING, "scalex"):
            report = project_to(tmp_path, reference, AnnDataSource(path=query, batch_key="technology"))
        assert report.list_apart() == ["other"]
        assert "Hardly mixed with the reference (adapt=true fits an adapter): other" in report.lines()
        assert "Hardly mixed with the reference: other." in caplog.text
        assert "adapt=true" in caplog.text
        caplog.clear()
        with caplog.at_level(logging.WARNING, "scalex"):
            project_to(tmp_path, reference, AnnDataSource(path=query, batch_key="technology"), adapt=True)
        assert "Hardly mixed" not in caplog.text

    def test_cells_near_a_small_reference_do_not_lie_apart(self, reference: Reference, query: AnnData) -> None:
        _, report = project_to_anndata(None, reference, AnnDataSource(path=query, batch_key="technology"))
        numbers = report.numbers["domains"]["other"]
        assert report.list_apart() == ["other"]
        numbers["median_distance"] = 0.9
        assert report.list_apart() == []
        numbers |= {"median_distance": 1.2, "mixing": 0.4}
        assert report.list_apart() == []

    def test_the_report_tells_of_the_adapter(self, folder: Path, tmp_path: Path, reference: Reference, query: AnnData) -> None:
        numbers = json.loads((folder / "report.json").read_text())["adapter"]["domains"]["other"]["mixing"]
        report = project_to(tmp_path, reference, AnnDataSource(path=query, batch_key="technology"), adapter=folder / "adapter")
        line = f"mixing with the reference {numbers['after']:.2f}, without it {numbers['before']:.2f}"
        assert any(one.startswith("Adapter of other: fitted to") and one.endswith(line) for one in report.lines())
