from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from scalex.data import MinibatchSampler, draw_minibatches

SAMPLINGS = ["shuffle", "domain", "balanced"]
DOMAINS = {
    "three of different size": np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [200, 50, 7])),
    "codes with gaps": np.random.default_rng(0).permutation(np.repeat([3, 8], [40, 31])),
    "one domain": np.zeros(65, np.int64),
    "one cell": np.zeros(1, np.int64),
    "a cell in each": np.arange(5),
}


@pytest.fixture(params=DOMAINS.values(), ids=DOMAINS)
def domain(request: pytest.FixtureRequest) -> NDArray[np.int64]:
    found: NDArray[np.int64] = request.param
    return found


def draw(domain: NDArray[np.int64], batch_size: int, sampling: Any, seed: int = 0) -> list[NDArray[np.int64]]:
    return draw_minibatches(domain, batch_size, sampling, np.random.default_rng(seed))


@pytest.mark.parametrize("batch_size", [1, 8, 64, 1000])
@pytest.mark.parametrize("sampling", ["shuffle", "domain"])
def test_each_cell_is_drawn_once(domain: NDArray[np.int64], batch_size: int, sampling: str) -> None:
    rows = np.concatenate(draw(domain, batch_size, sampling))
    np.testing.assert_array_equal(np.sort(rows), np.arange(len(domain)))


@pytest.mark.parametrize("batch_size", [1, 8, 64, 1000])
@pytest.mark.parametrize("sampling", ["shuffle", "balanced"])
def test_minibatches_are_as_few_as_possible_and_of_equal_size(domain: NDArray[np.int64], batch_size: int, sampling: str) -> None:
    sizes = [len(rows) for rows in draw(domain, batch_size, sampling)]
    assert max(sizes) - min(sizes) <= 1
    assert 1 <= min(sizes) <= max(sizes) <= batch_size
    assert len(sizes) == -(-sum(sizes) // batch_size)


@pytest.mark.parametrize("batch_size", [1, 8, 64, 1000])
def test_sampling_by_domain_draws_minibatches_of_one_domain_in_proportion(domain: NDArray[np.int64], batch_size: int) -> None:
    found = draw(domain, batch_size, "domain")
    assert all(len(set(domain[rows])) == 1 for rows in found)
    number = Counter(int(domain[rows[0]]) for rows in found)
    for code, size in Counter(domain.tolist()).items():
        assert number[code] == -(-size // batch_size)
        sizes = [len(rows) for rows in found if domain[rows[0]] == code]
        assert max(sizes) - min(sizes) <= 1
        assert max(sizes) <= batch_size


def test_minibatches_of_one_domain_come_in_random_order() -> None:
    order = [int(DOMAINS["three of different size"][rows[0]]) for rows in draw(DOMAINS["three of different size"], 8, "domain")]
    assert order != sorted(order)


@pytest.mark.parametrize("batch_size", [1, 8, 64, 1000])
def test_balanced_sampling_draws_domains_and_their_cells_equally_often(domain: NDArray[np.int64], batch_size: int) -> None:
    rows = np.concatenate(draw(domain, batch_size, "balanced"))
    n_domains = len(set(domain))
    assert len(domain) <= len(rows) < len(domain) + n_domains
    domain_counts = Counter(domain[rows].tolist())
    assert len(domain_counts) == n_domains
    assert max(domain_counts.values()) - min(domain_counts.values()) <= 1
    for code in set(domain.tolist()):
        times = Counter(rows[domain[rows] == code].tolist())
        counts = [times[i] for i in np.flatnonzero(domain == code).tolist()]
        assert max(counts) - min(counts) <= 1


def test_balanced_sampling_draws_other_cells_in_each_epoch() -> None:
    domain = DOMAINS["three of different size"]
    first, second = (set(np.concatenate(draw(domain, 64, "balanced", seed)).tolist()) for seed in (0, 1))
    assert first != second


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_the_order_depends_on_seed_and_epoch(sampling: Any) -> None:
    domain = DOMAINS["three of different size"]

    def find_order(seed: int, epoch: int) -> list[int]:
        sampler = MinibatchSampler(domain, 16, sampling, seed)
        sampler.set_epoch(epoch)
        return np.concatenate(list(sampler)).tolist()

    assert find_order(1, 0) == find_order(1, 0)
    assert find_order(1, 3) == find_order(1, 3)
    assert len({tuple(find_order(seed, epoch)) for seed in (1, 2) for epoch in (0, 1, 2)}) == 6


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_the_epoch_may_be_set_after_the_iterator_is_made(sampling: Any) -> None:
    sampler = MinibatchSampler(DOMAINS["three of different size"], 16, sampling, 1)
    iterator = iter(sampler)
    sampler.set_epoch(5)
    assert [rows.tolist() for rows in iterator] == [rows.tolist() for rows in sampler]


@pytest.mark.parametrize("batch_size", [1, 8, 64, 1000])
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_the_length_is_the_number_of_minibatches(domain: NDArray[np.int64], batch_size: int, sampling: Any) -> None:
    sampler = MinibatchSampler(domain, batch_size, sampling, 0)
    for epoch in range(3):
        sampler.set_epoch(epoch)
        assert len(list(sampler)) == len(sampler)


@pytest.mark.parametrize(
    ("sampling", "batch_size", "message"),
    [
        ("random", 8, "sampling='random': allowed are shuffle, domain, balanced"),
        ("shuffle", 0, "batch_size=0: it must be at least 1"),
    ],
)
def test_wrong_options_are_refused(sampling: Any, batch_size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MinibatchSampler(np.zeros(4, np.int64), batch_size, sampling, 0)
