from __future__ import annotations

import tracemalloc
from collections import Counter
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from scalex.data import Buffer, draw_minibatches, plan_buffers

SAMPLINGS = ["shuffle", "domain", "balanced"]
DOMAINS = {
    "three of different size": np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [200, 50, 7])),
    "a file for each": np.repeat([0, 1, 2], [130, 100, 90]),
    "codes with gaps": np.random.default_rng(0).permutation(np.repeat([3, 8], [40, 31])),
    "one domain": np.zeros(65, np.int64),
    "one cell": np.zeros(1, np.int64),
    "a cell in each": np.arange(5),
}


@pytest.fixture(params=DOMAINS.values(), ids=DOMAINS)
def domain(request: pytest.FixtureRequest) -> NDArray[np.int64]:
    found: NDArray[np.int64] = request.param
    return found


def make_plan(domain: NDArray[np.int64], batch_size: int, sampling: Any, *, seed: int = 0, **options: Any) -> list[Buffer]:
    options = {"run_rows": 4, "buffer_minibatches": 3} | options
    return list(plan_buffers(domain, batch_size, sampling, np.random.default_rng(seed), **options))


def list_minibatches(plan: list[Buffer]) -> list[NDArray[np.int64]]:
    return [buffer.rows[one] for buffer in plan for one in buffer.minibatches]


@pytest.mark.parametrize("n_processes", [1, 3])
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_minibatches_are_those_in_memory_if_one_buffer_holds_them(domain: NDArray[np.int64], sampling: Any, n_processes: int) -> None:
    expected = draw_minibatches(domain, 8, sampling, np.random.default_rng(0))
    for process in range(n_processes):
        plan = make_plan(domain, 8, sampling, buffer_minibatches=len(expected), process=process, n_processes=n_processes)
        assert len(plan) == 1
        for found, rows in zip(list_minibatches(plan), expected, strict=True):
            np.testing.assert_array_equal(found, np.array_split(rows, n_processes)[process])


@pytest.mark.parametrize("batch_size", [1, 8, 64, 1000])
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_minibatches_have_the_sizes_and_domains_of_those_in_memory(domain: NDArray[np.int64], batch_size: int, sampling: Any) -> None:
    found = list_minibatches(make_plan(domain, batch_size, sampling))
    expected = draw_minibatches(domain, batch_size, sampling, np.random.default_rng(0))

    def count_kinds(all_rows: list[NDArray[np.int64]]) -> Counter[Any]:
        return Counter((len(rows), *(sorted(set(domain[rows])) if sampling == "domain" else ())) for rows in all_rows)

    assert count_kinds(found) == count_kinds(expected)
    rows = np.concatenate(found)
    if sampling != "balanced":
        np.testing.assert_array_equal(np.sort(rows), np.arange(len(domain)))
    else:
        # Each domain is drawn equally often, and so is each of its cells.
        assert Counter(domain[rows].tolist()).keys() == set(domain.tolist())
        assert len(set(Counter(domain[rows].tolist()).values())) == 1
        for code in set(domain.tolist()):
            times = np.bincount(rows, minlength=len(domain))[domain == code]
            assert times.max() - times.min() <= 1


@pytest.mark.parametrize("sampling", ["shuffle", "balanced"])
def test_balanced_buffers_have_equal_shares_of_domains(sampling: Any) -> None:
    domain = DOMAINS["three of different size"]
    codes_of_buffers = [domain[np.concatenate([b.rows[one] for one in b.minibatches])] for b in make_plan(domain, 30, sampling)]
    shares = [np.bincount(codes, minlength=3) / len(codes) for codes in codes_of_buffers]
    assert (np.ptp(shares, axis=1) < 0.05).all() == (sampling == "balanced")


def test_buffers_hold_the_wanted_number_of_minibatches_and_sorted_rows(domain: NDArray[np.int64]) -> None:
    plan = make_plan(domain, 8, "shuffle", buffer_minibatches=4)
    assert [len(buffer.minibatches) for buffer in plan[:-1]] == [4] * (len(plan) - 1)
    assert all((np.diff(buffer.rows) > 0).all() for buffer in plan)


