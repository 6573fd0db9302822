"""Alignment of new latents with those of a reference that does not move."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from scalex.reference.alignment import HALF_ALIKE, align, compute_agreement, compute_likeness

N_TYPES, N_LATENT = 6, 8


def draw_types(n_of_each: int, seed: int, types: range = range(N_TYPES)) -> tuple[Tensor, Tensor]:
    """Return cells of well-separated types, (n_cells, n_latent), and their types."""
    generator = torch.Generator().manual_seed(0)
    center_KZ = 4 * torch.randn(N_TYPES, N_LATENT, generator=generator)
    type_N = torch.repeat_interleave(torch.tensor(list(types)), n_of_each)
    noise_NZ = torch.randn(len(type_N), N_LATENT, generator=generator.manual_seed(seed))
    return center_KZ[type_N] + noise_NZ, type_N


def means(cell_NZ: Tensor, type_N: Tensor) -> dict[int, Tensor]:
    return {int(one): cell_NZ[type_N == one].mean(0) for one in torch.unique(type_N)}


@pytest.fixture
def reference_MZ() -> Tensor:  # noqa: N802
    return draw_types(100, 1)[0]


@pytest.fixture
def shift_Z() -> Tensor:  # noqa: N802
    """A difference between technologies, of half the distance between types."""
    return torch.full((N_LATENT,), 1.5)


def test_a_domain_that_lies_apart_gets_the_places_of_its_types(reference_MZ: Tensor, shift_Z: Tensor) -> None:
    cell_NZ, type_N = draw_types(60, 2)
    known = means(*draw_types(100, 1))
    aligned = align(cell_NZ + shift_Z, reference_MZ, seed=0)
    assert aligned.latent_NZ.dtype == torch.float32
    for one, mean_Z in means(aligned.latent_NZ, type_N).items():
        assert (mean_Z - known[one]).norm() < 0.5, one
    assert float(aligned.shared_N.mean()) > 0.8


def test_cells_that_lie_there_already_hardly_move(reference_MZ: Tensor) -> None:
    cell_NZ, _ = draw_types(60, 2)
    moved_NZ = align(cell_NZ, reference_MZ, seed=0).latent_NZ - cell_NZ
    assert float(moved_NZ.mean(0).norm()) < 0.05 * float(reference_MZ.var(0).sum().sqrt())


def test_a_type_that_the_reference_lacks_moves_with_its_domain(shift_Z: Tensor) -> None:
    reference_MZ, reference_type_M = draw_types(100, 1, range(N_TYPES - 1))
    cell_NZ, type_N = draw_types(60, 2)
    aligned = align(cell_NZ + shift_Z, reference_MZ, seed=0)
    new_N = type_N == N_TYPES - 1
    # Types of a reference that has them all lie where the new type would be without the shift.
    assert float((aligned.latent_NZ[new_N].mean(0) - cell_NZ[new_N].mean(0)).norm()) < 1.0
    nearest = min(float((aligned.latent_NZ[new_N].mean(0) - mean_Z).norm()) for mean_Z in means(reference_MZ, reference_type_M).values())
    assert nearest > 3
    assert float(aligned.shared_N[new_N].mean()) < 0.2 < 0.8 < float(aligned.shared_N[~new_N].mean())


def test_types_that_the_query_lacks_attract_no_cells(reference_MZ: Tensor, shift_Z: Tensor) -> None:
    cell_NZ, type_N = draw_types(60, 2, range(2))
    known = means(*draw_types(100, 1))
    for one, mean_Z in means(align(cell_NZ + shift_Z, reference_MZ, seed=0).latent_NZ, type_N).items():
        assert (mean_Z - known[one]).norm() < 0.7, one


def test_a_domain_gets_the_spread_of_the_reference(reference_MZ: Tensor) -> None:
    cell_NZ, type_N = draw_types(100, 2)
    narrow_NZ = torch.stack(list(means(cell_NZ, type_N).values()))[type_N].lerp(cell_NZ, 0.6)
    spread = [torch.stack([part[type_N == one].var(0) for one in range(N_TYPES)]).mean().sqrt() for part in (narrow_NZ, reference_MZ)]
    after = align(narrow_NZ, reference_MZ, seed=0).latent_NZ
    found = torch.stack([after[type_N == one].var(0) for one in range(N_TYPES)]).mean().sqrt()
    assert float(spread[0]) == pytest.approx(0.6, abs=0.05)
    assert float(found) == pytest.approx(float(spread[1]), abs=0.15)


def test_a_domain_gets_the_covariance_of_the_reference_within_types(reference_MZ: Tensor) -> None:
    cell_NZ, type_N = draw_types(100, 2)
    center_NZ = torch.stack(list(means(cell_NZ, type_N).values()))[type_N]
    # Two pairs of dimensions are correlated by .8.
    mix_ZZ = torch.eye(N_LATENT)
    mix_ZZ[[0, 1, 2, 3], [1, 0, 3, 2]] = 0.5
    mixed_NZ = center_NZ + (cell_NZ - center_NZ) @ mix_ZZ / mix_ZZ.norm(dim=0)
    after_NZ = align(mixed_NZ, reference_MZ, seed=0).latent_NZ

    def correlate(part_NZ: Tensor) -> float:
        within_NZ = part_NZ - torch.stack(list(means(part_NZ, type_N).values()))[type_N]
        return float(torch.corrcoef(within_NZ.T)[[0, 2], [1, 3]].mean())

    assert correlate(mixed_NZ) == pytest.approx(0.8, abs=0.03)
    assert abs(correlate(after_NZ)) < 0.15


def test_the_same_seed_gives_the_same_bits(reference_MZ: Tensor, shift_Z: Tensor) -> None:
    cell_NZ = draw_types(40, 2)[0] + shift_Z
    first, second = (align(cell_NZ, reference_MZ, seed=3).latent_NZ for _ in range(2))
    np.testing.assert_array_equal(first.numpy(), second.numpy())


def test_cells_that_are_not_alike_move_with_their_domain(reference_MZ: Tensor, shift_Z: Tensor) -> None:
    cell_NZ, type_N = draw_types(60, 2)
    # A type that lies beside the one of the reference that it is matched with.
    cell_NZ[type_N == 0, 3] += 2.5
    alike, unlike = (align(cell_NZ + shift_Z, reference_MZ, seed=0, like_N=like_N).latent_NZ for like_N in (None, (type_N != 0).float()))
    known_Z = means(*draw_types(100, 1))[0]
    assert float((alike[type_N == 0].mean(0) - known_Z).norm()) < 0.5
    assert float((unlike[type_N == 0].mean(0) - cell_NZ[type_N == 0].mean(0)).norm()) < 0.7
    assert float((unlike[type_N == 0].mean(0) - known_Z)[3]) > 1.8


def test_likeness_is_that_of_a_loop() -> None:
    rng = np.random.default_rng(0)
    group, whitening = rng.permutation(np.repeat([2, 5, 7], [20, 15, 5])), np.diag([1.0, 0.5, 2.0])
    own = rng.normal(size=(40, 3))
    matched, weight = own + 0.5 * rng.normal(size=(40, 3)), rng.random(40) * np.where(group == 5, 0.01, 1)
    own[group == 5] += 3
    found = compute_likeness(own + 10, matched, group, weight, whitening)
    common = sum(w * (m - o) for w, m, o in zip(weight, matched, own, strict=True)) / weight.sum()
    for one in (2, 5, 7):
        off = np.mean([(m - o - common) @ whitening for m, o, g in zip(matched, own, group, strict=True) if g == one], axis=0)
        squared = max(np.mean(off**2) - 1 / (group == one).sum(), 0)
        np.testing.assert_allclose(found[group == one], 1 / (1 + (squared / HALF_ALIKE) ** 4), rtol=1e-9)
    assert found[group == 5].max() < 0.1 < found.max() <= 1


def test_agreement_is_the_correlation_of_weighted_means() -> None:
    rng = np.random.default_rng(0)
    group = rng.integers(0, 4, 200)
    own = rng.normal(size=(200, 5)) + 3 * rng.normal(size=(4, 5))[group]
    matched = own + rng.normal(size=5) + 0.5 * rng.normal(size=(200, 5))
    means = [np.stack([part[group == one].mean(0) for one in group]) for part in (own, matched)]
    expected = np.corrcoef(*[(part - part.mean(0)).ravel() for part in means])[0, 1]
    assert compute_agreement(own, matched, group) == pytest.approx(expected)
    # A shift common to all groups has no effect; groups that have changed places have.
    assert compute_agreement(own, own + 7, group) == pytest.approx(1)
    assert compute_agreement(own, np.stack([own[group == (one + 1) % 4].mean(0) for one in group]), group) < 0.5
    assert compute_agreement(own, matched, np.zeros(200, int)) == 0
