from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.metrics import silhouette_samples

from scalex.metrics import Silhouette, silhouette


@pytest.fixture
def latent() -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=(90, 4)).astype(np.float32)


GROUP = np.repeat([0, 1, 2], 30)


@pytest.mark.parametrize("shift", [0, 1, 10])
def test_the_score_is_the_mean_of_the_widths_by_sklearn(latent: NDArray[np.float32], shift: int) -> None:
    latent += shift * GROUP[:, None]
    expected = silhouette_samples(latent, GROUP).mean()
    assert silhouette(latent, GROUP) == pytest.approx(expected, abs=1e-6)
    assert silhouette(latent, np.array(["x", "y", "z"])[GROUP]) == pytest.approx(expected, abs=1e-6)


def test_distant_compact_groups_score_near_one(latent: NDArray[np.float32]) -> None:
    assert silhouette(latent + 1e4 * GROUP[:, None], GROUP) > 0.99


def test_the_seed_determines_the_sample_of_many_cells(latent: NDArray[np.float32]) -> None:
    latent += GROUP[:, None]
    found = [silhouette(latent, GROUP, max_cells=60, seed=seed) for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]
    assert found[0] == pytest.approx(silhouette(latent, GROUP), abs=0.1)


@pytest.mark.parametrize(("group", "n"), [(np.zeros(90), 1), (np.arange(90), 90)])
def test_too_few_or_too_many_groups_are_an_error(latent: NDArray[np.float32], group: NDArray[np.int64], n: int) -> None:
    with pytest.raises(ValueError, match=f"The silhouette needs between 2 and n_cells - 1 groups; there are {n} for 90 cells"):
        silhouette(latent, group)


@pytest.mark.parametrize("n_parts", [1, 3, 90])
def test_the_metric_of_parts_is_the_score_of_the_whole(latent: NDArray[np.float32], n_parts: int) -> None:
    metric = Silhouette()
    for _ in range(2):
        for rows in np.array_split(np.random.default_rng(0).permutation(90), n_parts):
            metric.update(torch.from_numpy(latent[rows]), torch.from_numpy(GROUP[rows]))
        assert metric.compute().item() == pytest.approx(silhouette(latent, GROUP), abs=1e-6)
        metric.reset()
