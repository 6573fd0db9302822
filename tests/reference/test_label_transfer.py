from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from tables import assert_same_table

import scalex.reference.label_transfer
from scalex.reference.label_transfer import LabelTransfer

# Reference: latents, types and components. Query: latents, components and true types.
Known: TypeAlias = tuple[NDArray[np.float32], pd.Categorical, NDArray[np.float32]]
New: TypeAlias = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.str_]]

TYPES = ("a", "b", "c")
# Components that distinguish the types. All 12 are used to find unknown cells.
N_COMPONENTS = 7
CENTERS = np.array([[0.0, 0, 0, 0], [6, 0, 0, 0], [0, 6, 0, 0]])


def cells(n: int, rng: np.random.Generator, n_dimensions: int = 4, width: float = 1) -> tuple[NDArray[np.float32], NDArray[np.str_]]:
    code = np.arange(n) % 3
    spread = width * np.linspace(0.5, 1.5, n_dimensions)
    centers = np.zeros((3, n_dimensions))
    centers[:, :4] = CENTERS
    return (centers[code] + spread * rng.normal(size=(n, n_dimensions))).astype(np.float32), np.array(TYPES)[code]


@pytest.fixture
def reference() -> Known:
    rng = np.random.default_rng(0)
    latent, label = cells(90, rng)
    return latent, pd.Categorical(label), cells(90, rng, 12)[0]


@pytest.fixture
def query() -> New:
    rng = np.random.default_rng(1)
    latent, label = cells(60, rng)
    return latent, cells(60, rng, 12)[0], label


