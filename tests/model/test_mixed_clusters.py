from __future__ import annotations

import numpy as np
import pytest
import torch
from latents import make_latents
from sklearn.linear_model import Ridge

import scalex.model.mixed_clusters as module
from scalex.model.mixed_clusters import mixed_clusters, remove_domain_effects


def test_effects_of_domains_are_those_of_a_ridge_regression_in_each_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RIDGE_PER_MISSING", 0.0)
    rng = np.random.default_rng(1)
    cells, domain = rng.normal(size=(90, 4)), rng.integers(0, 3, 90)
    share = rng.dirichlet(np.ones(5), 90)
    expected = cells.copy()
    design = np.eye(3)[domain]
    for k in range(5):
        # scikit-learn does not penalize the intercept either.
        fitted = Ridge(alpha=1.0).fit(design, cells, sample_weight=share[:, k])
        expected -= share[:, [k]] * (design @ fitted.coef_.T)
    found = remove_domain_effects(torch.from_numpy(cells), torch.from_numpy(domain), torch.from_numpy(share))
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_effects_shrink_where_a_domain_lacks_cells() -> None:
    rng = np.random.default_rng(1)
    cells, domain = rng.normal(size=(90, 4)), rng.choice(3, 90, p=[0.7, 0.2, 0.1])
    share = rng.dirichlet(np.ones(5), 90)
    expected = cells.copy()
    for k in range(5):
        means, factors = [], []
        for d in range(3):
            weight = share[domain == d, k]
            missing = max(share[:, k].sum() * (domain == d).mean() - weight.sum(), 0)
            means.append(np.average(cells[domain == d], axis=0, weights=weight))
            factors.append(weight.sum() / (weight.sum() + 1 + 0.2 * missing))
        origin = np.average(means, axis=0, weights=factors)
        for d in range(3):
            expected[domain == d] -= share[domain == d, k, None] * factors[d] * (means[d] - origin)
    found = remove_domain_effects(torch.from_numpy(cells), torch.from_numpy(domain), torch.from_numpy(share))
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_stray_cells_do_not_drag_a_type_of_another_domain() -> None:
    rng = np.random.default_rng(0)
    # 300 cells of a type of the first domain, with three stray cells of the second, whose own type lies elsewhere.
    parts = [rng.normal(0, 0.1, (300, 2)), rng.normal(5, 0.1, (3, 2)), rng.normal(20, 0.1, (297, 2))]
    cells = torch.from_numpy(np.concatenate(parts))
    domain = torch.arange(600) // 300
    share = torch.nn.functional.one_hot((torch.arange(600) >= 303).long()).double()
    moved = (remove_domain_effects(cells, domain, share) - cells).norm(dim=1) / (5 * 2**0.5)
    assert moved[:300].mean() < 0.1
    assert moved[300:303].mean() < 0.1


def test_a_domain_without_cells_changes_nothing() -> None:
    cells, domain, _ = make_latents({(0, 0): 40, (1, 0): 40})
    share = torch.softmax(torch.randn(80, 3, generator=torch.Generator().manual_seed(0)), 1)
    torch.testing.assert_close(remove_domain_effects(cells, domain * 3, share), remove_domain_effects(cells, domain, share))


def test_the_penalty_mixes_domains_in_clusters(monkeypatch: pytest.MonkeyPatch) -> None:
    cells, domain, _ = make_latents({(0, 0): 150, (1, 0): 150}, effect=0.3)
    cells = (cells - cells.mean(0)) / cells.var(0).sum().sqrt()
    monkeypatch.setattr(module, "WIDTH", 0.2)

    def unevenness(diversity: float) -> float:
        """Return how much the sizes of the clusters differ between the two domains."""
        monkeypatch.setattr(module, "DIVERSITY", diversity)
        share = mixed_clusters(cells, domain, cells[:6].clone(), torch.Generator().manual_seed(0)).share_NK
        torch.testing.assert_close(share.sum(1), torch.ones(300))
        return float((share[domain == 0].sum(0) - share[domain == 1].sum(0)).abs().sum())

    assert unevenness(2.0) < 0.5 * unevenness(0.0)


def test_the_penalty_has_a_limit() -> None:
    found, expected = torch.tensor([[0.0, 500.0], [250.0, 250.0], [500.0, 0.0]]), torch.tensor([0.5, 0.5])
    unlimited = module.DIVERSITY * torch.log((found + 1) / (found.sum(1, keepdim=True) * expected + 1))
    assert unlimited.min() < -10
    for limit in (0.0, 2.0):
        torch.testing.assert_close(module._penalty(found, expected, limit), unlimited.clamp(min=-limit))


def test_clusters_without_a_penalty_are_those_of_soft_k_means(monkeypatch: pytest.MonkeyPatch) -> None:
    cells, domain, _ = make_latents({(0, 0): 60, (0, 1): 60, (1, 0): 30})
    cells = (cells - cells.mean(0)) / cells.var(0).sum().sqrt()
    monkeypatch.setattr(module, "DIVERSITY", 0.0)
    found = mixed_clusters(cells, domain, cells[:4].clone(), torch.Generator().manual_seed(0))
    # One more round of soft k-means hardly changes the shares.
    x = cells.numpy().astype(float)
    share = found.share_NK.numpy().astype(float)
    center = share.T @ x / share.sum(0)[:, None]
    weight = np.exp(-((x[:, None] - center) ** 2).sum(-1) / module.WIDTH)
    np.testing.assert_allclose(weight / weight.sum(1, keepdims=True), share, atol=0.02)
