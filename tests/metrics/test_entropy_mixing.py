from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from scalex.metrics import BatchEntropyMixing, batch_entropy_mixing, find_nearest, shared_mixing


def compute_by_loop(latent: NDArray[np.float32], domain: NDArray[np.int64], n_neighbors: int) -> float:
    """Return the score from all distances, cell by cell."""
    names = sorted(set(domain.tolist()))
    overall = {name: sum(d == name for d in domain) / len(domain) for name in names}
    entropies = []
    for i, cell in enumerate(latent):
        distances = sorted((float(((cell - other) ** 2).sum()), j) for j, other in enumerate(latent.astype(np.float64)) if j != i)
        near = [domain[j] for _, j in distances[:n_neighbors]]
        quotients = [near.count(name) / len(near) / overall[name] for name in names]
        shares = [quotient / sum(quotients) for quotient in quotients]
        entropies.append(-sum(share * math.log(share) for share in shares if share > 0) / math.log(len(names)))
    return sum(entropies) / len(entropies)


@pytest.fixture
def latent() -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=(120, 4)).astype(np.float32)


@pytest.mark.parametrize("n_domains", [2, 3, 6])
@pytest.mark.parametrize("n_neighbors", [1, 15, 100, 500])
@pytest.mark.parametrize("shift", [0, 1, 20])
def test_the_score_is_that_of_a_loop_over_cells(latent: NDArray[np.float32], n_domains: int, n_neighbors: int, shift: int) -> None:
    share = 0.5 ** np.arange(n_domains)
    domain = np.random.default_rng(1).choice(n_domains, 120, p=share / share.sum())
    latent[:, 0] += shift * domain
    assert batch_entropy_mixing(latent, domain, n_neighbors=n_neighbors) == pytest.approx(
        compute_by_loop(latent, domain, n_neighbors), abs=1e-6
    )


def test_cells_at_the_same_place_are_not_their_own_neighbours() -> None:
    latent = np.repeat(np.random.default_rng(0).normal(size=(30, 2)), 2, axis=0).astype(np.float32)
    assert batch_entropy_mixing(latent, np.tile(["a", "b"], 30), n_neighbors=1) == 0
    assert batch_entropy_mixing(latent, np.repeat(["a", "b"], 30), n_neighbors=1) == 0


@pytest.mark.parametrize("shares", [[0.5, 0.5], [0.9, 0.1], [0.6, 0.3, 0.1]])
def test_perfect_mixing_scores_near_one_for_all_sizes_of_domains(shares: list[float]) -> None:
    rng = np.random.default_rng(0)
    domain = rng.choice(len(shares), 1500, p=shares)
    assert 0.95 < batch_entropy_mixing(rng.normal(size=(1500, 2)).astype(np.float32), domain) <= 1


def test_neighbourhoods_of_all_cells_score_near_one(latent: NDArray[np.float32]) -> None:
    # The score is not exactly 1, since a neighbourhood lacks the cell itself.
    assert batch_entropy_mixing(latent, np.arange(120) % 2, n_neighbors=119) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("sizes", [[150, 150], [101, 400, 130]])
def test_separate_domains_score_zero(sizes: list[int]) -> None:
    domain = np.repeat(np.arange(len(sizes)), sizes)
    latent = np.random.default_rng(0).normal(size=(sum(sizes), 2)) + 1000 * domain[:, None]
    assert batch_entropy_mixing(latent.astype(np.float32), domain) == 0


def test_names_of_domains_do_not_matter(latent: NDArray[np.float32]) -> None:
    domain = np.arange(120) % 3
    assert batch_entropy_mixing(latent, np.array(["x", "a", "m"])[domain]) == pytest.approx(batch_entropy_mixing(latent, domain))


def test_one_domain_is_an_error(latent: NDArray[np.float32]) -> None:
    with pytest.raises(ValueError, match=r"Entropy mixing needs at least two domains; there is one\."):
        batch_entropy_mixing(latent, np.zeros(120))


@pytest.mark.parametrize("n_parts", [1, 3, 120])
def test_the_metric_of_parts_is_the_score_of_the_whole(latent: NDArray[np.float32], n_parts: int) -> None:
    domain = np.random.default_rng(0).integers(3, size=120)
    metric = BatchEntropyMixing(n_neighbors=20)
    for _ in range(2):
        for rows in np.array_split(np.arange(120), n_parts):
            metric.update(torch.from_numpy(latent[rows]), torch.from_numpy(domain[rows]))
        assert metric.compute().item() == pytest.approx(batch_entropy_mixing(latent, domain, n_neighbors=20))
        metric.reset()


def test_types_of_one_domain_do_not_count_as_unmixed() -> None:
    rng = np.random.default_rng(0)
    kind = np.repeat([0, 1, 2], 200)
    latent = (rng.normal(size=(600, 3)) + 30 * kind[:, None]).astype(np.float32)
    # The third group is of one domain, the first two are mixed, one of them unevenly.
    domain = np.where(kind == 2, "b", np.where(rng.random(600) < np.where(kind == 0, 0.5, 0.8), "a", "b"))
    found = shared_mixing(latent, domain, kind)
    assert found.mixed == pytest.approx(1, abs=0.02)
    assert found.shared == pytest.approx(2 / 3)
    assert batch_entropy_mixing(latent, domain) < 0.7


def test_cells_apart_by_domain_within_their_group_are_not_mixed() -> None:
    rng = np.random.default_rng(0)
    kind, domain = np.repeat([0, 1], 200), np.tile(["a", "b"], 200)
    latent = (rng.normal(size=(400, 3)) + 30 * kind[:, None] + 9 * (domain == "b")[:, None]).astype(np.float32)
    found = shared_mixing(latent, domain, kind, n_neighbors=50)
    assert found.mixed < 0.01
    assert found.shared == 1
    assert found == shared_mixing(latent, domain, kind, n_neighbors=50, nearest=find_nearest(latent, 100))


def test_without_a_shared_group_nothing_can_be_mixed(latent: NDArray[np.float32]) -> None:
    domain = np.repeat(["a", "b"], 60)
    found = shared_mixing(latent, domain, domain)
    assert math.isnan(found.mixed)
    assert found.shared == 0
    with pytest.raises(ValueError, match="at least two domains"):
        shared_mixing(latent, ["a"] * 120, domain)
