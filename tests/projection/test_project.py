"""Projection of new cells: the guarantees that a user relies on."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from lightning import Trainer
from numpy.typing import NDArray
from scipy import sparse
from tables import assert_same_table

import scalex
from scalex.callbacks import Checkpoint, LatentExport
from scalex.cells import AnnDataSource
from scalex.demo import demo_cells
from scalex.metrics import neighbor_entropy
from scalex.preprocess import AdtRecipe, AsIsRecipe, AtacRecipe, Recipe, RnaRecipe
from scalex.projection.project import embed, project
from scalex.projection.reference import Reference
from scalex.projection.report import Report
from scalex.projection.to_folder import project_to


@pytest.fixture(scope="module")
def reference(trained: Any) -> Reference:
    return Reference.load(trained.folder)


@pytest.fixture(scope="module")
def by_domain(trained_by_domain: Any) -> Reference:
    return Reference.load(trained_by_domain.folder)


@pytest.fixture
def query(trained: Any) -> AnnData:
    copy: AnnData = trained.query.copy()
    return copy


@pytest.fixture
def cells(trained: Any) -> AnnData:
    """Return the cells of the training, including those that its filter dropped."""
    copy: AnnData = trained.cells.copy()
    return copy


def train_reference(folder: Path, adata: AnnData, recipe: Recipe, **options: Any) -> Reference:
    trainer = Trainer(
        accelerator="cpu", max_steps=30, callbacks=[Checkpoint(folder), LatentExport(folder)], logger=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    scalex.fit(AnnDataSource(path=adata, batch_key="batch"), recipe, scalex.ScalexModule(n_hidden=8, lr=0.01, **options), trainer)
    return Reference.load(folder)


@pytest.fixture(scope="module")
def scaled_by_domain(tmp_path_factory: pytest.TempPathFactory, trained: Any) -> Reference:
    recipe = RnaRecipe(min_features=0, n_top_features=90, scaling="domain")
    return train_reference(tmp_path_factory.mktemp("by domain"), trained.cells, recipe)


@pytest.fixture(scope="module")
def trained_on_counts(tmp_path_factory: pytest.TempPathFactory, trained: Any) -> Reference:
    recipe = RnaRecipe(min_features=0, n_top_features=90)
    plan = {"likelihood": "negative_binomial", "start_from_means": True}
    return train_reference(tmp_path_factory.mktemp("counts"), trained.cells, recipe, **plan)


@pytest.fixture(scope="module")
def trained_on_processed(tmp_path_factory: pytest.TempPathFactory, trained: Any) -> Reference:
    return train_reference(tmp_path_factory.mktemp("processed"), process(trained.cells), AsIsRecipe())


def process(adata: AnnData) -> AnnData:
    adata = adata.copy()
    adata.X = sparse.csr_matrix(adata.X.multiply(1e4 / adata.X.sum(1))).log1p().astype(np.float32)
    return adata


def project_in_memory(reference: Reference, adata: Any, *, backed: bool = False, **options: Any) -> tuple[AnnData, Report]:
    """Project to a file in memory, which takes a third of the time of a folder with figures."""
    with h5py.File("projection", "w", driver="core", backing_store=False) as file:
        report = project(reference, AnnDataSource(path=adata, backed=backed), file, **options)
        return ad.io.read_elem(file), report


def project_and_read(folder: Path, reference: Reference, adata: AnnData, **options: Any) -> tuple[AnnData, Report]:
    folder.mkdir(parents=True, exist_ok=True)
    report = project_to(folder, reference, AnnDataSource(path=adata), **options)
    return ad.read_h5ad(folder / "adata.h5ad"), report


@pytest.fixture
def without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the figures, which take longer than the projection of a few cells."""
    monkeypatch.setattr(Report, "write", lambda report, folder: None)


def hash_files(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()}


class TestTrainingCells:
    def test_get_exactly_their_latents_of_the_training(self, trained: Any, reference: Reference, cells: AnnData) -> None:
        exported = trained.exported
        latent = pd.DataFrame(reference.embed(cells), index=cells.obs_names)
        assert latent.dtypes.eq(np.float32).all()
        np.testing.assert_array_equal(latent.loc[exported.obs_names].to_numpy(), exported.obsm["latent"])

    def test_get_their_latents_with_the_statistics_of_domains(self, trained_by_domain: Any, by_domain: Reference, cells: AnnData) -> None:
        exported = trained_by_domain.exported
        assert by_domain.describe()["statistics"] == "domain"
        kept = cells[exported.obs_names].copy()
        np.testing.assert_array_equal(by_domain.embed(kept), exported.obsm["latent"])
        # The other statistics give other latents, so the comparison above can fail.
        assert not np.allclose(by_domain.embed(kept, statistics="running"), exported.obsm["latent"])

    def test_get_the_values_that_the_training_wrote(self, trained: Any, reference: Reference, cells: AnnData) -> None:
        exported = trained.exported
        found = reference.project(cells, repeat=True)[exported.obs_names]
        assert (found.X != exported.X).nnz == 0
        assert list(found.var_names) == list(exported.var_names)
        assert (found.raw[exported.obs_names].X != exported.raw.X).nnz == 0
        assert list(found.raw.var_names) == list(exported.raw.var_names)
        np.testing.assert_array_equal(found.obsm["latent"], exported.obsm["latent"])
        np.testing.assert_allclose(found.obsm["X_umap"], exported.obsm["X_umap"], atol=1e-3)
        assert list(found.obs["leiden"]) == list(exported.obs["leiden"])

    def test_that_the_filter_dropped_are_returned_and_flagged(self, trained: Any, reference: Reference, cells: AnnData) -> None:
        found = reference.project(cells, repeat=True)
        assert list(found.obs_names) == list(cells.obs_names)
        detected = np.diff(cells.X.indptr)
        assert found.obs["filtered"].tolist() == (detected < trained.min_features).tolist()
        assert found.obs["filtered"].sum() == 5
        assert set(found.obs_names[~found.obs["filtered"]]) == set(trained.exported.obs_names)
        assert np.isfinite(found.obsm["latent"]).all()


