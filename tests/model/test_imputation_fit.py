from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy import sparse, stats

from scalex.model import imputation_fit
from scalex.model.imputation_fit import ImputationFit

N_CELLS, N_FEATURES = 200, 6


@pytest.fixture
def decoded() -> NDArray[np.float32]:
    return np.random.default_rng(0).gamma(2.0, 0.5, (N_CELLS, N_FEATURES)).astype(np.float32)


@pytest.fixture
def observed(decoded: NDArray[np.float32]) -> sparse.csr_matrix:
    noisy = decoded * np.linspace(0.5, 1.5, N_FEATURES) + np.random.default_rng(1).normal(0, 0.5, decoded.shape)
    return sparse.csr_matrix(np.maximum(noisy, 0).astype(np.float32))


@pytest.mark.parametrize("rows_per_piece", [7, 1024])
def test_slopes_and_correlations_are_those_of_scipy(
    decoded: NDArray[np.float32], observed: sparse.csr_matrix, rows_per_piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imputation_fit, "ROWS_PER_PIECE", rows_per_piece)
    found = ImputationFit.of(decoded, observed).describe(np.ones(N_FEATURES, bool))
    for i in range(N_FEATURES):
        expected = stats.linregress(decoded[:, i], observed[:, [i]].toarray().ravel())
        assert found["impute_slope"][i] == pytest.approx(expected.slope)
        assert found["impute_correlation"][i] == pytest.approx(expected.rvalue)


def test_parts_add_up(decoded: NDArray[np.float32], observed: sparse.csr_matrix) -> None:
    parts = ImputationFit.of(decoded[:30], observed[:30]).add(ImputationFit.of(decoded[30:], observed[30:]))
    whole = ImputationFit.of(decoded, observed)
    measured = np.ones(N_FEATURES, bool)
    pd.testing.assert_frame_equal(parts.describe(measured), whole.describe(measured))


def test_what_does_not_vary_or_was_not_measured_has_no_slope(decoded: NDArray[np.float32], observed: sparse.csr_matrix) -> None:
    decoded[:, 1] = 0.7
    observed = observed.tolil()
    observed[:, 2] = 0
    measured = np.arange(N_FEATURES) != 3
    found = ImputationFit.of(decoded, observed.tocsr()).describe(measured)
    assert list(np.flatnonzero(found["impute_slope"].isna())) == [1, 2, 3]
    assert list(np.flatnonzero(found["impute_correlation"].isna())) == [1, 2, 3]


def test_annotation_gets_columns(decoded: NDArray[np.float32], observed: sparse.csr_matrix, caplog: pytest.LogCaptureFixture) -> None:
    var = pd.DataFrame({"id": range(N_FEATURES)}, index=[f"g{i}" for i in range(N_FEATURES)])
    with caplog.at_level("INFO", logger="scalex"):
        found = ImputationFit.of(decoded, observed).add_to(var, np.ones(N_FEATURES, bool), "some cells")
    assert list(found.columns) == ["id", "impute_slope", "impute_correlation"]
    assert list(var.columns) == ["id"]
    assert "Imputed 6 features: the median slope of observed on decoded expression is" in caplog.text
    assert "over some cells" in caplog.text
