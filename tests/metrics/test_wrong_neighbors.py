from __future__ import annotations

import numpy as np
import pytest

from scalex.metrics import find_nearest, mixed_types, wrong_neighbors


def test_only_avoidable_wrong_neighbours_count() -> None:
    rng = np.random.default_rng(0)
    latent = rng.normal(size=(60, 3)).astype(np.float32)
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


def test_the_types_most_mixed_up_come_first() -> None:
    rng = np.random.default_rng(0)
    label = np.repeat(["cd4", "cd8", "b", "one"], [60, 20, 40, 1])
    place = {"cd4": 0.0, "cd8": 0.0, "b": 50.0, "one": 50.0}
    latent = (rng.normal(size=(121, 3)) + np.array([place[one] for one in label])[:, None]).astype(np.float32)
    found = mixed_types(latent, label, n_neighbors=10)
    assert list(found.index) == ["cd8", "cd4", "b"]
    assert found.loc["cd8", "among"] == "cd4"
    assert found.loc["cd4", "among"] == "cd8"
    assert found.loc["b", "among"] == "one"
    assert found.loc["cd8", "wrong"] == pytest.approx(wrong_neighbors(latent, label, n_neighbors=10)[label == "cd8"].mean())


def test_a_rare_type_by_itself_is_not_mixed_up() -> None:
    rng = np.random.default_rng(0)
    label = np.repeat(["common", "rare"], [300, 5])
    latent = (rng.normal(size=(305, 3)) + 50 * (label == "rare")[:, None]).astype(np.float32)
    assert mixed_types(latent, label).loc["rare", "wrong"] == 0


def test_known_neighbours_give_the_same_numbers() -> None:
    rng = np.random.default_rng(0)
    latent, label = rng.normal(size=(80, 3)).astype(np.float32), rng.choice(["a", "b"], 80)
    nearest = find_nearest(latent, 50)
    np.testing.assert_array_equal(wrong_neighbors(latent, label), wrong_neighbors(latent, label, nearest=nearest))


@pytest.mark.parametrize("label", [["a"] * 9 + ["b"], ["a"] * 5 + ["b"] * 5, ["a"] * 10, [str(i) for i in range(10)]])
def test_all_cells_as_neighbours_say_nothing(label: list[str]) -> None:
    latent = np.random.default_rng(0).normal(size=(10, 2)).astype(np.float32)
    assert np.isnan(wrong_neighbors(latent, label)).all()
