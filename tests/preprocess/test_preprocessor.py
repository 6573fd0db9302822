from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
from numpy.typing import NDArray
from scipy import sparse

from scalex.cells import InMemoryCells
from scalex.preprocess import AdtRecipe, AsIsRecipe, AtacRecipe, Preprocessor, Recipe, RnaRecipe

RECIPES = {
    "counts": RnaRecipe(min_features=0, n_top_features=100),
    "counts, scaled by domain": RnaRecipe(min_features=0, n_top_features=100, scaling="domain"),
    "peaks": AtacRecipe(min_features=0, n_top_features=100, binarize=True, normalization="tfidf"),
    "peaks, counts, total, scaled by domain": AtacRecipe(min_features=0, n_top_features=100, scaling="domain"),
    "proteins": AdtRecipe(min_features=0),
    "as they are": AsIsRecipe(),
    "as they are, scaled by domain": AsIsRecipe(scaling="domain"),
}


@pytest.fixture(params=RECIPES.values(), ids=RECIPES)
def preprocessor(request: pytest.FixtureRequest, demo_in_memory: InMemoryCells) -> Preprocessor:
    recipe: Recipe = request.param
    return recipe.fit(demo_in_memory).preprocessor


@pytest.fixture
def domain(demo_in_memory: InMemoryCells) -> NDArray[np.int64]:
    return demo_in_memory.domain.codes.astype(np.int64)