def naive(
    spaces: list[NDArray[np.float32]], label: NDArray[np.str_], query: list[NDArray[np.float32]], weights: tuple[float, ...]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return probabilities and squared distances, (n_cells, n_types) each, computed cell by cell and type by type."""
    types = sorted(set(label))
    score, distance = np.zeros((len(query[0]), len(types))), np.zeros((len(query[0]), len(types)))
    for x, q, weight in zip(spaces, query, weights, strict=True):
        scatter = sum(
            (label == t).sum() * np.cov(x[label == t].astype(float), rowvar=False, bias=True) for t in types if sum(label == t) > 1
        )
        covariance = scatter / (len(x) - len(types))
        covariance = 0.9 * covariance + 0.1 * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
        for j, name in enumerate(types):
            n = (label == name).sum()
            for i, cell in enumerate(q):
                off = cell - x[label == name].astype(float).mean(0)
                squared = off @ np.linalg.inv(covariance) @ off
                distance[i, j] += squared
                score[i, j] += weight * -0.5 * (squared / (1 + 1 / n) + len(off) * np.log(1 + 1 / n) / 2)
    probability = np.exp(score)
    return probability / probability.sum(1, keepdims=True), distance


@pytest.mark.parametrize("both", [False, True], ids=["latents", "latents and components"])
def test_probabilities_and_distances_are_those_of_a_loop(reference: Known, query: New, both: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scalex.reference.label_transfer, "N_COMPONENTS", N_COMPONENTS)
    latent, label, components = reference
    # The last type has one cell, and takes its covariance from the others.
    kept = np.r_[np.flatnonzero(np.asarray(label) != "c"), 2]
    latent, label, components = latent[kept], label[kept], components[kept]
    spaces, queries = ([latent, components], [query[0], query[1]]) if both else ([latent], [query[0]])
    transfer = LabelTransfer.fit(spaces[0], label, *spaces[1:])
    found = transfer.predict(queries[0], *queries[1:])
    names = np.asarray(label, str)
    first = [[spaces[0], spaces[1][:, :N_COMPONENTS]], [queries[0], queries[1][:, :N_COMPONENTS]]] if both else [spaces, queries]
    probability, _ = naive(first[0], names, first[1], (1 / 8, 1 / 12) if both else (1 / 2,))
    _, distance = naive(spaces, names, queries, (1,) * len(spaces))
    order = np.argsort(-probability, axis=1)
    cell = np.arange(len(order))
    assert found["best"].tolist() == [TYPES[i] for i in order[:, 0]]
    assert found["runner_up"].tolist() == [TYPES[i] for i in order[:, 1]]
    np.testing.assert_allclose(found["probability"], probability[cell, order[:, 0]], rtol=1e-8)
    _, own = naive(spaces, names, spaces, (1,) * len(spaces))
    count = pd.Series(names).map(pd.Series(names).value_counts()).to_numpy()
    without = own[np.arange(len(names)), label.codes] * (count / np.maximum(count - 1, 1)) ** 2
    np.testing.assert_allclose(found["unknown"], distance[cell, order[:, 0]] / np.quantile(without[count > 1], 0.95), rtol=1e-8)


def test_with_many_cells_per_type_the_types_are_those_of_linear_discriminant_analysis(query: New) -> None:
    latent, label = cells(3000, np.random.default_rng(2))
    expected = LinearDiscriminantAnalysis(priors=np.full(3, 1 / 3)).fit(latent, label).predict(query[0])
    assert LabelTransfer.fit(latent, pd.Categorical(label)).predict(query[0])["best"].tolist() == expected.tolist()


def test_a_rare_type_is_found_as_well_as_a_frequent_one(query: New) -> None:
    latent, label = cells(3000, np.random.default_rng(3))
    kept = np.r_[np.flatnonzero(label != "c"), np.flatnonzero(label == "c")[:2]]
    found = LabelTransfer.fit(latent[kept], pd.Categorical(label[kept])).predict(query[0])
    of_type = query[2] == "c"
    assert (found["best"][of_type] == "c").mean() > 0.9


def test_the_table_has_one_row_per_cell_and_categorical_types(reference: Known, query: New) -> None:
    found = LabelTransfer.fit(*reference).predict(query[0], query[1])
    assert isinstance(found.index, pd.RangeIndex)
    assert list(found) == ["label", "best", "probability", "runner_up", "unknown"]
    assert found["label"].cat.categories.tolist() == [*TYPES, "unknown"]
    assert found["best"].cat.categories.tolist() == found["runner_up"].cat.categories.tolist() == list(TYPES)
    assert found["probability"].between(1 / 3, 1).all()
    assert (found["best"] != found["runner_up"].astype(found["best"].dtype)).all()


def test_cells_far_from_all_types_are_unknown_and_others_keep_their_label(reference: Known, query: New) -> None:
    latent, components, _ = query
    transfer = LabelTransfer.fit(*reference)
    far = components.copy()
    far[:10, 5:] += 20
    found = transfer.predict(latent, far)
    assert (found["label"] == "unknown").tolist() == [True] * 10 + [False] * 50
    assert found["label"][10:].tolist() == found["best"][10:].tolist()


def test_unknown_cells_are_found_in_a_data_set_nearer_than_the_reference(reference: Known) -> None:
    latent, components = (cells(300, np.random.default_rng(seed), n, width=0.4)[0] for seed, n in ((5, 4), (6, 12)))
    # A group beside the first type.
    rng = np.random.default_rng(7)
    latent[:120], components[:120] = rng.normal([0, 0, 3, 3], 0.1, (120, 4)), rng.normal(0, 0.4, (120, 12))
    transfer = LabelTransfer.fit(*reference)
    found = transfer.predict(latent, components)
    assert found["unknown"].max() < 2
    assert (found["label"][:120] == "unknown").all()
    assert (found["label"][120:] == "unknown").mean() < 0.01
    # Domains are not compared with each other.
    assert not (transfer.predict(latent, components, domain=np.repeat([0, 1], [120, 180]))["label"] == "unknown").any()


def test_the_distance_is_that_before_an_adapter_moved_the_cells(reference: Known, query: New) -> None:
    transfer = LabelTransfer.fit(*reference)
    latent, components, _ = query
    moved = transfer.compute_evidence(latent, components, encoded=latent + 5)
    as_they_lay = transfer.compute_evidence(latent, components)
    assert_same_table(moved.drop(columns="unknown"), as_they_lay.drop(columns="unknown"))
    same = transfer.compute_evidence(latent + 5, components)
    alike = (same["best"] == moved["best"]).to_numpy()
    assert alike.any()
    np.testing.assert_allclose(moved["unknown"][alike], same["unknown"][alike], rtol=1e-12)


def test_the_result_for_a_cell_does_not_depend_on_other_cells(reference: Known, query: New) -> None:
    transfer = LabelTransfer.fit(*reference)
    together = transfer.predict(query[0], query[1])
    alone = pd.concat([transfer.predict(query[0][[i]], query[1][[i]]) for i in range(len(together))], ignore_index=True)
    assert_same_table(together, alone, rtol=1e-10)


def test_cells_without_a_label_are_ignored(reference: Known, query: New) -> None:
    latent, label, components = reference
    known = np.random.default_rng(4).random(len(label)) < 0.7
    not_known = np.where(np.arange(len(label)) % 2, None, "unknown")
    missing = pd.Categorical(np.where(known, np.asarray(label), not_known), categories=[*TYPES, "never seen", "unknown"])
    some = LabelTransfer.fit(latent, missing, components)
    assert some.types.tolist() == list(TYPES)
    expected = LabelTransfer.fit(latent[known], label[known], components[known])
    assert_same_table(some.predict(query[0], query[1]), expected.predict(query[0], query[1]))


def test_a_single_type_is_certain_and_has_no_runner_up(reference: Known, query: New) -> None:
    latent = reference[0]
    found = LabelTransfer.fit(latent, pd.Categorical(["only"] * len(latent))).predict(query[0])
    assert (found["probability"] == 1).all()
    assert found["runner_up"].isna().all()


def test_no_cells_give_an_empty_table(reference: Known, query: New) -> None:
    found = LabelTransfer.fit(*reference).predict(query[0][:0], query[1][:0])
    assert len(found) == 0
    assert found["label"].cat.categories.tolist() == [*TYPES, "unknown"]


def test_the_sample_of_a_large_reference_keeps_rare_types(reference: Known, query: New, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scalex.reference.label_transfer, "MAX_CELLS", 30)
    latent, _, components = reference
    names = np.array(["a"] * 80 + ["b"] * 8 + ["c"] * 2)
    first, again, other = (LabelTransfer.fit(latent, pd.Categorical(names), components, seed=seed) for seed in (0, 0, 1))
    assert [view.count_K.tolist() for view in first._views] == [[20, 8, 2]] * 3
    assert_same_table(first.predict(query[0], query[1]), again.predict(query[0], query[1]))
    assert not first.predict(query[0], query[1]).equals(other.predict(query[0], query[1]))


def test_identical_cells_of_a_type_are_no_error() -> None:
    latent = np.repeat(np.eye(2), 5, axis=0)
    found = LabelTransfer.fit(latent, pd.Categorical(np.repeat(["x", "y"], 5))).predict(latent)
    assert found["best"].tolist() == ["x"] * 5 + ["y"] * 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda z, y, p: {"label": y[:-1]}, "There are 89 labels for 90 cells: give one for each"),
        (lambda z, y, p: {"label": pd.Categorical([None] * 90)}, "None of the 90 cells of the reference has a label"),
        (lambda z, y, p: {"label": pd.Categorical(np.arange(90))}, "Each of the 90 types has one cell"),
        (lambda z, y, p: {"latent": z[:, 0]}, r"latent has the shape \(90,\): it must be cells x dimensions"),
        (lambda z, y, p: {"components": p[1:]}, r"components has the shape \(89, 12\): .* one row per cell of latent"),
        (lambda z, y, p: {"latent": np.where(z == z[3, 1], np.nan, z)}, "latent is not finite in 1 of 90 cells: embed"),
        (lambda z, y, p: {"components": np.full_like(p, np.inf)}, "components is not finite in 90 of 90 cells"),
    ],
)
def test_bad_reference_cells_are_named(reference: Known, change: Callable[..., dict[str, Any]], message: str) -> None:
    latent, label, components = reference
    with pytest.raises(ValueError, match=message):
        LabelTransfer.fit(**({"latent": latent, "label": label, "components": components} | change(latent, label, components)))


def test_cells_with_other_dimensions_than_the_reference_are_refused(reference: Known, query: New) -> None:
    transfer = LabelTransfer.fit(*reference)
    with pytest.raises(ValueError, match="The cells have 3 latent dimensions and 12 components, but those of the reference had 4 latent"):
        transfer.predict(query[0][:, :3], query[1])
    with pytest.raises(ValueError, match="The cells have 4 latent dimensions, but those of the reference had 4 latent dimensions and 12"):
        transfer.predict(query[0])


class TestProbabilitiesWithDomains:
    @staticmethod
    def reference(shift: float) -> tuple[NDArray[np.float64], NDArray[np.str_], pd.Categorical]:
        """Return three domains of 60 cells, each with its own shift."""
        latent, label = cells(180, np.random.default_rng(7))
        code = np.repeat([0, 1, 2], 60)
        shifts = shift * np.random.default_rng(8).normal(size=(3, 4))
        return latent + shifts[code], label, pd.Categorical.from_codes(code, ["p", "q", "r"])

    def test_are_calibrated_on_each_domain_left_out_in_turn(self, query: New) -> None:
        latent, label, domain = self.reference(1.0)
        found = LabelTransfer.fit(latent, pd.Categorical(label), domain=domain).compute_evidence(query[0])
        plain = LabelTransfer.fit(latent, pd.Categorical(label)).compute_evidence(query[0])
        assert_same_table(found.drop(columns="probability"), plain.drop(columns="probability"))

        def cross_entropy(factor: float) -> float:
            total = 0.0
            for one in "pqr":
                out = np.asarray(domain) == one
                probability, _ = naive([latent[~out]], label[~out], [latent[out]], (factor / 2,))
                true = pd.Categorical(label[out], TYPES).codes
                total -= np.log(probability[np.arange(len(true)), true]).sum()
            return total

        low, high = np.log(0.2), np.log(30)
        for _ in range(2):
            grid = np.linspace(low, high, 24)
            best = int(np.argmin([cross_entropy(np.exp(one)) for one in grid]))
            low, high = grid[max(best - 1, 0)], grid[min(best + 1, 23)]
        # Three domains have as much weight as those with a factor of 1.
        factor = np.exp(grid[best] / 2)
        probability, _ = naive([latent], label, [query[0]], (factor / 2,))
        np.testing.assert_allclose(found["probability"], probability.max(1), rtol=0.02)

    def test_are_less_sure_where_domains_differ(self, query: New) -> None:
        sure = []
        for shift in (0, 4):
            latent, label, domain = self.reference(shift)
            sure.append(LabelTransfer.fit(latent, pd.Categorical(label), domain=domain)._inverse_temperature)
        assert sure[0] > 2 * sure[1]

    def test_with_one_domain_are_those_without_domains(self, reference: Known, query: New) -> None:
        latent, label, components = reference
        one = LabelTransfer.fit(latent, label, components, domain=pd.Categorical(["p"] * len(label)))
        assert_same_table(one.predict(query[0], query[1]), LabelTransfer.fit(*reference).predict(query[0], query[1]))

    def test_with_types_of_one_domain_each_are_those_without_domains(self, query: New) -> None:
        latent, label, _ = self.reference(0)
        by_type = LabelTransfer.fit(latent, pd.Categorical(label), domain=pd.Categorical(label))
        assert_same_table(by_type.predict(query[0]), LabelTransfer.fit(latent, pd.Categorical(label)).predict(query[0]))
