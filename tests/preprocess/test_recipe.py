from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scanpy as sc
from anndata import AnnData
from scipy import sparse
from scipy.stats import gmean
from sklearn.preprocessing import MaxAbsScaler

from scalex.cells import AnnDataSource, InMemoryCells
from scalex.preprocess import AdtRecipe, AsIsRecipe, AtacRecipe, FittedRecipe, Recipe, RnaRecipe

MakeCells = Callable[..., InMemoryCells]
RECIPES = [AsIsRecipe(), RnaRecipe(min_features=0, min_cells=0)]


@pytest.fixture
def varied_demo(demo: AnnData) -> AnnData:
    """Return demo cells with mitochondrial, spike-in and rare features."""
    demo.var_names = ["ERCC-1", "MT-A", "mt-b", "MTOR", "ercc", *demo.var_names[5:]]
    values = demo.X.toarray()
    values[2:, 10:15] = 0
    demo.X = sparse.csr_matrix(values)
    return demo


def open_cells(adata: AnnData) -> InMemoryCells:
    return AnnDataSource(path=adata, batch_key="batch").open()


def preprocess_by_scanpy(adata: AnnData, *, min_features: int, min_cells: int, n_top: int, keep_mt: bool) -> AnnData:
    adata = adata.copy()
    if not keep_mt:
        adata = adata[:, [not name.startswith(("ERCC", "MT-", "mt-")) for name in adata.var_names]].copy()
    sc.pp.filter_cells(adata, min_genes=min_features)
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.filter_genes(adata, min_cells=min_cells)
    sc.pp.log1p(adata)
    adata.raw = adata
    sc.pp.highly_variable_genes(adata, n_top_genes=n_top, flavor="seurat", batch_key="batch", subset=True)
    adata.X = MaxAbsScaler().fit_transform(adata.X)
    return adata


def preprocess(fitted: FittedRecipe, cells: InMemoryCells) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
    """Return model input and normalized expression of the kept cells."""
    transform = fitted.preprocessor.for_features(cells.var.index)
    rows = cells.read(fitted.rows)
    return transform(rows, cells.domain.codes[fitted.rows].astype(np.int64)), transform.normalized(rows)


@pytest.mark.parametrize("keep_mt", [False, True])
@pytest.mark.parametrize("min_cells", [3, 150])
@pytest.mark.parametrize("quantile", [0.0, 0.4])
def test_the_result_is_that_of_scanpy(varied_demo: AnnData, keep_mt: bool, min_cells: int, quantile: float) -> None:
    min_features = int(np.quantile(np.diff(varied_demo.X.indptr), quantile))
    expected = preprocess_by_scanpy(varied_demo, min_features=min_features, min_cells=min_cells, n_top=120, keep_mt=keep_mt)
    cells = open_cells(varied_demo)
    fitted = RnaRecipe(min_features=min_features, min_cells=min_cells, n_top_features=120, keep_mt=keep_mt, min_cell_per_batch=1).fit(cells)
    inputs, normalized = preprocess(fitted, cells)
    assert list(cells.obs.index[fitted.rows]) == list(expected.obs_names)
    assert list(fitted.preprocessor.kept_features) == list(expected.raw.var_names)
    assert list(fitted.preprocessor.features) == list(expected.var_names)
    np.testing.assert_allclose(normalized.toarray(), expected.raw.X.toarray(), rtol=1e-5)
    np.testing.assert_allclose(inputs.toarray(), expected.X.toarray(), rtol=1e-5)
    assert inputs.max() == 1


def test_the_result_for_real_cells_is_that_of_scanpy(find_real: Callable[[str], Path]) -> None:
    path = find_real("kang_ctrl_stim.h5ad")
    expected = preprocess_by_scanpy(sc.read_h5ad(path), min_features=400, min_cells=3, n_top=1000, keep_mt=False)
    cells = AnnDataSource(path=path, batch_key="batch").open()
    fitted = RnaRecipe(min_features=400, n_top_features=1000).fit(cells)
    inputs, normalized = preprocess(fitted, cells)
    assert list(cells.obs.index[fitted.rows]) == list(expected.obs_names)
    assert list(fitted.preprocessor.features) == list(expected.var_names)
    np.testing.assert_allclose(normalized.data, expected.raw.X.data, rtol=1e-5)
    np.testing.assert_allclose(inputs.data, expected.X.data, rtol=1e-5)


