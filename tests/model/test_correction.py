from __future__ import annotations

import numpy as np
import pytest
import torch
from latents import make_latents
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from scalex.model import correction
from scalex.model.correction import average_neighbors, complete_types, correction_targets, sample_rows


def share_of_other_types(latent: torch.Tensor, kind: np.ndarray, k: int = 15) -> float:
    """Return the share of the cells' neighbours that are of another type."""
    nearest = NearestNeighbors(n_neighbors=k + 1).fit(latent).kneighbors(latent, return_distance=False)[:, 1:]
    return float((kind[nearest] != kind[:, None]).mean())


def share_of_own_domain(latent: torch.Tensor, domain: torch.Tensor, k: int = 15) -> float:
    """Return the share of the cells' neighbours that are of the same domain."""
    nearest = NearestNeighbors(n_neighbors=k + 1).fit(latent).kneighbors(latent, return_distance=False)[:, 1:]
    return float((domain.numpy()[nearest] == domain.numpy()[:, None]).mean())


def test_the_mean_of_neighbours_is_that_of_scikit_learn() -> None:
    cells, _, _ = make_latents({(0, 0): 700, (0, 1): 700})
    nearest = NearestNeighbors(n_neighbors=7, algorithm="brute").fit(cells[:900]).kneighbors(cells, return_distance=False)
    np.testing.assert_allclose(average_neighbors(cells, cells[:900], 7), cells.numpy()[nearest].mean(1), atol=1e-4)


def test_domains_are_mixed_and_types_are_kept() -> None:
    cells, domain, kind = make_latents({(d, k): 100 for d in (0, 1) for k in range(4)})
    assert share_of_own_domain(cells, domain) > 0.9
    targets = correction_targets(cells, domain, seed=0)
    assert share_of_own_domain(targets, domain) < 0.65
    assert share_of_other_types(targets, kind) < 0.01


def test_types_of_a_single_domain_stay_separate() -> None:
    counts = {(0, 0): 150, (1, 0): 150, (0, 1): 150, (1, 1): 150, (0, 2): 100, (1, 3): 100}
    cells, domain, kind = make_latents(counts)
    targets = correction_targets(cells, domain, seed=0)
    assert share_of_other_types(targets, kind) < 0.02
    shared = kind < 2
    assert share_of_own_domain(targets[shared], domain[shared]) < 0.7


def test_one_domain_is_only_smoothed() -> None:
    cells, domain, _ = make_latents({(0, 0): 100, (0, 1): 100})
    expected = cells + correction.SMOOTHING * (average_neighbors(cells, cells, correction.N_NEIGHBORS) - cells)
    torch.testing.assert_close(correction_targets(cells, domain, seed=0), expected, atol=1e-4, rtol=1e-4)


def test_the_same_seed_gives_the_same_targets() -> None:
    cells, domain, _ = make_latents({(d, k): 50 for d in (0, 1, 2) for k in range(3)})
    assert torch.equal(correction_targets(cells, domain, seed=3), correction_targets(cells, domain, seed=3))


def test_targets_keep_the_units_of_the_latents() -> None:
    cells, domain, _ = make_latents({(d, k): 50 for d in (0, 1) for k in range(3)})
    torch.testing.assert_close(
        correction_targets(cells * 4 + 10, domain, seed=0), correction_targets(cells, domain, seed=0) * 4 + 10, atol=0.02, rtol=1e-3
    )


def test_a_sample_corrects_many_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    cells, domain, kind = make_latents({(d, k): 300 for d in (0, 1) for k in range(3)} | {(2, 0): 12})
    monkeypatch.setattr(correction, "MAX_CELLS", 500)
    monkeypatch.setattr(correction, "MIN_DOMAIN_CELLS", 10)
    rows = sample_rows(domain, torch.Generator().manual_seed(0))
    assert (rows.diff() > 0).all()
    assert torch.bincount(domain[rows]).tolist()[2] == 10
    assert 480 < len(rows) <= 510
    targets = correction_targets(cells, domain, seed=0)
    assert share_of_other_types(targets, kind) < 0.01
    assert share_of_own_domain(targets, domain) < 0.65


def test_a_sample_of_many_domains_is_at_most_twice_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(correction, "MAX_CELLS", 500)
    domain = torch.cat([torch.arange(100).repeat_interleave(20), torch.full((3000,), 100)])
    rows = sample_rows(domain, torch.Generator().manual_seed(0))
    assert len(rows) <= 1000
    assert len(torch.unique(domain[rows])) == 101


@pytest.mark.parametrize("n_cells", [2, 3, 20])
def test_few_cells_have_finite_targets(n_cells: int) -> None:
    cells, domain, _ = make_latents({(0, 0): n_cells - 1, (1, 0): 1})
    targets = correction_targets(cells, domain, seed=0)
    assert targets.shape == cells.shape
    assert torch.isfinite(targets).all()
    same = torch.ones(n_cells, 3)
    torch.testing.assert_close(correction_targets(same, domain, seed=0), same)


def test_a_cell_without_a_label_gets_the_type_of_its_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    cells, _, kind = make_latents({(0, k): 120 for k in range(3)})
    # The types now touch each other.
    cells = cells + 2 * torch.randn(cells.shape, generator=torch.Generator().manual_seed(0))
    label = torch.from_numpy(kind.copy())
    label[::2] = -1
    found = complete_types(cells, label, torch.Generator())
    expected = KNeighborsClassifier(correction.N_NEIGHBORS).fit(cells[1::2], kind[1::2]).predict(cells[::2])
    assert torch.equal(found[1::2], label[1::2])
    assert (found[::2].numpy() == expected).all()
    monkeypatch.setattr(correction, "MAX_CELLS", 90)
    monkeypatch.setattr(correction, "MIN_DOMAIN_CELLS", 10)
    of_sample = complete_types(cells, label, torch.Generator().manual_seed(1))
    assert 0.9 < (of_sample == found).float().mean() < 1


def test_labels_bring_types_of_different_domains_together() -> None:
    # Domain 1 has each type where domain 0 has the next one, so that only labels can match the types.
    cells, _, kind = make_latents({(0, k): 80 for k in range(3)})
    other, _, kinds = make_latents({(0, (k + 1) % 3): 80 for k in range(3)}, seed=1)
    cells, kind, domain = torch.cat([cells, other]), np.concatenate([kind, (kinds + 2) % 3]), torch.arange(480) // 240
    without = correction_targets(cells, domain, seed=0)
    assert share_of_other_types(without, kind) > 0.4
    targets = correction_targets(cells, domain, seed=0, label_N=torch.from_numpy(kind))
    assert share_of_other_types(targets, kind) < 0.01
    assert share_of_own_domain(targets, domain) < 0.65
    # Each cell goes half of the way to the mean of its type, which the domains share.
    for k in range(3):
        means = torch.stack([targets[(domain == d) & torch.from_numpy(kind == k)].mean(0) for d in (0, 1)])
        torch.testing.assert_close(means[0], means[1], atol=0.2, rtol=0)
    none = correction_targets(cells, domain, seed=0, label_N=torch.full((480,), -1))
    assert torch.equal(none, without)


def test_labelled_cells_of_one_domain_go_half_way_to_the_mean_of_their_type() -> None:
    cells, domain, kind = make_latents({(0, k): 80 for k in range(3)})
    targets = correction_targets(cells, domain, seed=0, label_N=torch.from_numpy(kind))
    mean = np.stack([cells[kind == k].mean(0).numpy() for k in range(3)])[kind]
    np.testing.assert_allclose(targets.numpy(), 0.5 * cells.numpy() + 0.5 * mean, atol=1e-4)
