from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import sparse, stats
from torch import Tensor
from torch.distributions import NegativeBinomial as Distribution

from scalex.nn import SparseRows, reconstruction_loss
from scalex.nn.batch import CellBatch
from scalex.nn.likelihood import MAX_TOTAL, Bernoulli, NegativeBinomial

N_CELLS, N_FEATURES = 9, 6
TARGET = 1000.0
DOMAIN = np.arange(N_CELLS) % 2
UNITS = np.linspace(5, 9, 2 * N_FEATURES, dtype=np.float32).reshape(2, N_FEATURES)


def make_counts() -> NDArray[np.float32]:
    """Return counts of which each cell has a 1."""
    counts = np.random.default_rng(0).poisson(2.0, (N_CELLS, N_FEATURES)).astype(np.float32)
    counts[:, 0] = 1
    return counts


def make_batch(counts: NDArray[np.float32], unit: NDArray[np.float32] = UNITS) -> tuple[Tensor, CellBatch]:
    """Return inputs as preprocessing makes them: log(1 + counts per `TARGET`), divided by the unit."""
    normalized = np.log1p(counts * (TARGET / np.maximum(counts.sum(1, keepdims=True), 1e-30)))
    rows = SparseRows.of(sparse.csr_matrix((normalized / (unit[DOMAIN] if len(unit) > 1 else unit)).astype(np.float32)))
    return rows.dense(), CellBatch(rows, torch.from_numpy(DOMAIN), torch.arange(len(counts)))


def make_decoded() -> Tensor:
    return torch.randn(N_CELLS, N_FEATURES, generator=torch.Generator().manual_seed(0)) + 4


def make_likelihood(unit: NDArray[np.float32] = UNITS) -> NegativeBinomial:
    likelihood = NegativeBinomial(torch.from_numpy(unit))
    likelihood.log_dispersion_G.data.normal_(generator=torch.Generator().manual_seed(1))
    return likelihood


@pytest.mark.parametrize("unit", [UNITS[:1], UNITS], ids=["one unit", "units of domains"])
def test_the_loss_is_the_negative_binomial_of_scipy(unit: NDArray[np.float32]) -> None:
    counts, decoded, likelihood = make_counts(), make_decoded(), make_likelihood(unit)
    dispersion = np.exp(likelihood.log_dispersion_G.detach().double().numpy())
    mean = np.exp(decoded.double().numpy()) * (counts.sum(1, keepdims=True) / TARGET)
    # scipy counts failures before `dispersion` successes of probability dispersion / (dispersion + mean).
    expected = -stats.nbinom.logpmf(counts, dispersion, dispersion / (dispersion + mean)).sum()
    assert likelihood(decoded, *make_batch(counts, unit)).item() == pytest.approx(expected, rel=1e-4)


def test_the_gradients_are_those_of_the_distribution() -> None:
    counts, decoded, likelihood = make_counts(), make_decoded().requires_grad_(), make_likelihood()
    (3 * likelihood(decoded, *make_batch(counts))).backward()
    log_mean = decoded.detach().double().requires_grad_()
    log_dispersion = likelihood.log_dispersion_G.detach().double().requires_grad_()
    count = torch.from_numpy(counts).double()
    logits = log_mean + torch.log(count.sum(1, keepdim=True) / TARGET) - log_dispersion
    (-3 * Distribution(log_dispersion.exp(), logits=logits).log_prob(count).sum()).backward()
    for found, expected in ((decoded.grad, log_mean.grad), (likelihood.log_dispersion_G.grad, log_dispersion.grad)):
        assert found is not None
        assert expected is not None
        torch.testing.assert_close(found, expected.float(), rtol=1e-3, atol=1e-3)


def test_a_cell_without_counts_says_nothing() -> None:
    counts, decoded, likelihood = make_counts(), make_decoded().requires_grad_(), make_likelihood()
    counts[4] = 0
    likelihood(decoded, *make_batch(counts)).backward()
    assert decoded.grad is not None
    assert decoded.grad[4].abs().max() < 1e-4 < decoded.grad[3].abs().max()


def test_a_tiny_value_is_not_one_count() -> None:
    counts = make_counts()
    counts[:, 1] = 1e-9
    counts[:, 2] = 5e3
    _, batch = make_batch(counts)
    count_N, size_C = make_likelihood()._count(batch.rows, batch.domain_C)
    total_C = torch.zeros(N_CELLS).index_add_(0, batch.rows.rows(), count_N)
    torch.testing.assert_close(total_C, torch.full((N_CELLS,), MAX_TOTAL))
    torch.testing.assert_close(size_C, torch.full((N_CELLS,), MAX_TOTAL / TARGET))


def test_extreme_reconstructions_have_finite_losses_and_gradients() -> None:
    decoded = torch.tensor([[200.0, -200.0] * (N_FEATURES // 2)] * N_CELLS).requires_grad_()
    loss = make_likelihood()(decoded, *make_batch(make_counts()))
    loss.backward()
    assert decoded.grad is not None
    assert torch.isfinite(loss)
    assert torch.isfinite(decoded.grad).all()


def test_the_loss_is_computed_in_float32() -> None:
    x, batch = make_batch(make_counts())
    for likelihood in (make_likelihood(), Bernoulli(torch.from_numpy(UNITS))):
        assert likelihood(make_decoded().bfloat16(), x, batch).dtype == torch.float32
        assert likelihood.expression(make_decoded().bfloat16(), batch.domain_C).dtype == torch.float32


def test_the_shift_is_the_best_single_reconstruction() -> None:
    counts, likelihood = np.tile(make_counts(), (30, 1)), make_likelihood(UNITS[:1])
    normalized = np.log1p(counts * (TARGET / counts.sum(1, keepdims=True))) / UNITS[0]
    rows = SparseRows.of(sparse.csr_matrix(normalized.astype(np.float32)))
    shift = likelihood.shift(rows, torch.zeros(len(counts), dtype=torch.int64))
    np.testing.assert_allclose(np.exp(shift.numpy()), counts.sum(0) / counts.sum() * TARGET, rtol=0.05)


def test_the_shift_of_probabilities_is_the_logit_of_their_mean() -> None:
    x, batch = make_batch(make_counts())
    shift = Bernoulli(torch.from_numpy(UNITS)).shift(batch.rows, batch.domain_C)
    torch.testing.assert_close(torch.sigmoid(shift), x.mean(0).clamp(1e-4, 1 - 1e-4))


def test_the_loss_of_probabilities_is_the_cross_entropy() -> None:
    x, batch = make_batch(make_counts())
    likelihood = Bernoulli(torch.from_numpy(UNITS))
    torch.testing.assert_close(likelihood(make_decoded(), x, batch), reconstruction_loss(make_decoded(), x))


def test_expression_is_in_the_units_of_the_domain() -> None:
    decoded, domain = make_decoded(), torch.from_numpy(DOMAIN)
    torch.testing.assert_close(NegativeBinomial(torch.from_numpy(UNITS)).expression(decoded, domain), torch.log1p(decoded.exp()))
    expected = torch.sigmoid(decoded) * torch.from_numpy(UNITS)[domain]
    torch.testing.assert_close(Bernoulli(torch.from_numpy(UNITS)).expression(decoded, domain), expected)
    torch.testing.assert_close(
        Bernoulli(torch.from_numpy(UNITS[:1])).expression(decoded, domain), torch.sigmoid(decoded) * torch.from_numpy(UNITS[0])
    )
