from __future__ import annotations

import numpy as np
import pytest
import torch
from latents import make_latents
from sklearn.linear_model import Ridge

import scalex.model.mixed_clusters as module
from scalex.model.mixed_clusters import mixed_clusters, remove_domain_effects


def test_effects_of_domains_are_those_of_a_ridge_regression_in_each_cluster() -> None:
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