@pytest.mark.parametrize(
    "recipe",
    [
        AsIsRecipe(),
        RnaRecipe(min_features=430, n_top_features=100),
        RnaRecipe(min_features=0, scaling="domain"),
        AtacRecipe(min_features=430, n_top_features=100, normalization="tfidf"),
        AdtRecipe(),
    ],
)
@pytest.mark.parametrize("chunk_size", [1, 37, 299])
def test_the_fit_does_not_depend_on_the_chunk_size(
    demo_in_memory: InMemoryCells, recipe: Recipe, chunk_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once = recipe.fit(demo_in_memory)
    monkeypatch.setattr("scalex.preprocess.fitting.CHUNK_SIZE", chunk_size)
    in_chunks = recipe.fit(demo_in_memory)
    np.testing.assert_array_equal(in_chunks.rows, at_once.rows)
    one, other = (fitted.preprocessor.to_plain() for fitted in (in_chunks, at_once))
    np.testing.assert_array_equal(one.pop("maximum"), other.pop("maximum"))
    np.testing.assert_allclose(one.pop("mean"), other.pop("mean"), rtol=1e-6)
    np.testing.assert_array_equal(one.pop("weight"), other.pop("weight"))
    assert one == other


@pytest.mark.parametrize("scaling", ["global", "domain"])
@pytest.mark.parametrize("recipe", [AsIsRecipe, RnaRecipe, AtacRecipe, AdtRecipe])
def test_mean_is_the_mean_input_of_the_kept_cells(varied_demo: AnnData, recipe: type[Recipe], scaling: Any) -> None:
    values = varied_demo.X.toarray()
    values[9] = 0  # The mean includes a cell without counts.
    varied_demo.X = sparse.csr_matrix(values)
    cells = open_cells(varied_demo)
    options: dict[str, Any] = {} if recipe is AsIsRecipe else {"min_features": 320}
    if recipe in (RnaRecipe, AtacRecipe):
        options["n_top_features"] = 70
    if recipe is AtacRecipe:
        options["normalization"] = "tfidf"
    fitted = recipe(scaling=scaling, **options).fit(cells)
    assert (len(fitted.rows) < 300) == (recipe is not AsIsRecipe)
    inputs, _ = preprocess(fitted, cells)
    assert fitted.preprocessor.mean.dtype == np.float32
    np.testing.assert_allclose(fitted.preprocessor.mean, inputs.toarray().astype(np.float64).mean(0), rtol=1e-5)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize(("n_fractional", "expected"), [(0, False), (14, False), (16, True), (30, True)])
def test_values_are_fractional_if_those_of_most_cells_are(make_cells: MakeCells, recipe: Recipe, n_fractional: int, expected: bool) -> None:
    values = np.random.default_rng(0).poisson(4, (30, 10)).astype(float)
    values[:n_fractional, 0] = 1.25
    assert recipe.fit(make_cells(values)).preprocessor.fractional is expected


def test_every_cell_has_the_target_sum(demo_in_memory: InMemoryCells) -> None:
    fitted = RnaRecipe(min_features=0, min_cells=0, target_sum=500).fit(demo_in_memory)
    _, normalized = preprocess(fitted, demo_in_memory)
    np.testing.assert_allclose(np.expm1(normalized.toarray()).sum(1), 500, rtol=1e-5)


@pytest.mark.parametrize("scaling", ["global", "domain"])
@pytest.mark.parametrize("recipe", [AsIsRecipe, RnaRecipe])
def test_scaling_divides_by_the_maximum(demo_in_memory: InMemoryCells, scaling: Any, recipe: type[Recipe]) -> None:
    options = {"min_features": 0, "n_top_features": 80} if recipe is RnaRecipe else {}
    fitted = recipe(scaling=scaling, **options).fit(demo_in_memory)
    inputs, normalized = (matrix.toarray() for matrix in preprocess(fitted, demo_in_memory))
    normalized = normalized[:, fitted.preprocessor.kept_features.get_indexer(fitted.preprocessor.features)]
    domain = np.asarray(demo_in_memory.domain)
    for name in ("domain0", "domain1", "domain2"):
        own = domain == name
        maximum = normalized[own].max(0) if scaling == "domain" else normalized.max(0)
        np.testing.assert_allclose(inputs[own], normalized[own] / np.where(maximum > 0, maximum, 1), rtol=1e-6)


def test_as_is_keeps_all_cells_features_and_values(make_cells: MakeCells) -> None:
    values = np.random.default_rng(0).random((9, 4))
    values[:, 2] = 0
    values[5] = 0
    cells = make_cells(values, features=["MT-a", "ERCC", "x", "y"])
    fitted = AsIsRecipe().fit(cells)
    inputs, normalized = preprocess(fitted, cells)
    assert list(fitted.rows) == list(range(9))
    assert list(fitted.preprocessor.features) == list(fitted.preprocessor.kept_features) == ["MT-a", "ERCC", "x", "y"]
    np.testing.assert_array_equal(normalized.toarray(), values.astype(np.float32))
    np.testing.assert_allclose(inputs.toarray(), MaxAbsScaler().fit_transform(values), rtol=1e-6)


def test_empty_cells_and_features_give_finite_values(demo: AnnData) -> None:
    values = demo.X.toarray()
    values[[3, 40]] = 0
    values[:, [7, 8]] = 0
    demo.X = sparse.csr_matrix(values)
    cells = open_cells(demo)
    fitted = RnaRecipe(min_features=0, min_cells=0, n_top_features=498, scaling="domain").fit(cells)
    inputs, normalized = preprocess(fitted, cells)
    assert len(fitted.rows) == 300
    assert np.isfinite(inputs.data).all()
    assert np.isfinite(normalized.data).all()
    assert inputs[[3, 40]].nnz == normalized[[3, 40]].nnz == 0


def test_stored_zeros_are_not_detected_features(make_cells: MakeCells) -> None:
    values = np.random.default_rng(0).poisson(1, (40, 12)).astype(np.float32)
    with_zeros = sparse.csr_matrix(np.ones_like(values))
    with_zeros.data[:] = values.ravel()
    options = {"min_features": 7, "min_cells": 20, "n_top_features": 5}
    sparse_fit, stored_fit = (RnaRecipe(**options).fit(make_cells(matrix)) for matrix in (values, with_zeros))
    assert 0 < len(sparse_fit.rows) < 40
    np.testing.assert_array_equal(stored_fit.rows, sparse_fit.rows)
    assert list(stored_fit.preprocessor.kept_features) == list(sparse_fit.preprocessor.kept_features)
    assert list(stored_fit.preprocessor.features) == list(sparse_fit.preprocessor.features)


def test_one_cell_can_be_fitted(make_cells: MakeCells) -> None:
    cells = make_cells([[3, 0, 1]])
    inputs, _ = preprocess(RnaRecipe(min_features=0, min_cells=0).fit(cells), cells)
    np.testing.assert_array_equal(inputs.toarray(), [[1, 1]])


def test_a_domain_without_kept_cells_does_not_matter(demo: AnnData) -> None:
    values = demo.X.toarray()
    values[(demo.obs["batch"] == "domain1").to_numpy(), 5:] = 0
    demo.X = sparse.csr_matrix(values)
    fitted = RnaRecipe(min_features=100, n_top_features=50, min_cell_per_batch=0).fit(open_cells(demo))
    others = RnaRecipe(min_features=100, n_top_features=50).fit(open_cells(demo[demo.obs["batch"] != "domain1"].copy()))
    assert set(demo.obs["batch"].iloc[fitted.rows]) == {"domain0", "domain2"}
    assert list(fitted.preprocessor.features) == list(others.preprocessor.features)


def test_features_can_be_named(demo_in_memory: InMemoryCells, tmp_path: Path) -> None:
    names = ["gene40", "gene3", "gene200", "gene3"]
    path = tmp_path / "names.txt"
    path.write_text("\n".join(names) + "\n")
    for given in (names, tuple(names), str(path), path):
        fitted = RnaRecipe(min_features=0, n_top_features=given).fit(demo_in_memory)
        assert list(fitted.preprocessor.features) == ["gene40", "gene3", "gene200"]
        inputs, normalized = preprocess(fitted, demo_in_memory)
        columns = fitted.preprocessor.kept_features.get_indexer(["gene40", "gene3", "gene200"])
        np.testing.assert_allclose(inputs.toarray(), MaxAbsScaler().fit_transform(normalized.toarray()[:, columns]), rtol=1e-6)


def test_a_file_of_names_holds_one_name_per_line(make_cells: MakeCells, tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_text("CD3 total\nCD4\n\n")
    cells = make_cells(np.ones((4, 3)), features=["CD3 total", "CD4", "CD8"])
    assert list(RnaRecipe(min_features=0, n_top_features=path).fit(cells).preprocessor.features) == ["CD3 total", "CD4"]


def test_absent_features_are_logged(demo_in_memory: InMemoryCells, caplog: pytest.LogCaptureFixture) -> None:
    fitted = RnaRecipe(min_features=0, n_top_features=["gene1", "TP53", "MYC"]).fit(demo_in_memory)
    assert list(fitted.preprocessor.features) == ["gene1"]
    assert "2 of the features in n_top_features are not in the data: TP53, MYC" in caplog.text


def test_only_absent_features_are_an_error(demo_in_memory: InMemoryCells) -> None:
    with pytest.raises(ValueError, match=r"None of the features in n_top_features is in the data \(given: TP53, MYC; data: gene0, gene1"):
        RnaRecipe(min_features=0, n_top_features=["TP53", "MYC"]).fit(demo_in_memory)


def test_a_missing_file_of_names_is_an_error(demo_in_memory: InMemoryCells, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"n_top_features=.*absent\.txt: no such file\. Set a number, a list of names or a text"):
        RnaRecipe(min_features=0, n_top_features=tmp_path / "absent.txt").fit(demo_in_memory)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize(("value", "text"), [(np.nan, "nan"), (np.inf, "inf"), (-np.inf, "-inf"), (-2.5, r"-2\.5")])
@pytest.mark.parametrize("chunk_size", [20_000, 4])
def test_the_error_for_bad_values_names_the_first(
    make_cells: MakeCells, recipe: Recipe, value: float, text: str, chunk_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scalex.preprocess.fitting.CHUNK_SIZE", chunk_size)
    values = np.tile([[1.0, 0, 3, 2]], (10, 1))
    values[3] = 0
    values[5, 2] = value
    message = rf"1 values are negative, infinite or not a number; the first is {text} in cell c5, feature g2\. .*preprocess=none"
    with pytest.raises(ValueError, match=message):
        recipe.fit(make_cells(values))


def test_bad_values_of_dropped_features_are_an_error(make_cells: MakeCells) -> None:
    with pytest.raises(ValueError, match=r"2 values are negative, .* first is -1\.0 in cell c0, feature MT-a"):
        RnaRecipe(min_features=0).fit(make_cells([[-1, 1], [2, -3]], features=["MT-a", "b"]))


def test_fractional_values_give_a_warning(make_cells: MakeCells, caplog: pytest.LogCaptureFixture) -> None:
    values = np.random.default_rng(0).poisson(2, (30, 10)).astype(float)
    values[:20] = np.log1p(values[:20])
    RnaRecipe(min_features=0).fit(make_cells(values))
    assert "The values look normalized: 20 of 30 cells have fractional values. If they are, use preprocess=none" in caplog.text


def test_counts_of_the_same_total_look_normalized(demo_in_memory: InMemoryCells, caplog: pytest.LogCaptureFixture) -> None:
    values = demo_in_memory.matrix / demo_in_memory.matrix.sum(1) * 1e5
    RnaRecipe(min_features=0).fit(replace(demo_in_memory, matrix=sparse.csr_matrix(values, dtype=np.float32)))
    assert "The values look normalized: 300 of 300 cells" in caplog.text


@pytest.mark.parametrize("share", [0.99, 0.5])
def test_corrected_counts_do_not_look_normalized(demo_in_memory: InMemoryCells, caplog: pytest.LogCaptureFixture, share: float) -> None:
    matrix = demo_in_memory.matrix.copy()
    rng = np.random.default_rng(0)
    matrix.data = matrix.data * 30 - rng.random(len(matrix.data), np.float32) * (rng.random(len(matrix.data)) < share)
    caplog.set_level(logging.INFO)
    RnaRecipe(min_features=0).fit(replace(demo_in_memory, matrix=matrix))
    assert "look normalized" not in caplog.text
    assert "300 of 300 cells have fractional values, which are taken for corrected or estimated counts" in caplog.text


def test_counts_that_are_only_scaled_give_a_warning(demo_in_memory: InMemoryCells, caplog: pytest.LogCaptureFixture) -> None:
    AsIsRecipe().fit(demo_in_memory)
    assert "All values are whole numbers, as counts are, but they are only scaled" in caplog.text
    caplog.clear()
    AsIsRecipe().fit(replace(demo_in_memory, matrix=demo_in_memory.matrix.sign()))
    assert caplog.text == ""


def test_counts_and_values_used_as_they_are_give_no_warning(
    make_cells: MakeCells, demo_in_memory: InMemoryCells, caplog: pytest.LogCaptureFixture
) -> None:
    RnaRecipe(min_features=0).fit(demo_in_memory)
    AsIsRecipe().fit(make_cells([[0.5, 0.1]]))
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_the_error_for_no_kept_cell_names_a_lower_limit(demo_in_memory: InMemoryCells) -> None:
    largest = int(np.diff(demo_in_memory.matrix.indptr).max())
    message = (
        rf"min_features=600 drops all 300 cells: no cell has more than {largest} detected features\. Use min_features={largest} or less\."
    )
    with pytest.raises(ValueError, match=message):
        RnaRecipe(min_features=600).fit(demo_in_memory)
    assert len(RnaRecipe(min_features=largest, min_cells=1).fit(demo_in_memory).rows) >= 1


def test_the_error_for_no_kept_feature_names_a_lower_limit(make_cells: MakeCells) -> None:
    cells = make_cells(np.eye(5) + np.eye(5, k=1))
    with pytest.raises(ValueError, match=r"min_cells=3 drops all features: no feature is in more than 2 cells\. Use min_cells=2 or less\."):
        RnaRecipe(min_features=0).fit(cells)
    assert len(RnaRecipe(min_features=0, min_cells=2).fit(cells).preprocessor.features) == 4


def test_the_error_for_empty_cells_names_no_lower_limit(make_cells: MakeCells) -> None:
    with pytest.raises(ValueError, match="All 4 cells are empty") as error:
        RnaRecipe(min_features=0).fit(make_cells(np.zeros((4, 3))))
    assert "min_cells=0" not in str(error.value)


def test_the_error_for_no_feature_with_an_allowed_name_names_the_option(make_cells: MakeCells) -> None:
    cells = make_cells(np.ones((4, 3)), features=["MT-1", "mt-2", "ERCC-3"])
    with pytest.raises(ValueError, match=r"keep_mt=false drops all features: each name starts with ERCC, MT- or mt-\. Use keep_mt=true"):
        RnaRecipe(min_features=0).fit(cells)
    assert len(RnaRecipe(min_features=0, keep_mt=True).fit(cells).preprocessor.features) == 3


def test_filters_log_how_much_they_keep(varied_demo: AnnData, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    RnaRecipe(min_features=1, n_top_features=50).fit(open_cells(varied_demo))
    assert "Keeps features ERCC*, MT-*, mt-* (keep_mt=false): 497 of 500" in caplog.text
    assert "Keeps cells with >= 1 features (min_features): 300 of 300" in caplog.text
    assert "Keeps features in >= 3 cells (min_cells): 492 of 497" in caplog.text
    assert "Uses 50 input features" in caplog.text


@pytest.mark.parametrize(
    ("recipe", "options", "message"),
    [
        (RnaRecipe, {"scaling": "batch"}, "scaling=batch: one of global, domain is needed"),
        (AsIsRecipe, {"scaling": "batch"}, "scaling=batch: one of global, domain is needed"),
        (AtacRecipe, {"normalization": "clr"}, "normalization=clr: one of total, tfidf is needed"),
        (AtacRecipe, {"n_top_features": 0}, "n_top_features=0: a number of features, a list of their names"),
        (AdtRecipe, {"scaling": "batch"}, "scaling=batch: one of global, domain is needed"),
        (RnaRecipe, {"n_top_features": -5}, "n_top_features=-5: a number of features, a list of their names"),
        (RnaRecipe, {"n_top_features": 1.5}, r"n_top_features=1\.5: a number of features, a list of their names"),
        (RnaRecipe, {"n_top_features": float("nan")}, "n_top_features=nan: a number of features, a list of their names"),
        (RnaRecipe, {"n_top_features": [True, False]}, r"n_top_features=\[True, False\]: a number of features, a list of their names \(as"),
        (RnaRecipe, {"n_top_features": np.array([True, False])}, r"n_top_features=\[True, False\]: a number of features"),
        (RnaRecipe, {"target_sum": 0}, "target_sum=0: a number above 0 is needed"),
        (RnaRecipe, {"n_top_features": 0}, "n_top_features=0: a number of features, a list of their names"),
    ],
)
def test_wrong_options_are_refused(recipe: type[Recipe], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recipe(**options)


def test_a_filter_that_drops_most_cells_gives_a_warning(demo_in_memory: InMemoryCells, caplog: pytest.LogCaptureFixture) -> None:
    detected = np.sort(np.diff(demo_in_memory.matrix.indptr))
    RnaRecipe(min_features=int(detected[-30])).fit(demo_in_memory)
    assert f"min_features={detected[-30]} drops 90 % of the cells" in caplog.text
    caplog.clear()
    RnaRecipe(min_features=int(detected[30])).fit(demo_in_memory)
    assert "drops" not in caplog.text


@pytest.mark.parametrize("normalization", ["total", "tfidf"])
@pytest.mark.parametrize("binarize", [False, True])
def test_the_result_for_peaks_is_that_of_numpy(make_cells: MakeCells, normalization: Any, binarize: bool) -> None:
    counts = np.random.default_rng(0).poisson(np.linspace(0.02, 1.5, 80), (200, 80)).astype(np.float32)
    cells = make_cells(counts)
    recipe = AtacRecipe(min_features=30, min_cells=5, n_top_features=20, binarize=binarize, normalization=normalization)
    fitted = recipe.fit(cells)
    kept = (counts > 0).sum(1) >= 30
    np.testing.assert_array_equal(fitted.rows, np.flatnonzero(kept))
    values = (counts[kept] > 0).astype(float) if binarize else counts[kept].astype(float)
    n_cells = (values > 0).sum(0)
    frequency = values / values.sum(1, keepdims=True)
    expected = np.log1p(1e4 * frequency * (len(values) / np.maximum(n_cells, 1) if normalization == "tfidf" else 1))
    chosen = np.sort(np.argsort(-n_cells, kind="stable")[:20])
    assert list(fitted.preprocessor.features) == list(cells.var.index[chosen])
    inputs, normalized = preprocess(fitted, cells)
    np.testing.assert_allclose(normalized.toarray(), expected[:, n_cells >= 5], rtol=1e-5)
    np.testing.assert_allclose(inputs.toarray(), expected[:, chosen] / expected[:, chosen].max(0), rtol=1e-5)


def test_proteins_become_centred_log_ratios(make_cells: MakeCells) -> None:
    counts = np.random.default_rng(0).poisson(np.linspace(0.5, 30, 12), (50, 12)).astype(np.float32)
    cells = make_cells(counts)
    fitted = AdtRecipe().fit(cells)
    expected = np.log1p(counts / gmean(1 + counts, axis=1)[:, None])
    inputs, normalized = preprocess(fitted, cells)
    np.testing.assert_allclose(normalized.toarray(), expected, rtol=1e-5)
    np.testing.assert_allclose(inputs.toarray(), expected / expected.max(0), rtol=1e-5)
    # Zeros stay 0.
    assert (normalized.toarray() > 0).sum() == (counts > 0).sum()


@pytest.mark.parametrize("given", [200, 200.0, "200", "200.0", np.int64(200)])
def test_a_number_of_features_may_be_given_in_any_form(given: Any) -> None:
    assert RnaRecipe(n_top_features=given).n_top_features == 200


def test_a_list_of_names_may_begin_with_a_mark_of_its_byte_order(demo_in_memory: InMemoryCells, tmp_path: Path) -> None:
    names = list(demo_in_memory.var.index[:3])
    (tmp_path / "names.txt").write_text("\n".join(names), encoding="utf-8-sig")
    fitted = RnaRecipe(min_features=0, n_top_features=tmp_path / "names.txt").fit(demo_in_memory)
    assert list(fitted.preprocessor.features) == names
