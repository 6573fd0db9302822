from __future__ import annotations

import numpy as np
import pytest

from scalex.metrics import kept_neighbors


def test_the_share_is_that_of_a_loop_over_cells() -> None:
    rng = np.random.default_rng(0)
    before, after = rng.normal(size=(90, 3)).astype(np.float32), rng.normal(size=(90, 2)).astype(np.float32)
    domain = np.repeat(["a", "b", "few"], [52, 33, 5])
    found = kept_neighbors(before, after, domain, n_neighbors=4)
    for i in range(90):
        others = [j for j in range(90) if j != i and domain[j] == domain[i]]
        n, k = len(others) + 1, min(4, (len(others) + 1) // 10)
        if k == 0:
            assert np.isnan(found[i])
            continue
        formerly, now = (sorted(others, key=lambda j, x=x: np.linalg.norm(x[i] - x[j])) for x in (before, after))
        share = len(set(formerly[:k]) & set(now[: 3 * k])) / k
        assert found[i] == pytest.approx((share - 3 * k / (n - 1)) / (1 - 3 * k / (n - 1)))


def test_shifts_of_domains_change_nothing_and_noise_leaves_chance() -> None:
    rng = np.random.default_rng(0)
    before = rng.normal(size=(400, 5)).astype(np.float32)
    domain = np.tile(["a", "b"], 200)
    assert (kept_neighbors(before, before + 9 * (domain == "b")[:, None], domain) == 1).all()
    assert abs(kept_neighbors(before, rng.normal(size=(400, 5)).astype(np.float32), domain).mean()) < 0.03


def test_a_collapse_is_seen_though_the_domains_are_mixed() -> None:
    rng = np.random.default_rng(0)
    kind, domain = rng.integers(4, size=400), rng.integers(2, size=400)
    before = (np.eye(4, 6)[kind] * 20 + rng.normal(size=(400, 6))).astype(np.float32)
    collapsed = np.where(kind[:, None] < 2, before - 20 * np.eye(4, 6)[kind] + 20 * np.eye(1, 6)[0], before).astype(np.float32)
    whole, merged = (kept_neighbors(before, x + rng.normal(0, 0.5, x.shape), domain) for x in (before, collapsed))
    assert whole[kind < 2].mean() - merged[kind < 2].mean() > 0.1
    assert abs(whole[kind >= 2].mean() - merged[kind >= 2].mean()) < 0.05
