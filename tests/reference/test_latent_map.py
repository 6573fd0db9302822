"""Comparison with a brute-force search over all distances."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from scalex.reference.latent_map import LatentMap


def find_nearest(
    query: NDArray[np.float32], known: NDArray[np.float32], k: int, *, itself: bool
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    difference = query[:, None].astype(np.float64) - known[None].astype(np.float64)
    distance = np.sqrt((difference**2).sum(2))
    if itself:
        np.fill_diagonal(distance, np.inf)
    index = np.argsort(distance, axis=1, kind="stable")[:, :k]
    return index, np.take_along_axis(distance, index, axis=1)


@pytest.fixture
def latent() -> NDArray[np.float32]:
    rng = np.random.default_rng(0)
    return np.concatenate([rng.normal(i * 4, 1, (70, 5)) for i in range(3)]).astype(np.float32)


@pytest.fixture
def umap(latent: NDArray[np.float32]) -> NDArray[np.float32]:
    return (latent[:, :2] * 3 + 1).astype(np.float32)


@pytest.fixture
def cluster() -> pd.Categorical:
    return pd.Categorical(np.repeat(["2", "0", "1"], 70), ["0", "1", "2"])


@pytest.fixture
def query() -> NDArray[np.float32]:
    rng = np.random.default_rng(1)
    return np.concatenate([rng.normal(4, 1, (40, 5)), rng.normal(60, 1, (10, 5))]).astype(np.float32)


def test_cells_held_out_one_at_a_time_give_the_unit_and_the_limit(latent: NDArray[np.float32]) -> None:
    own = find_nearest(latent, latent, 15, itself=True)[1].mean(1)
    found = LatentMap.fit(latent)
    assert found.unit == pytest.approx(np.median(own))
    np.testing.assert_allclose(found.own_distance, own / np.median(own), rtol=1e-5)
    assert found.limit == pytest.approx(np.quantile(own, 0.99) / np.median(own))
    assert np.median(found.own_distance) == pytest.approx(1)
    assert (found.own_distance > found.limit).mean() == pytest.approx(0.01, abs=0.01)
    np.testing.assert_array_equal(found.rows, np.arange(210))


def test_placement_equals_that_of_a_brute_force_search(
    latent: NDArray[np.float32], umap: NDArray[np.float32], cluster: pd.Categorical, query: NDArray[np.float32]
) -> None:
    latent_map = LatentMap.fit(latent, umap=umap, cluster=cluster)
    placement = latent_map.place(query)
    index, distance = find_nearest(query, latent, 15, itself=False)
    np.testing.assert_allclose(placement.distance, distance.mean(1) / latent_map.unit, rtol=1e-5)
    assert placement.outside.tolist() == (distance.mean(1) / latent_map.unit > latent_map.limit).tolist()
    assert placement.outside[40:].all()
    assert not placement.outside[:40].all()
    weight = 1 / distance**2
    weight /= weight.sum(1, keepdims=True)
    assert placement.umap is not None
    np.testing.assert_allclose(placement.umap, (weight[:, :, None] * umap[index]).sum(1), rtol=1e-4)
    assert placement.umap.dtype == placement.distance.dtype == np.float32
    assert placement.cluster is not None
    for cell, name in enumerate(placement.cluster):
        votes = pd.Series(weight[cell]).groupby(np.asarray(cluster)[index[cell]]).sum()
        assert votes[name] == votes.max()
    assert placement.cluster.dtype == cluster.dtype


def test_cells_of_the_reference_stay_in_their_place(
    latent: NDArray[np.float32], umap: NDArray[np.float32], cluster: pd.Categorical
) -> None:
    placement = LatentMap.fit(latent, umap=umap, cluster=cluster).place(latent)
    assert placement.umap is not None
    np.testing.assert_allclose(placement.umap, umap, atol=1e-3)
    assert list(placement.cluster or ()) == list(cluster)
    # Each cell is one of its own neighbours, so it is nearer than if it were held out.
    assert np.median(placement.distance) < 1


@pytest.mark.parametrize("part", [[0], [3, 2, 1], [49, 0], list(range(50))])
@pytest.mark.parametrize("further_dimensions", [0, 25], ids=["few dimensions", "many dimensions"])
def test_placement_of_a_cell_depends_on_that_cell_alone(
    latent: NDArray[np.float32],
    umap: NDArray[np.float32],
    cluster: pd.Categorical,
    query: NDArray[np.float32],
    part: list[int],
    further_dimensions: int,
) -> None:
    rng = np.random.default_rng(2)
    latent, query = (np.hstack([z, rng.normal(0, 0.1, (len(z), further_dimensions))]).astype(np.float32) for z in (latent, query))
    latent_map = LatentMap.fit(latent, umap=umap, cluster=cluster)
    whole, some = latent_map.place(query), latent_map.place(query[part])
    np.testing.assert_array_equal(some.distance, whole.distance[part])
    np.testing.assert_array_equal(some.umap, whole.umap[part])  # type: ignore[index]
    assert list(some.cluster or ()) == list(whole.cluster[part])  # type: ignore[index]


def test_a_reference_without_umap_and_clusters_gives_neither(latent: NDArray[np.float32], query: NDArray[np.float32]) -> None:
    placement = LatentMap.fit(latent).place(query)
    assert placement.umap is None
    assert placement.cluster is None


def test_a_large_reference_is_sampled(latent: NDArray[np.float32], umap: NDArray[np.float32], cluster: pd.Categorical) -> None:
    found = LatentMap.fit(latent, umap=umap, cluster=cluster, max_cells=60, seed=3)
    assert len(found.rows) == len(set(found.rows.tolist())) == 60
    assert (np.diff(found.rows) > 0).all()
    expected = LatentMap.fit(latent[found.rows], umap=umap[found.rows], cluster=cluster[found.rows])
    assert (found.unit, found.limit) == (expected.unit, expected.limit)
    np.testing.assert_array_equal(found.place(latent).umap, expected.place(latent).umap)  # type: ignore[arg-type]
    again, other = (LatentMap.fit(latent, max_cells=60, seed=seed).rows for seed in (3, 4))
    np.testing.assert_array_equal(found.rows, again)
    assert found.rows.tolist() != other.tolist()


@pytest.mark.parametrize("n_cells", [2, 5])
def test_a_reference_may_have_few_cells(latent: NDArray[np.float32], n_cells: int) -> None:
    placement = LatentMap.fit(latent[:n_cells]).place(latent)
    assert np.isfinite(placement.distance).all()


def test_identical_cells_have_finite_distances(query: NDArray[np.float32]) -> None:
    spot = np.zeros((40, 5), np.float32)
    latent_map = LatentMap.fit(spot, umap=np.ones((40, 2), np.float32))
    assert (latent_map.place(spot).distance == 0).all()
    assert latent_map.place(query).outside.all()
    np.testing.assert_allclose(latent_map.place(spot).umap, 1, rtol=1e-6)  # type: ignore[arg-type]
