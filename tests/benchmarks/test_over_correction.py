from __future__ import annotations

import numpy as np
import pytest

from benchmarks.quality.over_correction import over_correction, wrong_neighbors


def test_only_avoidable_wrong_neighbours_count() -> None:
    rng = np.random.default_rng(0)
    latent = rng.normal(size=(60, 3))
    label = np.array(["a"] * 40 + ["b"] * 15 + ["c"] * 4 + ["d"])
    found = wrong_neighbors(latent, label, n_neighbors=10)
    for i in range(60):
        nearest = sorted((np.linalg.norm(latent[i] - latent[j]), j) for j in range(60) if j != i)[:10]
        wrong = sum(label[j] != label[i] for _, j in nearest) / 10
        others = int((label == label[i]).sum()) - 1
        unavoidable, chance = max(0, 10 - others) / 10, (59 - others) / 59
        if others:
            assert found[i] == pytest.approx((wrong - unavoidable) / (chance - unavoidable))
        else:
            assert np.isnan(found[i])


def test_separate_types_score_zero_and_mixed_types_score_one() -> None:
    rng = np.random.default_rng(1)
    label = np.repeat(["a", "b", "rare"], [700, 780, 20])
    noise = rng.normal(size=(1500, 4))
    separate = over_correction(noise + 50 * np.unique(label, return_inverse=True)[1][:, None], label)
    assert separate["wrong"] == separate["wrong, rare"] == 0
    mixed = over_correction(noise, label)
    assert mixed["wrong"] == pytest.approx(1, abs=0.05)
    assert mixed["wrong: rare"] == mixed["wrong, rare types"] == pytest.approx(1, abs=0.2)