class TestLatentOfACell:
    @pytest.mark.parametrize("chunk_size", [1, 7, 64, 100, 165, 20_000])
    def test_does_not_depend_on_the_chunk_size(self, reference: Reference, query: AnnData, chunk_size: int) -> None:
        some = query[:65].copy() if chunk_size == 1 else query
        expected = reference.embed(query)[: some.n_obs]
        np.testing.assert_array_equal(reference.embed(some, chunk_size=chunk_size), expected)

    def test_does_not_depend_on_order_or_other_cells(self, reference: Reference, query: AnnData) -> None:
        expected = pd.DataFrame(reference.embed(query), index=query.obs_names)
        rng = np.random.default_rng(0)
        for rows in (rng.permutation(query.n_obs), rng.choice(query.n_obs, 90, replace=False), np.array([8])):
            np.testing.assert_array_equal(reference.embed(query[rows].copy()), expected.iloc[rows].to_numpy())

    def test_does_not_depend_on_its_domain(self, reference: Reference, query: AnnData) -> None:
        expected = reference.embed(query)
        query.obs["other"] = ["domain0", "new"] * (query.n_obs // 2)
        np.testing.assert_array_equal(reference.embed(query, batch_key="other"), expected)

    @pytest.mark.parametrize("chunk_size", [7, 64, 165])
    def test_with_the_statistics_of_domains_does_not_depend_on_chunks(self, by_domain: Reference, query: AnnData, chunk_size: int) -> None:
        np.testing.assert_array_equal(by_domain.embed(query, chunk_size=chunk_size), by_domain.embed(query))

    def test_with_the_statistics_of_domains_does_not_depend_on_order(self, by_domain: Reference, query: AnnData, cells: AnnData) -> None:
        both = ad.concat([query, cells])
        order = np.random.default_rng(0).permutation(both.n_obs)
        latent = by_domain.embed(both)
        np.testing.assert_array_equal(by_domain.embed(both[order].copy()), latent[order])
        # It depends on the cells of its domain and, except for rounding, only on them.
        np.testing.assert_allclose(by_domain.embed(query), latent[: query.n_obs], atol=1e-5)
        assert not np.allclose(by_domain.embed(query[:80].copy()), latent[:80])

    def test_depends_on_the_requested_statistics(self, reference: Reference, query: AnnData) -> None:
        before = reference.embed(query)
        assert not np.allclose(reference.embed(query, statistics="domain"), before)
        # The request does not change the reference.
        assert reference.describe()["statistics"] == "running"
        np.testing.assert_array_equal(reference.embed(query), before)

    def test_unknown_statistics_are_an_error(self, reference: Reference, query: AnnData) -> None:
        with pytest.raises(ValueError, match="statistics=batch: one of running, domain or None is needed"):
            reference.embed(query, statistics="batch")  # type: ignore[arg-type]

    def test_is_the_same_for_cells_in_a_file(self, reference: Reference, query: AnnData, tmp_path: Path) -> None:
        query.write_h5ad(tmp_path / "query.h5ad")
        np.testing.assert_array_equal(reference.embed(tmp_path / "query.h5ad"), reference.embed(query))
        found, _ = project_in_memory(reference, query, repeat=True)
        read, _ = project_in_memory(reference, tmp_path / "query.h5ad", backed=True, repeat=True, chunk_size=70)
        np.testing.assert_array_equal(read.obsm["latent"], found.obsm["latent"])
        assert (read.X != found.X).nnz == 0
        assert_same_table(read.obs, found.obs)


class TestOneCell:
    @pytest.mark.parametrize("repeat", [True, False])
    def test_is_projected(self, reference: Reference, query: AnnData, tmp_path: Path, repeat: bool) -> None:
        expected = reference.embed(query)[3]
        one = query[3:4].copy()
        if repeat:
            found, report = project_and_read(tmp_path, reference, one, repeat=True)
        else:
            found, report = project_in_memory(reference, one, impute="domain0")
        np.testing.assert_array_equal(found.obsm["latent"][-1], expected)
        assert report.numbers["query"]["n_cells"] == report.numbers["cells"]["n_cells"] == 1
        assert report.numbers["cells"]["mixing"] is None
        assert not repeat or (tmp_path / "projection.pdf").stat().st_size > 1000

    def test_is_projected_with_the_statistics_of_domains(self, by_domain: Reference, query: AnnData) -> None:
        found = by_domain.embed(query[3:4].copy())
        # One cell has no variance, so the running statistics are used.
        np.testing.assert_array_equal(found, by_domain.embed(query[3:4].copy(), statistics="running"))

    def test_without_counts_is_projected(self, reference: Reference, query: AnnData) -> None:
        query.X = sparse.csr_matrix(query.X.multiply(np.arange(query.n_obs)[:, None] != 4))
        for adata in (query, query[4:5].copy()):
            found = reference.project(adata, repeat=True)
            assert np.isfinite(found.obsm["latent"]).all()
            assert found.obs["filtered"].iloc[0 if adata.n_obs == 1 else 4]


class TestFeatures:
    def test_are_matched_by_name_in_any_order_among_other_features(self, reference: Reference, query: AnnData) -> None:
        rng = np.random.default_rng(0)
        extra = AnnData(
            sparse.csr_matrix(rng.poisson(3, (query.n_obs, 60)), dtype=np.float32),
            obs=query.obs,
            var=pd.DataFrame(index=[f"extra{i}" for i in range(60)]),
        )
        mixed = ad.concat([query, extra], axis=1, merge="same")[:, rng.permutation(510)].copy()
        np.testing.assert_array_equal(reference.embed(mixed), reference.embed(query))

    @pytest.mark.parametrize("in_query", [True, False])
    def test_are_matched_without_ensembl_versions(
        self, cells: AnnData, query: AnnData, tmp_path: Path, in_query: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        plain = [f"ENSG{i:011d}" for i in range(cells.n_vars)]
        versioned = [f"{name}.{i % 20}" for i, name in enumerate(plain)]
        cells.var_names, query.var_names = (plain, versioned) if in_query else (versioned, plain)
        reference = train_reference(tmp_path, cells, RnaRecipe(min_features=0, n_top_features=50))
        found = reference.embed(query)
        assert "450 features were matched without their Ensembl versions" in caplog.text
        query.var_names = cells.var_names
        np.testing.assert_array_equal(found, reference.embed(query))

    def test_that_are_missing_count_as_their_mean(self, reference: Reference, query: AnnData, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        preprocessor = reference.trained_on.preprocessor
        missing = preprocessor.features[::10]
        few = query[:, ~query.var_names.isin(missing)].copy()
        found = reference.project(few, repeat=True)
        assert list(found.var_names) == list(preprocessor.features)
        assert found[:, missing].X.nnz == 0
        # The expected latents of the inputs with filled-in means, in float64 from the weights in the file.
        inputs = found.X.toarray().astype(np.float64)
        inputs[:, ::10] = preprocessor.mean[::10]
        state = torch.load(reference.folder / "checkpoint" / "best.ckpt", weights_only=True)["state_dict"]
        weights = {name.removeprefix("net."): value.double().numpy() for name, value in state.items()}
        norm = {name: weights[f"hidden_norm.{name}"][0] for name in ("running_mean", "running_var", "weight", "bias")}
        hidden = (inputs @ weights["hidden.weight"].T - norm["running_mean"]) / np.sqrt(norm["running_var"] + 1e-5)
        hidden = np.maximum(hidden * norm["weight"] + norm["bias"], 0)
        latent = (hidden @ weights["heads.weight"].T + weights["heads.bias"])[:, :10]
        np.testing.assert_allclose(found.obsm["latent"], latent, rtol=1e-3, atol=1e-4)
        for chunk_size in (64, 100):
            np.testing.assert_array_equal(reference.embed(few, chunk_size=chunk_size), found.obsm["latent"])
        assert "180 of the 200 features of the model are in the query (90%)" in caplog.text
        assert not [record for record in caplog.records if record.levelno >= logging.WARNING and "features" in record.message]

    @pytest.mark.parametrize(("n_missing", "warned"), [(40, False), (41, True), (139, True)])
    def test_below_80_percent_give_a_warning(
        self, reference: Reference, query: AnnData, caplog: pytest.LogCaptureFixture, n_missing: int, warned: bool
    ) -> None:
        missing = reference.trained_on.preprocessor.features[:n_missing]
        reference.embed(query[:, ~query.var_names.isin(missing)].copy())
        message = f"Only {200 - n_missing} of the 200 features of the model are in the query"
        assert (message in caplog.text) == warned
        assert (f"Missing: {missing[0]}, {missing[1]}" in caplog.text) == warned

    def test_below_the_smallest_share_are_an_error_that_names_both_sides(self, reference: Reference, query: AnnData) -> None:
        used = reference.trained_on.preprocessor.features
        few = query[:, ~query.var_names.isin(used[:150])].copy()
        message = (
            rf"Only 50 of the 200 features of the model are in the query \(25%\); at least 30% are needed \(least_found\)\. "
            rf"Reference: {used[0]}, {used[1]}.*; query: {few.var_names[0]}, {few.var_names[1]}"
        )
        with pytest.raises(ValueError, match=message):
            reference.embed(few)

    def test_the_smallest_share_can_be_set(self, reference: Reference, query: AnnData) -> None:
        few = query[:, ~query.var_names.isin(reference.trained_on.preprocessor.features[:150])].copy()
        found, _ = project_in_memory(reference, few, repeat=True, least_found=0.2)
        assert np.isfinite(found.obsm["latent"]).all()
        with pytest.raises(ValueError, match="at least 95% are needed"):
            project_in_memory(reference, query[:, 30:].copy(), least_found=0.95)

    @pytest.mark.parametrize("door", ["embed", "project", "transfer_labels", "impute", "fit_adapter"])
    def test_every_method_lets_the_smallest_share_be_set(self, reference: Reference, query: AnnData, door: str) -> None:
        with pytest.raises(ValueError, match=r"at least 100% are needed \(least_found\)"):
            getattr(reference, door)(query[:, 300:].copy(), least_found=1.0)

    @pytest.mark.parametrize("least_found", [0.3, 0.0])
    def test_that_are_all_missing_are_an_error(self, reference: Reference, query: AnnData, least_found: float) -> None:
        query.var_names = [f"other{i}" for i in range(query.n_vars)]
        with pytest.raises(ValueError, match=r"Only 0 of the 200 features .* Reference: gene\d+, .*; query: other0, other1"):
            project_in_memory(reference, query, least_found=least_found)

    def test_that_differ_only_in_case_are_named_but_not_matched(
        self, reference: Reference, query: AnnData, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        used = reference.trained_on.preprocessor.features
        query.var_names = [name.upper() if name in used[:10] else name for name in query.var_names]
        found = reference.project(query, repeat=True)
        assert f"10 names differ from the query's only in case ({used[0]}/{used[0].upper()}" in caplog.text
        assert found[:, used[:10]].X.nnz == 0


class TestKindOfValues:
    def test_processed_values_for_a_model_of_counts_are_refused(self, reference: Reference, query: AnnData) -> None:
        refused = r"query's values look normalized, but the reference was trained on counts\. "
        processed = process(query)
        with pytest.raises(ValueError, match=refused + "Give raw counts; no layer of the query holds them"):
            reference.project(processed)
        processed.layers["counts"] = query.X
        with pytest.raises(ValueError, match=refused + r"Whole numbers are in counts: use dataset\.layer=counts .*layer='counts'"):
            reference.project(processed)
        np.testing.assert_array_equal(reference.embed(processed, layer="counts"), reference.embed(query))

    @pytest.mark.parametrize("adapted", [False, True])
    def test_estimated_counts_are_counts_for_a_model_of_counts(self, reference: Reference, query: AnnData, adapted: bool) -> None:
        estimated = query.copy()
        estimated.X = sparse.csr_matrix(query.X, dtype=np.float32)
        estimated.X.data += np.random.default_rng(0).uniform(-0.4, 0.4, estimated.X.nnz).astype(np.float32)
        estimated.X.data *= 40
        expected = reference.embed(query)
        assert float(np.square(reference.embed(estimated) - expected).mean()) < 0.1 * expected.var()
        if adapted:
            assert reference.fit_adapter(estimated).maps.keys() == reference.fit_adapter(query).maps.keys()

    def test_counts_are_counts_for_a_model_of_estimated_counts(
        self, reference: Reference, query: AnnData, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        expected = reference.embed(query)
        preprocessor = replace(reference.trained_on.preprocessor, fractional=True)
        monkeypatch.setattr(reference.module, "trained_on", replace(reference.trained_on, preprocessor=preprocessor))
        assert reference.describe()["values"] == "counts"
        np.testing.assert_array_equal(reference.embed(query), expected)

    def test_counts_for_a_model_of_processed_values_are_refused(self, trained_on_processed: Reference, query: AnnData) -> None:
        with pytest.raises(
            ValueError, match="query's values are whole numbers, probably raw counts, but the reference was trained on proc"
        ):
            trained_on_processed.project(query)

    def test_processed_values_for_a_model_of_processed_values_are_projected(self, trained_on_processed: Reference, cells: AnnData) -> None:
        np.testing.assert_array_equal(trained_on_processed.embed(process(cells)), trained_on_processed.latent)
        assert trained_on_processed.describe()["values"] == "normalized values"


class TestResult:
    def test_holds_the_reference_and_the_query(self, trained: Any, reference: Reference, query: AnnData) -> None:
        exported = trained.exported
        found = reference.project(query)
        n = exported.n_obs
        assert found.n_obs == n + query.n_obs
        assert found.X is None
        assert found.raw is None
        assert list(found.obs["projection"]) == ["reference"] * n + ["query"] * query.n_obs
        assert list(found.obs_names) == [*exported.obs_names, *query.obs_names]
        np.testing.assert_array_equal(found.obsm["latent"], np.concatenate([exported.obsm["latent"], reference.embed(query)]))
        # The reference's values are kept, not computed again.
        np.testing.assert_array_equal(found.obsm["X_umap"][:n], exported.obsm["X_umap"])
        for column in exported.obs:
            assert found.obs[column][:n].astype(object).equals(exported.obs[column].astype(object)), column
        # The graph of the reference lacks the new cells.
        assert "neighbors" in exported.uns
        assert not found.obsp
        assert "neighbors" not in found.uns
        assert found.uns["leiden"] == exported.uns["leiden"]

    def test_with_repeat_holds_only_the_query_in_its_order(self, reference: Reference, query: AnnData) -> None:
        query = query[np.random.default_rng(0).permutation(query.n_obs)].copy()
        found = reference.project(query, repeat=True)
        assert list(found.obs_names) == list(query.obs_names)
        assert set(found.obs["projection"]) == {"query"}
        for column in query.obs:
            assert found.obs[column].astype(object).equals(query.obs[column].astype(object)), column
        together = reference.project(query)[reference.cells.n_obs :]
        for name in ("latent", "X_umap"):
            np.testing.assert_array_equal(found.obsm[name], together.obsm[name])
        for column in ("distance", "leiden", "cell_type_label"):
            assert list(found.obs[column]) == list(together.obs[column])

    def test_has_x_and_raw_like_a_training(self, reference: Reference, query: AnnData) -> None:
        found = reference.project(query, repeat=True)
        preprocessor = reference.trained_on.preprocessor
        counts = query.X.toarray().astype(np.float64)
        normalized = np.log1p(counts / counts.sum(1, keepdims=True) * 1e4)
        columns = query.var_names.get_indexer(preprocessor.kept_features)
        np.testing.assert_allclose(found.raw.X.toarray(), normalized[:, columns], rtol=1e-5)
        used = normalized[:, query.var_names.get_indexer(preprocessor.features)] / preprocessor.maximum.max(0)
        np.testing.assert_allclose(found.X.toarray(), np.minimum(used, 1), rtol=1e-5)

    def test_has_a_label_with_a_probability_for_each_cell(self, reference: Reference, query: AnnData) -> None:
        for repeat in (True, False):
            obs = reference.project(query, repeat=repeat).obs[-query.n_obs :]
            assert set(obs["cell_type_label"]) <= {*reference.cells.obs["cell_type"], "unknown"}
            assert obs["cell_type_probability"].between(0, 1).all()
        without = reference.project(query, label=None).obs
        assert not [name for name in without if name.startswith("cell_type_")]

    def test_has_no_umap_and_clusters_if_the_reference_has_none(self, by_domain: Reference, query: AnnData, tmp_path: Path) -> None:
        found, _ = project_and_read(tmp_path, by_domain, query)
        assert "X_umap" not in found.obsm
        assert "leiden" not in found.obs
        assert (tmp_path / "projection.pdf").exists()

    def test_has_new_names_for_cells_with_names_of_the_reference(self, reference: Reference, cells: AnnData) -> None:
        found = reference.project(cells)
        assert found.obs_names.is_unique
        assert list(found.obs_names[-cells.n_obs :]) == [f"{name}-query" for name in cells.obs_names]

    def test_has_the_columns_of_the_query_and_of_the_reference(self, reference: Reference, query: AnnData) -> None:
        query.obs["dose"] = np.arange(query.n_obs)
        query.obs["stim"] = pd.Categorical(["yes", "no"] * (query.n_obs // 2))
        query.obs["cell_type"] = pd.Categorical(["alpha", "new type"] * (query.n_obs // 2))
        n = reference.cells.n_obs
        obs = reference.project(query).obs
        assert obs["dose"][n:].tolist() == list(range(query.n_obs))
        assert obs["dose"][:n].isna().all()
        assert obs["stim"][:n].isna().all()
        assert list(obs["cell_type"][n:]) == ["alpha", "new type"] * (query.n_obs // 2)
        assert list(obs["cell_type"][:n]) == list(reference.cells.obs["cell_type"])
        assert list(obs["domain"][n:]) == ["domain2"] * query.n_obs

    def test_stores_the_settings_and_the_report(self, reference: Reference, query: AnnData) -> None:
        found, report = project_in_memory(reference, query, impute="domain0", parameters={"reference": "run", "least_found": 0.3})
        assert found.uns["scalex"]["parameters"] == {"reference": "run", "least_found": 0.3}
        assert found.uns["scalex"]["impute"] == "layers['impute'] is log1p of counts per 10,000"
        assert found.uns["scalex"]["projection"]["cells"]["n_cells"] == report.numbers["cells"]["n_cells"]

    @pytest.mark.parametrize("chunk_size", [40, 166])
    def test_does_not_depend_on_the_chunk_size(self, reference: Reference, query: AnnData, chunk_size: int) -> None:
        query.obs["partly"] = pd.array([True, None] * (query.n_obs // 2), dtype="boolean")
        whole, _ = project_in_memory(reference, query, impute="domain1")
        found, _ = project_in_memory(reference, query, impute="domain1", chunk_size=chunk_size)
        assert_same_table(found.obs, whole.obs)
        for name in whole.obsm:
            np.testing.assert_array_equal(found.obsm[name], whole.obsm[name])
        np.testing.assert_allclose(found.layers["impute"], whole.layers["impute"], rtol=1e-6)


def decode(reference: Reference, latent: NDArray[np.float32], domain: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the expression of the batch norm of the domain (latent @ W), in float64 from the weights in the file.

    It is sigmoid(...) times the maximum, or log(1 + exp(...)) if the likelihood is of counts.
    """
    checkpoint = torch.load(reference.folder / "checkpoint" / "best.ckpt", weights_only=True)
    weights = {name.removeprefix("net."): value.double().numpy() for name, value in checkpoint["state_dict"].items()}
    norm = {name: weights[f"output_norm.{name}"][domain] for name in ("running_mean", "running_var", "weight", "bias")}
    product = latent.astype(np.float64) @ weights["output_weight"]
    logits = (product - norm["running_mean"]) / np.sqrt(norm["running_var"] + 1e-5) * norm["weight"] + norm["bias"]
    if checkpoint["hyper_parameters"]["likelihood"] == "negative_binomial":
        return np.log1p(np.exp(logits))
    maximum = checkpoint["trained_on"]["preprocessor"]["maximum"].numpy()
    scaling = checkpoint["trained_on"]["preprocessor"]["scaling"]
    unit = maximum[domain] if scaling == "domain" else maximum.max(0)
    expected: NDArray[np.float64] = np.where(unit > 0, unit, 1) / (1 + np.exp(-logits))
    return expected


class TestImputation:
    @pytest.mark.parametrize("name", ["reference", "scaled_by_domain", "trained_on_counts"])
    @pytest.mark.parametrize("domain", [None, "domain0", "domain1"])
    def test_equals_the_decoded_latent_in_units_of_expression(
        self, request: pytest.FixtureRequest, name: str, domain: str | None, cells: AnnData
    ) -> None:
        reference: Reference = request.getfixturevalue(name)
        found = reference.impute(cells, domain)
        assert found.n_obs == cells.n_obs
        assert found.layers["impute"].dtype == np.float32
        known = list(reference.trained_on.domains)
        code = np.array([known.index(own if domain is None else domain) for own in cells.obs["batch"]])
        expected = decode(reference, found.obsm["latent"], code)
        np.testing.assert_allclose(found.layers["impute"], expected, rtol=1e-4, atol=1e-6)
        maximum = reference.trained_on.preprocessor.maximum
        assert (reference.trained_on.preprocessor.scaling == "domain") == (name == "scaled_by_domain")
        assert not np.allclose(maximum[0], maximum[1])

    def test_through_their_own_domain_uses_its_name(self, scaled_by_domain: Reference, cells: AnnData) -> None:
        """The only domain of a query may be the second one of the model."""
        own = cells[cells.obs["batch"] == "domain1"].copy()
        whole, found = scaled_by_domain.impute(cells), scaled_by_domain.impute(own)
        np.testing.assert_allclose(found.layers["impute"], whole[own.obs_names].layers["impute"], rtol=1e-6)

    @pytest.mark.parametrize("name", ["reference", "trained_on_counts"])
    def test_resembles_the_measured_expression(self, request: pytest.FixtureRequest, name: str, cells: AnnData) -> None:
        """It has the unit of normalized expression, not of scaled inputs or logits."""
        found = request.getfixturevalue(name).impute(cells)
        measured = found.raw[:, found.var_names].X.toarray()
        assert np.corrcoef(found.layers["impute"].mean(0), measured.mean(0))[0, 1] > 0.9
        assert 0.5 < found.layers["impute"].mean() / measured.mean() < 2

    def test_includes_the_reference_without_repeat(self, reference: Reference, query: AnnData) -> None:
        n = reference.cells.n_obs
        found = reference.project(query, impute="domain1")
        expected = decode(reference, found.obsm["latent"], np.full(found.n_obs, 1))
        np.testing.assert_allclose(found.layers["impute"], expected, rtol=1e-4, atol=1e-6)
        own = reference.project(set_known_domain(query), impute=True)
        code = np.array([list(reference.trained_on.domains).index(name) for name in own.obs["domain"][:n]])
        np.testing.assert_allclose(own.layers["impute"][:n], decode(reference, own.obsm["latent"][:n], code), rtol=1e-4, atol=1e-6)

    def test_does_not_depend_on_the_chunk_size(self, scaled_by_domain: Reference, cells: AnnData) -> None:
        at_once, _ = project_in_memory(scaled_by_domain, cells, repeat=True, impute=True)
        in_chunks, _ = project_in_memory(scaled_by_domain, cells, repeat=True, impute=True, chunk_size=70)
        # The last bit may differ: other instructions compute the sigmoid of the last few values of a block.
        np.testing.assert_allclose(in_chunks.layers["impute"], at_once.layers["impute"], rtol=1e-6)
        pd.testing.assert_frame_equal(in_chunks.var, at_once.var)

    @pytest.mark.parametrize("repeat", [True, False])
    def test_the_features_tell_how_imputed_values_agree_with_the_observed(self, reference: Reference, query: AnnData, repeat: bool) -> None:
        found, _ = project_in_memory(reference, query, repeat=repeat, impute="domain1")
        alone, _ = project_in_memory(reference, query, repeat=True, impute="domain1")
        observed = alone.raw[:, alone.var_names].X.toarray()
        for i, name in enumerate(alone.var_names):
            decoded = alone.layers["impute"][:, i]
            if observed[:, i].std() == 0:
                assert np.isnan(found.var.loc[name, "impute_slope"])
                continue
            assert found.var.loc[name, "impute_slope"] == pytest.approx(np.polyfit(decoded, observed[:, i], 1)[0], rel=1e-3)
            assert found.var.loc[name, "impute_correlation"] == pytest.approx(np.corrcoef(decoded, observed[:, i])[0, 1], rel=1e-3)
        assert "impute_slope" not in project_in_memory(reference, query, repeat=repeat)[0].var

    def test_features_that_the_query_lacks_have_no_slope(self, reference: Reference, query: AnnData) -> None:
        lacking = reference.cells.var_names[0]
        found, _ = project_in_memory(reference, query[:, query.var_names != lacking].copy(), repeat=True, impute="domain1")
        assert np.isnan(found.var.loc[lacking, "impute_slope"])
        assert found.var["impute_slope"].notna().mean() > 0.8

    def test_through_an_unknown_domain_lists_the_known_ones(self, reference: Reference, query: AnnData, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"does not know the domain\(s\) domain9.* It knows: domain0, domain1\. Name one"):
            reference.impute(query, "domain9")
        with pytest.raises(ValueError, match=r"does not know the domain\(s\) domain2.* It knows: domain0, domain1"):
            reference.impute(query)
        with pytest.raises(ValueError, match="domain9"):
            project_and_read(tmp_path, reference, query, impute="domain9")
        assert list(tmp_path.iterdir()) == []

    def test_accepts_a_number_as_the_name_of_a_domain(self, cells: AnnData, tmp_path: Path) -> None:
        """The command line reads `impute=1` as a number, and sources without names are called 0, 1, ..."""
        cells.obs["batch"] = [{"domain0": "0", "domain1": "1"}[name] for name in cells.obs["batch"]]
        reference = train_reference(tmp_path / "run", cells, RnaRecipe(min_features=0, n_top_features=50))
        for code in (0, 1):
            found, _ = project_in_memory(reference, cells, repeat=True, impute=code)
            np.testing.assert_array_equal(found.layers["impute"], reference.impute(cells, str(code)).layers["impute"])
        with pytest.raises(ValueError, match=r"does not know the domain\(s\) 7"):
            project_in_memory(reference, cells, repeat=True, impute=7)


def set_known_domain(query: AnnData) -> AnnData:
    """Return some new cells with the name of a known domain."""
    query = query[:20].copy()
    query.obs["batch"] = "domain0"
    return query


# A folder, the projected cells, the result and the report.
Projected: TypeAlias = tuple[Path, AnnData, AnnData, Report]


@pytest.fixture(scope="module")
def projection(trained: Any, reference: Reference, tmp_path_factory: pytest.TempPathFactory) -> Projected:
    """Project cells of a known domain, of a new one and of one that does not fit, without some features."""
    query = ad.concat([trained.query, trained.cells[:60]], index_unique="-")
    query.obs["batch"] = query.obs["batch"].astype(str)
    strange = query[:70].copy()
    strange.X = sparse.csr_matrix(strange.X[:, ::-1])
    strange.obs["batch"] = "strange"
    strange.obs_names = [f"strange{i}" for i in range(70)]
    poor = query[:5].copy()
    poor.X = sparse.csr_matrix(poor.X.multiply(np.arange(poor.n_vars) < 30))
    poor.obs_names = [f"poor{i}" for i in range(5)]
    query = ad.concat([query, strange, poor])
    query = query[:, ~query.var_names.isin(reference.trained_on.preprocessor.features[[5, 9, 100, 101]])].copy()
    folder = tmp_path_factory.mktemp("report")
    found, report = project_and_read(folder, reference, query, chunk_size=150)
    return folder, query, found[reference.cells.n_obs :], report


class TestReport:
    def test_is_in_the_folder_with_its_figures(self, projection: Projected) -> None:
        folder, _, _, report = projection
        assert {path.name for path in folder.iterdir()} == {"adata.h5ad", "report.html", "report.json", "projection.pdf", "projection.png"}
        assert json.loads((folder / "report.json").read_text()) == report.numbers
        assert (folder / "projection.pdf").read_bytes()[:5] == b"%PDF-"
        assert (folder / "projection.png").stat().st_size > 10_000

    def test_names_the_reference_and_the_query(self, projection: Projected, reference: Reference) -> None:
        _, query, _, report = projection
        assert report.numbers["reference"]["n_cells"] == reference.cells.n_obs
        assert report.numbers["reference"]["folder"] == str(reference.folder)
        assert report.numbers["query"]["n_cells"] == query.n_obs
        assert set(report.numbers["query"]["domains"]) == {"domain0", "domain2", "strange"}

    def test_gives_the_share_of_features_and_of_their_use_in_the_encoder(self, projection: Projected, reference: Reference) -> None:
        _, _, _, report = projection
        features = report.numbers["features"]
        state = torch.load(reference.folder / "checkpoint" / "best.ckpt", weights_only=True)["state_dict"]
        scale = state["net.hidden_norm.weight"][0] / torch.sqrt(state["net.hidden_norm.running_var"][0] + 1e-5)
        use = torch.linalg.vector_norm(state["net.hidden.weight"] * scale[:, None], dim=0).numpy()
        missing = np.array([5, 9, 100, 101])
        assert (features["n_used"], features["n_found"], features["share_found"]) == (200, 196, 0.98)
        assert features["share_found_weighted"] == pytest.approx(1 - use[missing].sum() / use.sum(), rel=1e-4)
        names = reference.trained_on.preprocessor.features[missing[np.argsort(-use[missing])]]
        assert features["most_used_missing"] == list(names)

    def test_gives_the_distances_of_a_brute_force_search(self, projection: Projected, reference: Reference) -> None:
        _, _, found, report = projection
        known = reference.latent.astype(np.float64)

        def mean_distance(latent: NDArray[Any], *, itself: bool) -> NDArray[np.float64]:
            distance = np.sqrt(((latent.astype(np.float64)[:, None] - known[None]) ** 2).sum(2))
            if itself:
                np.fill_diagonal(distance, np.inf)
            mean: NDArray[np.float64] = np.sort(distance, axis=1)[:, :15].mean(1)
            return mean

        own = mean_distance(known, itself=True)
        distance = mean_distance(found.obsm["latent"], itself=False) / np.median(own)
        outside = distance > np.quantile(own, 0.99) / np.median(own)
        np.testing.assert_allclose(found.obs["distance"].to_numpy(np.float64), distance, rtol=1e-4)
        assert found.obs["outside"].tolist() == outside.tolist()
        domain = np.asarray(found.obs["domain"].astype(str))
        for name, numbers in [(None, report.numbers["cells"]), *report.numbers["domains"].items()]:
            own_cells = np.ones(len(domain), bool) if name is None else domain == name
            assert numbers["n_cells"] == own_cells.sum()
            assert numbers["median_distance"] == pytest.approx(np.median(distance[own_cells]), rel=1e-4)
            assert numbers["share_outside"] == pytest.approx(outside[own_cells].mean())
            assert numbers["n_filtered"] == found.obs["filtered"][own_cells].sum()
        shares = {name: numbers["share_outside"] for name, numbers in report.numbers["domains"].items()}
        assert shares["strange"] > shares["domain0"]
        assert report.numbers["domains"]["domain2"]["n_filtered"] >= 5

    def test_gives_the_mixing_around_cells_that_are_not_outside(self, projection: Projected, reference: Reference) -> None:
        _, _, found, report = projection
        inside = ~found.obs["outside"].to_numpy(bool)
        latent = np.concatenate([found.obsm["latent"][inside], reference.latent])
        entropy = neighbor_entropy(latent, np.arange(len(latent)) < inside.sum(), n_neighbors=30)[: inside.sum()]
        assert report.numbers["cells"]["mixing"] == pytest.approx(entropy.mean(), rel=1e-6)
        domain = np.asarray(found.obs["domain"].astype(str))[inside]
        for name, numbers in report.numbers["domains"].items():
            own = entropy[domain == name]
            assert numbers["mixing"] == (pytest.approx(own.mean(), rel=1e-6) if len(own) >= 50 else None)

    def test_counts_the_labels(self, projection: Projected) -> None:
        _, _, found, report = projection
        assert report.numbers["labels"] == {"cell_type": found.obs["cell_type_label"].astype(str).value_counts().to_dict()}

    def test_logs_a_summary(self, reference: Reference, query: AnnData, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        _, report = project_and_read(tmp_path, reference, query)
        assert "Features: 200 of 200 found (100%; weighted by their use in the encoder 100%)" in caplog.text
        cells = report.numbers["cells"]
        assert f"All cells (domain2): {query.n_obs:,} cells, median distance {cells['median_distance']:.2f}" in caplog.text
        caplog.clear()
        query.obs["batch"] = np.where(np.arange(query.n_obs) < 60, "domain2", "domain1")
        _, report = project_and_read(tmp_path, reference, query)
        assert f"All cells: {query.n_obs:,} cells, " in caplog.text
        assert "Domain domain1: " in caplog.text
        assert "Domain domain2: 60 cells, " in caplog.text
        # Both names are shortened to the same text.
        long = [f"donor {'x' * 100}{n}{'x' * 100}" for n in range(2)]
        query.obs["batch"] = np.where(np.arange(query.n_obs) < 60, *long)
        _, report = project_and_read(tmp_path, reference, query)
        assert sum(line.startswith("Domain donor") for line in report.lines()) == 2

    def test_warns_of_many_cells_outside(
        self, reference: Reference, query: AnnData, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        query.X = sparse.csr_matrix(query.X[:, np.random.default_rng(0).permutation(query.n_vars)] > 0, dtype=np.float32)
        _, report = project_and_read(tmp_path, reference, query)
        assert report.numbers["cells"]["share_outside"] > 0.2
        assert "of the cells lie farther from the reference than its own cells do" in caplog.text

    @pytest.mark.parametrize("sampled", [3, 60])
    def test_draws_a_sample_and_counts_all_cells(
        self, reference: Reference, query: AnnData, monkeypatch: pytest.MonkeyPatch, sampled: int
    ) -> None:
        _, whole = project_in_memory(reference, query)
        monkeypatch.setattr("scalex.projection.report.N_SAMPLED", sampled)
        _, report = project_in_memory(reference, query, chunk_size=40)
        assert len(report.sample) == sampled
        for name in ("n_cells", "n_filtered", "median_distance", "share_outside"):
            assert report.numbers["cells"][name] == whole.numbers["cells"][name]


@pytest.fixture(scope="module")
def grown(trained: Any, reference: Reference, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """Return a new version with half of the query, and the hashes of the old folder from before."""
    before = hash_files(reference.folder)
    folder = tmp_path_factory.mktemp("grown") / "second"
    project_and_read(folder, reference, trained.query[:100].copy(), append=True)
    return folder, before


@pytest.mark.usefixtures("without_figures")
class TestAppend:
    def test_makes_a_reference_of_the_old_and_the_new_cells(
        self, grown: tuple[Path, dict[str, str]], reference: Reference, query: AnnData, trained: Any
    ) -> None:
        second = Reference.load(grown[0])
        n = reference.cells.n_obs
        assert second.cells.n_obs == n + 100
        np.testing.assert_array_equal(second.latent[:n], reference.latent)
        np.testing.assert_array_equal(second.latent[n:], reference.embed(query)[:100])
        np.testing.assert_array_equal(second.embed(query), reference.embed(query))
        described = second.describe()
        assert (described["n_cells"], described["n_training_cells"]) == (n + 100, n)
        assert described["domains"] == {**trained.exported.obs["batch"].value_counts().to_dict(), "domain2": 100}
        assert "cell_type" in described["labels"]
        assert [(v["folder"], v["action"], v["n_cells"]) for v in described["lineage"]] == [
            ("run", "trained", n),
            ("second", "projected", n + 100),
        ]

    def test_does_not_change_the_old_folder(self, grown: tuple[Path, dict[str, str]], reference: Reference) -> None:
        assert hash_files(reference.folder) == grown[1]

    def test_compares_the_next_query_with_all_cells(self, grown: tuple[Path, dict[str, str]], reference: Reference, query: AnnData) -> None:
        second = Reference.load(grown[0])
        rest = query[100:].copy()
        found = second.project(rest, repeat=True)
        latent, known = reference.embed(query).astype(np.float64), reference.latent.astype(np.float64)
        both = np.concatenate([known, latent[:100]])
        own = np.sqrt(((both[:, None] - both[None]) ** 2).sum(2))
        np.fill_diagonal(own, np.inf)
        unit = np.median(np.sort(own, axis=1)[:, :15].mean(1))
        distance = np.sort(np.sqrt(((latent[100:, None] - both[None]) ** 2).sum(2)), axis=1)[:, :15].mean(1) / unit
        np.testing.assert_allclose(found.obs["distance"].to_numpy(np.float64), distance, rtol=1e-4)

    @pytest.mark.parametrize("repeat", [True, False])
    def test_does_not_change_the_latents_and_values_of_the_next_query(
        self, grown: tuple[Path, dict[str, str]], reference: Reference, query: AnnData, repeat: bool
    ) -> None:
        second = Reference.load(grown[0])
        rest = query[100:].copy()
        found, expected = (r.project(rest, repeat=repeat, impute="domain0")[-rest.n_obs :] for r in (second, reference))
        np.testing.assert_array_equal(found.obsm["latent"], expected.obsm["latent"])
        np.testing.assert_array_equal(found.layers["impute"], expected.layers["impute"])
        assert found.obs["filtered"].tolist() == expected.obs["filtered"].tolist()
        if repeat:
            assert (found.X != expected.X).nnz == 0
            assert (found.raw.to_adata().X != expected.raw.to_adata().X).nnz == 0
            assert list(found.raw.var_names) == list(expected.raw.var_names)

    def test_keeps_the_types_of_columns(self, grown: tuple[Path, dict[str, str]], query: AnnData, tmp_path: Path) -> None:
        second = Reference.load(grown[0])
        third_cells, _ = project_and_read(tmp_path / "third", second, query[100:].copy(), append=True)
        third = Reference.load(tmp_path / "third")
        assert [version["action"] for version in third.lineage] == ["trained", "projected", "projected"]
        for name in ("filtered", "outside"):
            assert third_cells.obs[name].dtype == second.cells.obs[name].dtype == "boolean"
            assert third_cells.obs[name].isna().sum() == second.cells.obs[name].isna().sum()
        for name in second.cells.obs:
            assert third_cells.obs[name].dtype.kind == second.cells.obs[name].dtype.kind, name

    def test_gives_new_names_to_repeated_cells(self, grown: tuple[Path, dict[str, str]], query: AnnData, tmp_path: Path) -> None:
        project_and_read(tmp_path / "third", Reference.load(grown[0]), query[:50].copy(), append=True)
        fourth, _ = project_and_read(tmp_path / "fourth", Reference.load(tmp_path / "third"), query[:50].copy())
        assert fourth.obs_names.is_unique

    def test_keeps_labels_that_are_text_in_the_query(self, reference: Reference, query: AnnData, tmp_path: Path) -> None:
        query.obs["cell_type"] = query.obs["cell_type"].astype(str).astype(object)
        project_and_read(tmp_path, reference, query, append=True)
        grown = Reference.load(tmp_path)
        assert "cell_type" in grown.labels
        assert set(grown.cells.obs["cell_type"]) == set(reference.cells.obs["cell_type"]) | set(query.obs["cell_type"])

    def test_with_repeat_is_an_error(self, reference: Reference, query: AnnData, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="append=true adds the new cells to those of the reference, but repeat=true omits these"):
            project_to(tmp_path, reference, AnnDataSource(path=query), append=True, repeat=True)
        assert list(tmp_path.iterdir()) == []


class TestNoFilesAreLeft:
    def test_when_a_later_value_is_bad(self, reference: Reference, query: AnnData, tmp_path: Path) -> None:
        query.X.data[query.X.indptr[130]] = np.nan
        for repeat, append in ((False, False), (True, False), (False, True)):
            with pytest.raises(ValueError, match=f"not a number; the first is nan in cell {query.obs_names[130]}"):
                project_to(tmp_path, reference, AnnDataSource(path=query), chunk_size=50, repeat=repeat, append=append)
            assert list(tmp_path.iterdir()) == []

    def test_when_the_disk_is_full(self, reference: Reference, query: AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: object, **__: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Report, "write", full)
        with pytest.raises(OSError, match="The disk has no space left for"):
            project_to(tmp_path, reference, AnnDataSource(path=query))
        assert list(tmp_path.iterdir()) == []

    def test_when_the_chunk_size_is_refused(self, reference: Reference, query: AnnData) -> None:
        with pytest.raises(ValueError, match="chunk_size=0: a whole number of at least 1 is needed"):
            reference.embed(query, chunk_size=0)


@pytest.mark.parametrize("remove_domains", [lambda q: q.obs.drop(columns="batch"), lambda q: q.obs.assign(batch=None)])
def test_a_query_may_lack_the_column_of_domains_but_not_its_values(
    reference: Reference, query: AnnData, remove_domains: Callable[[AnnData], pd.DataFrame]
) -> None:
    expected = reference.embed(query)
    query.obs = remove_domains(query)
    if "batch" in query.obs:
        with pytest.raises(ValueError, match=r"166 cells have no value in obs\['batch'\]"):
            reference.embed(query)
    else:
        np.testing.assert_array_equal(reference.embed(query), expected)


def test_a_missing_column_is_named(reference: Reference, query: AnnData) -> None:
    with pytest.raises(KeyError, match=r"batch_key='donor' is not in obs\. Columns: batch, cell_type"):
        reference.embed(query, batch_key="donor")


def test_project_writes_to_any_open_file(reference: Reference, query: AnnData, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "own.h5ad", "w") as file:
        report = project(reference, AnnDataSource(path=query), file, repeat=True, label=None)
    assert report.numbers["labels"] == {}
    np.testing.assert_array_equal(ad.read_h5ad(tmp_path / "own.h5ad").obsm["latent"], reference.embed(query))


def test_peaks_are_added_to_overlapping_peaks_of_the_reference(tmp_path: Path) -> None:
    cells = demo_cells(200, 400, 2)
    cells.var_names = [f"chr1:{1000 * i}-{1000 * i + 500}" for i in range(400)]
    reference = train_reference(tmp_path, cells, AtacRecipe(min_features=0, binarize=False, n_top_features=300))
    # Each peak is in two halves, of which the second extends beyond its end. One more peak overlaps nothing.
    first = sparse.csr_matrix(np.random.default_rng(0).binomial(cells.X.toarray().astype(int), 0.5), dtype=np.float32)
    halves = sparse.hstack([first, cells.X - first, np.full((200, 1), 7)], format="csr").astype(np.float32)
    names = [f"1-{1000 * i}-{1000 * i + 200}" for i in range(400)] + [f"1-{1000 * i + 200}-{1000 * i + 900}" for i in range(400)]
    query = AnnData(halves, obs=cells.obs.copy(), var=pd.DataFrame(index=[*names, "2-10-20"]))
    source = AnnDataSource(path=query, batch_key="batch", match_peaks="overlap")
    expected = embed(reference, AnnDataSource(path=cells, batch_key="batch"))
    np.testing.assert_array_equal(embed(reference, source), expected)
    with pytest.raises(ValueError, match=r"Only 0 of the 300 features .* different coordinates .* use match_peaks=overlap"):
        embed(reference, AnnDataSource(path=query, batch_key="batch"))


@pytest.mark.parametrize(
    "recipe",
    [AtacRecipe(min_features=0, n_top_features=150, binarize=True, normalization="tfidf"), AtacRecipe(min_features=0), AdtRecipe()],
)
@pytest.mark.parametrize("backed", [False, True])
def test_training_cells_of_any_profile_get_their_latents(tmp_path: Path, recipe: Recipe, backed: bool) -> None:
    cells = demo_cells(200, 400, 2)
    reference = train_reference(tmp_path / "run", cells, recipe)
    cells.write_h5ad(tmp_path / "cells.h5ad")
    source = AnnDataSource(path=tmp_path / "cells.h5ad", batch_key="batch", backed=backed)
    np.testing.assert_array_equal(embed(reference, source, chunk_size=64), reference.latent)
    grown, _ = project_in_memory(reference, cells[:50].copy(), impute=True, repeat=True)
    assert grown.layers["impute"].shape == grown.shape


@pytest.mark.parametrize("repeat", [True, False])
def test_columns_that_cannot_be_written_are_converted(reference: Reference, query: AnnData, repeat: bool) -> None:
    query.obs["mixed"] = ["text", *range(1, query.n_obs)]
    query.obs["text"] = pd.array(["a", None] * (query.n_obs // 2), dtype="string")
    found = reference.project(query, repeat=repeat)
    obs = found.obs[found.obs["projection"] == "query"]
    assert list(obs["mixed"]) == ["text", *map(str, range(1, query.n_obs))]
    assert list(obs["text"].astype(object).fillna("")) == ["a", ""] * (query.n_obs // 2)
    np.testing.assert_array_equal(found.obsm["latent"][-query.n_obs :], reference.embed(query))
