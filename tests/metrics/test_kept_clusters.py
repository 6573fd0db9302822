from __future__ import annotations

import sys

import numpy as np
import pytest

from scalex.metrics import kept_clusters


def make_groups(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return coordinates of two domains with three groups each, the groups, and the domains. The second domain lies apart."""
    rng = np.random.default_rng(seed)
    group = np.tile([0, 1, 2], 100)
    domain = np.repeat(["a", "b"], 150)
    place = np.array([[0, 0], [20, 0], [0, 20]])[group] + np.where(domain == "b", 500, 0)[:, None]
    return (place + rng.normal(size=(300, 2))).astype(np.float32), group, domain


def measure_silhouette(cells: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Return Rousseeuw's silhouette by its definition."""
    distance = np.linalg.norm(cells[:, None] - cells[None], axis=2)
    found = []
    for i, own in enumerate(group):
        inside = distance[i, (group == own) & (np.arange(len(group)) != i)].mean()
        nearest = min(distance[i, group == other].mean() for other in set(group) - {own})
        found.append((nearest - inside) / max(nearest, inside))
    return np.array(found)


def test_clusters_of_each_domain_are_compared_within_it() -> None:
    before, group, domain = make_groups()
    rng = np.random.default_rng(1)
    # The integration keeps the groups of one domain, and scatters those of the other.
    after = np.where((domain == "a")[:, None], before, rng.normal(size=before.shape)).astype(np.float32)
    # With about as many neighbours as a group has cells, groups are not divided.
    found = kept_clusters(before, after, domain, n_neighbors=45)
    for one in ("a", "b"):
        own = domain == one
        np.testing.assert_allclose(found[own], measure_silhouette(after[own].astype(float), group[own]), atol=1e-4)
    assert found[domain == "a"].mean() > 0.8
    assert abs(found[domain == "b"].mean()) < 0.1


def test_mixing_costs_nothing() -> None:
    before, _, domain = make_groups()
    after = before - np.where(domain == "b", 500, 0)[:, None].astype(np.float32)
    np.testing.assert_allclose(kept_clusters(before, after, domain), kept_clusters(before, before, domain), atol=1e-3)


def test_small_domains_have_no_clusters(monkeypatch: pytest.MonkeyPatch) -> None:
    before, _, domain = make_groups()
    domain = np.where(np.arange(300) < 29, "small", domain)
    assert np.isnan(kept_clusters(before, before, domain)[:29]).all()
    # Of large domains, a sample is compared.
    monkeypatch.setattr(sys.modules["scalex.metrics.kept_clusters"], "MAX_CELLS", 60)
    found = kept_clusters(before, before, domain)
    assert (~np.isnan(found)).sum() == 120
    np.testing.assert_array_equal(found, kept_clusters(before, before, domain))