def process_by_hand(preprocessor: Preprocessor, values: pd.DataFrame, domain: NDArray[np.int64]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return model input and normalized expression, computed cell by cell."""
    rows, inputs = [], []
    for (_, cell), code in zip(values.iterrows(), domain, strict=True):
        normalized = cell.astype(np.float64)
        if preprocessor.binarize:
            normalized = (normalized > 0).astype(np.float64)
        if preprocessor.total_features is not None:
            counted = normalized[[name for name in cell.index if name in preprocessor.total_features]]
            if preprocessor.normalization == "clr":
                normalized = normalized / scipy.stats.gmean(1 + counted)
            else:
                normalized = normalized / counted.sum() * preprocessor.target_sum
            if preprocessor.normalization == "tfidf":
                weight = pd.Series(preprocessor.weight, preprocessor.kept_features)
                normalized = normalized * weight.reindex(normalized.index).fillna(0)
            normalized = np.log1p(normalized)
        rows.append([normalized.get(name, 0) for name in preprocessor.kept_features])
        overall = preprocessor.maximum.max(0)
        maximum = preprocessor.maximum[code] if preprocessor.scaling == "domain" and code >= 0 else overall
        inputs.append(
            [
                min(normalized.get(name, 0) / (largest if largest > 0 else 1), 1)
                for name, largest in zip(preprocessor.features, maximum, strict=True)
            ]
        )
    return pd.DataFrame(inputs, columns=preprocessor.features), pd.DataFrame(rows, columns=preprocessor.kept_features)


@pytest.mark.parametrize("case", ["as fitted", "another order", "extra features", "missing features", "larger values"])
def test_a_query_is_processed_as_by_hand(preprocessor: Preprocessor, demo_in_memory: InMemoryCells, case: str) -> None:
    rng = np.random.default_rng(0)
    query = pd.DataFrame(demo_in_memory.matrix[::30].toarray(), columns=demo_in_memory.var.index).astype(np.float32)
    domain = rng.integers(-1, 3, len(query))
    if case == "another order":
        query = query.iloc[:, rng.permutation(500)]
    elif case == "extra features":
        query = query.assign(**{f"new{i}": rng.poisson(5, len(query)).astype(np.float32) for i in range(20)}).sample(
            frac=1, axis=1, random_state=1
        )
    elif case == "missing features":
        query = query.iloc[:, rng.permutation(500)[:300]]
    elif case == "larger values":
        query = query.mul(rng.integers(1, 50, 500).astype(np.float32), axis=1)
    expected_inputs, expected_normalized = process_by_hand(preprocessor, query, domain)
    transform = preprocessor.for_features(query.columns)
    rows = sparse.csr_matrix(query.to_numpy())
    inputs, normalized = transform(rows, domain), transform.normalized(rows)
    for found, expected in ((inputs, expected_inputs), (normalized, expected_normalized)):
        assert isinstance(found, sparse.csr_matrix)
        assert found.dtype == np.float32
        assert found.has_sorted_indices
        np.testing.assert_allclose(found.toarray(), expected.to_numpy(), rtol=2e-5)
    assert 0 <= inputs.min() <= inputs.max() <= 1
    # Binary values do not become larger.
    assert case != "larger values" or preprocessor.binarize or inputs.max() == 1


@pytest.mark.parametrize("case", ["subset", "order", "one by one", "chunks"])
def test_the_result_for_a_cell_depends_on_that_cell_alone(
    preprocessor: Preprocessor, demo_in_memory: InMemoryCells, domain: NDArray[np.int64], case: str
) -> None:
    rng = np.random.default_rng(0)
    parts = {
        "subset": [rng.choice(300, 50, replace=False)],
        "order": [rng.permutation(300)],
        "one by one": [np.array([i]) for i in range(0, 300, 7)],
        "chunks": np.array_split(np.arange(300), 11),
    }[case]
    transform = preprocessor.for_features(demo_in_memory.var.index)
    inputs, normalized = transform(demo_in_memory.matrix, domain), transform.normalized(demo_in_memory.matrix)
    for rows in parts:
        read = demo_in_memory.read(rows)
        np.testing.assert_array_equal(transform(read, domain[rows]).toarray(), inputs[rows].toarray())
        np.testing.assert_array_equal(transform.normalized(read).toarray(), normalized[rows].toarray())


def test_features_are_matched_by_name(preprocessor: Preprocessor, demo_in_memory: InMemoryCells, domain: NDArray[np.int64]) -> None:
    order = np.random.default_rng(0).permutation(500)
    junk = sparse.csr_matrix(np.full((300, 3), 9, np.float32))
    names = demo_in_memory.var.index[order].append(pd.Index(["x", "y", "z"]))
    rows = sparse.hstack([demo_in_memory.matrix[:, order], junk], format="csr")
    as_fitted = preprocessor.for_features(demo_in_memory.var.index)(demo_in_memory.matrix, domain)
    np.testing.assert_array_equal(preprocessor.for_features(names)(rows, domain).toarray(), as_fitted.toarray())


def test_a_value_above_the_frozen_maximum_becomes_one(preprocessor: Preprocessor, demo_in_memory: InMemoryCells) -> None:
    row = np.zeros((1, 500), np.float32)
    at = demo_in_memory.var.index.get_loc(preprocessor.features[4])
    row[0, at] = 1e6
    for code in (-1, 0, 2):
        found = preprocessor.for_features(demo_in_memory.var.index)(sparse.csr_matrix(row), np.array([code])).toarray()
        assert found[0, 4] == 1
        assert np.count_nonzero(found) == 1


def test_a_query_without_known_features_is_zero(preprocessor: Preprocessor) -> None:
    found = preprocessor.for_features(pd.Index(["x", "y"]))(sparse.csr_matrix(np.ones((3, 2), np.float32)), np.array([0, 1, -1]))
    assert found.shape == (3, len(preprocessor.features))
    assert found.nnz == 0


def test_the_rows_do_not_change(preprocessor: Preprocessor, demo_in_memory: InMemoryCells, domain: NDArray[np.int64]) -> None:
    before = demo_in_memory.matrix.copy()
    preprocessor.for_features(demo_in_memory.var.index)(demo_in_memory.matrix, domain)
    np.testing.assert_array_equal(demo_in_memory.matrix.data, before.data)


def save_and_load(plain: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(plain, file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded


def test_the_plain_form_can_be_saved_in_a_checkpoint(
    preprocessor: Preprocessor, demo_in_memory: InMemoryCells, domain: NDArray[np.int64]
) -> None:
    loaded = Preprocessor.from_plain(save_and_load(preprocessor.to_plain()))
    names, rows = demo_in_memory.var.index, demo_in_memory.matrix
    for codes in (domain, np.full(300, -1)):
        found, expected = loaded.for_features(names)(rows, codes), preprocessor.for_features(names)(rows, codes)
        np.testing.assert_array_equal(found.toarray(), expected.toarray())
    one, other = loaded.to_plain(), preprocessor.to_plain()
    assert torch.equal(one.pop("maximum"), other.pop("maximum"))
    assert torch.equal(one.pop("mean"), other.pop("mean"))
    np.testing.assert_array_equal(one.pop("weight"), other.pop("weight"))
    assert one == other


def test_the_plain_form_has_no_text_of_numpy(preprocessor: Preprocessor) -> None:
    """Such text is an instance of `str`, but safe loading refuses it."""

    def convert(names: Iterable[str]) -> list[str]:
        return [np.str_(name) for name in names]

    features = {name: pd.Index(convert(getattr(preprocessor, name)), dtype=object) for name in ("features", "kept_features")}
    changed = replace(preprocessor, domains=tuple(convert(preprocessor.domains)), total_features=features["kept_features"], **features)
    loaded = save_and_load(changed.to_plain())
    assert {type(name) for key in ("features", "expressed", "total_features", "domains") for name in loaded[key]} == {str}


def test_the_plain_form_is_a_copy(preprocessor: Preprocessor) -> None:
    for name in ("maximum", "mean"):
        before = getattr(preprocessor, name).copy()
        preprocessor.to_plain()[name].zero_()
        np.testing.assert_array_equal(getattr(preprocessor, name), before)


def test_the_fill_value_of_missing_features_is_their_mean_input(preprocessor: Preprocessor, demo_in_memory: InMemoryCells) -> None:
    names = demo_in_memory.var.index
    assert preprocessor.for_features(names).fill_value is None
    assert preprocessor.for_features(names[::-1].append(pd.Index(["x"]))).fill_value is None
    missing = preprocessor.features[[3, 8, 40]]
    fill_value = preprocessor.for_features(names.drop(missing)).fill_value
    assert fill_value is not None
    assert fill_value.dtype == np.float32
    expected = np.where(preprocessor.features.isin(missing), preprocessor.mean, 0)
    assert (expected > 0).sum() == 3
    np.testing.assert_array_equal(fill_value, expected)


def test_detected_features_are_counted_among_the_known_ones(demo_in_memory: InMemoryCells) -> None:
    preprocessor = RECIPES["counts"].fit(demo_in_memory).preprocessor
    values = demo_in_memory.matrix[:20].toarray()
    values[:, 7] = 0
    rows = sparse.hstack([sparse.csr_matrix(values), sparse.csr_matrix(np.full((20, 2), 5, np.float32))], format="csr")
    rows.data[rows.data == values[0].max()] = 0  # Stored zeros are not detected.
    names = demo_in_memory.var.index.append(pd.Index(["x", "y"]))
    expected = np.count_nonzero(rows.toarray()[:, :500], axis=1)
    np.testing.assert_array_equal(preprocessor.for_features(names).count_detected(rows), expected)


def change(name: str, change_value: Any) -> Any:
    return lambda plain: plain | {name: change_value(plain[name])}


def fill(value: float) -> Any:
    return lambda tensor: torch.full_like(tensor, value)


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (change("normalization", lambda _: "evil"), "normalization is 'evil'"),
        (change("scaling", lambda _: "none"), "scaling is 'none'"),
        (change("features", lambda names: [names[0]] * len(names)), "names of features are repeated"),
        (change("features", lambda names: ["other", *names[1:]]), "input features are not among the kept features"),
        (change("total_features", lambda names: [*names, names[0]]), "names of the features of the total are repeated"),
        (change("domains", lambda names: [names[0]] * len(names)), "names of domains are repeated"),
        (change("domains", lambda names: []), "there are no features or no domains"),
        (change("maximum", fill(np.nan)), "the maxima are not those"),
        (change("maximum", fill(-1)), "the maxima are not those"),
        (change("maximum", lambda values: values[:1]), "the maxima are not those"),
        (change("mean", fill(np.nan)), "the means are not those"),
        (change("mean", fill(7)), "the means are not those"),
        (change("mean", lambda values: values[1:]), "the means are not those"),
        (change("weight", fill(np.inf)), "the factors are not those"),
        (change("weight", lambda values: values[1:]), "the factors are not those"),
        (change("target_sum", lambda _: 0.0), r"target_sum is 0\.0"),
        (change("target_sum", lambda _: float("nan")), "target_sum is nan"),
        (change("min_features", lambda _: -1), "min_features is -1"),
    ],
)
def test_values_that_no_training_makes_are_refused(demo_in_memory: InMemoryCells, damage: Any, problem: str) -> None:
    plain = RECIPES["peaks"].fit(demo_in_memory).preprocessor.to_plain()
    Preprocessor.from_plain(plain)
    with pytest.raises(ValueError, match=rf"The preprocessing is damaged: {problem}"):
        Preprocessor.from_plain(damage(plain))