def test_rows_are_read_in_runs_that_start_elsewhere_for_each_seed() -> None:
    domain = np.zeros(4096, np.int64)
    starts = []
    for seed in range(3):
        plan = make_plan(domain, 64, "shuffle", seed=seed, run_rows=16, buffer_minibatches=16)
        n_runs = [1 + int((np.diff(buffer.rows) > 1).sum()) for buffer in plan]
        # 1,024 rows are 64 runs of 16 and up to two cut ones; a fourth of the runs is followed by the next one of the file.
        assert 38 < min(n_runs) <= max(n_runs) <= 58
        rows = plan[1].rows
        starts.append(int(rows[1:][np.diff(rows) > 1][3]) % 16)
    assert len(set(starts)) > 1


def test_a_run_is_spread_over_the_minibatches_of_its_buffer() -> None:
    domain = np.zeros(4096, np.int64)
    for rows in list_minibatches(make_plan(domain, 64, "shuffle", run_rows=16, buffer_minibatches=64)):
        assert (np.diff(np.sort(rows)) == 1).mean() < 0.1


def test_domains_are_mixed_nearly_as_in_a_full_shuffle() -> None:
    # The worst case is one domain after the other.
    domain = np.repeat(np.arange(8), [4000, 2000, 8000, 1000, 500, 4000, 3000, 9500])

    def compute_entropy(rows: NDArray[np.int64]) -> float:
        share = np.bincount(domain[rows], minlength=8) / len(rows)
        return float(-(share[share > 0] * np.log(share[share > 0])).sum())

    full = np.mean([compute_entropy(rows) for rows in draw_minibatches(domain, 128, "shuffle", np.random.default_rng(0))])
    found = np.mean(
        [compute_entropy(rows) for rows in list_minibatches(make_plan(domain, 128, "shuffle", run_rows=64, buffer_minibatches=128))]
    )
    assert found > 0.97 * full


@pytest.mark.parametrize("n_processes", [2, 3, 8, 11])
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_processes_share_each_minibatch(domain: NDArray[np.int64], sampling: Any, n_processes: int) -> None:
    shares = [list_minibatches(make_plan(domain, 16, sampling, process=i, n_processes=n_processes)) for i in range(n_processes)]
    assert len({len(share) for share in shares}) == 1
    together = [sorted(np.concatenate(parts).tolist()) for parts in zip(*shares, strict=True)]
    # More processes than segments share the rows in another way.
    alone = make_plan(domain, 16, sampling) if n_processes <= 8 else make_plan(domain, 16, sampling, n_processes=1)
    if n_processes <= 8:
        assert together == [sorted(rows.tolist()) for rows in list_minibatches(alone)]
    else:
        assert [len(rows) for rows in together] == [len(rows) for rows in list_minibatches(alone)]


def test_processes_get_equal_shares_of_large_minibatches() -> None:
    domain = DOMAINS["a file for each"]
    for n_processes in (2, 4):
        shares = [list_minibatches(make_plan(domain, 64, "shuffle", process=i, n_processes=n_processes)) for i in range(n_processes)]
        for parts in zip(*shares, strict=True):
            assert max(map(len, parts)) - min(map(len, parts)) <= 8 // n_processes


def test_the_same_seed_gives_the_same_plan(domain: NDArray[np.int64]) -> None:
    one, again = (list_minibatches(make_plan(domain, 8, "domain", seed=3)) for _ in range(2))
    assert [rows.tolist() for rows in one] == [rows.tolist() for rows in again]


def test_a_plan_needs_memory_for_a_few_numbers_per_row() -> None:
    domain = np.random.default_rng(0).integers(0, 50, 1_000_000)
    tracemalloc.start()
    plan = plan_buffers(domain, 256, "shuffle", np.random.default_rng(0), run_rows=64, buffer_minibatches=64)
    assert sum(len(buffer.rows) for buffer in plan) == 1_000_000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * 8 * 1_000_000
