from __future__ import annotations

import sys

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score, silhouette_score

from scalex.metrics import batch_entropy_mixing, kept_clusters, kept_neighbors, scores, shared_mixing, wrong_neighbors
from scalex.metrics.scores import choose_some

N = 150


@pytest.fixture
def latent() -> NDArray[np.float32]:
    rng = np.random.default_rng(0)
    return (rng.normal(size=(N, 3)) + 3 * np.repeat([0, 1, 2], 50)[:, None]).astype(np.float32)


@pytest.fixture
def domain() -> pd.Categorical:
    return pd.Categorical(np.random.default_rng(1).choice(["a", "b"], N))


LABEL = pd.Categorical(np.repeat(["x", "y", "z"], 50))
CLUSTER = pd.Categorical(np.repeat(["0", "1"], [60, 90]))


def test_labels_give_all_scores(latent: NDArray[np.float32], domain: pd.Categorical) -> None:
    found = scores(latent, domain=domain, cluster=CLUSTER, label=LABEL)
    assert set(found) == {"entropy_mixing", "mixed", "shared", "ari", "nmi", "silhouette", "wrong", "biology", "total"}
    assert found["mixed"] == shared_mixing(latent, domain, CLUSTER).mixed
    assert found["wrong"] == pytest.approx(wrong_neighbors(latent, LABEL).mean())
    assert found["entropy_mixing"] == batch_entropy_mixing(latent, domain)
    assert found["ari"] == pytest.approx(adjusted_rand_score(LABEL, CLUSTER))
    assert found["nmi"] == pytest.approx(normalized_mutual_info_score(LABEL, CLUSTER))
    assert found["silhouette"] == pytest.approx(silhouette_score(latent, LABEL), abs=1e-6)
    biology = (found["ari"] + found["nmi"] + (found["silhouette"] + 1) / 2) / 3
    assert found["biology"] == pytest.approx(biology)
    assert found["total"] == pytest.approx(0.6 * biology + 0.4 * found["entropy_mixing"])
    assert all(type(value) is float for value in found.values())


def test_the_silhouette_without_labels_is_that_of_the_clusters(latent: NDArray[np.float32], domain: pd.Categorical) -> None:
    found = scores(latent, domain=domain, cluster=CLUSTER)
    assert set(found) == {"entropy_mixing", "mixed", "shared", "silhouette", "biology", "total"}
    assert found["silhouette"] == pytest.approx(silhouette_score(latent, CLUSTER), abs=1e-6)
    assert found["total"] == pytest.approx(0.6 * (found["silhouette"] + 1) / 2 + 0.4 * found["entropy_mixing"])


@pytest.mark.parametrize("label", [LABEL, None], ids=["labels", "no labels"])
def test_the_total_of_one_domain_has_no_entropy_mixing(latent: NDArray[np.float32], label: pd.Categorical | None) -> None:
    found = scores(latent, domain=pd.Categorical(["a"] * N, categories=["a", "b"]), cluster=CLUSTER, label=label)
    assert "entropy_mixing" not in found
    terms = [(found["silhouette"] + 1) / 2] + ([found["ari"], found["nmi"]] if label is not None else [])
    assert found["total"] == found["biology"] == pytest.approx(np.mean(terms))


def test_scores_of_labels_ignore_cells_without_a_label(latent: NDArray[np.float32], domain: pd.Categorical) -> None:
    known = np.random.default_rng(2).random(N) < 0.7
    label = pd.Categorical(np.where(known, LABEL, None))
    found = scores(latent, domain=domain, cluster=CLUSTER, label=label)
    expected = scores(latent[known], domain=domain[known], cluster=CLUSTER[known], label=LABEL[known])
    for name in ("ari", "nmi", "silhouette", "wrong"):
        assert found[name] == pytest.approx(expected[name])
    assert found["entropy_mixing"] == batch_entropy_mixing(latent, domain)


def test_one_cluster_without_labels_has_only_entropy_mixing(latent: NDArray[np.float32], domain: pd.Categorical) -> None:
    assert set(scores(latent, domain=domain, cluster=pd.Categorical(["0"] * N))) == {"entropy_mixing", "mixed", "shared"}


def test_one_type_has_no_silhouette(latent: NDArray[np.float32], domain: pd.Categorical) -> None:
    found = scores(latent, domain=domain, cluster=CLUSTER, label=pd.Categorical(["x"] * N, categories=["x", "y"]))
    assert set(found) == {"entropy_mixing", "mixed", "shared", "ari", "nmi", "biology", "total"}


def test_a_perfect_embedding_scores_near_one(domain: pd.Categorical) -> None:
    rng = np.random.default_rng(0)
    latent = (rng.normal(size=(N, 3)) + 1e4 * np.repeat([0, 1, 2], 50)[:, None]).astype(np.float32)
    assert scores(latent, domain=domain, cluster=LABEL, label=LABEL)["total"] > 0.95


def test_coordinates_before_the_integration_give_the_kept_neighbours(latent: NDArray[np.float32], domain: pd.Categorical) -> None:
    before = latent + np.random.default_rng(3).normal(size=latent.shape).astype(np.float32)
    found = scores(latent, domain=domain, cluster=CLUSTER, before=before)
    assert found["kept"] == pytest.approx(kept_neighbors(before, latent, domain).mean())
    assert found["kept_clusters"] == pytest.approx(kept_clusters(before, latent, domain).mean())
    biology = 0.75 * found["kept"] + 0.25 * (found["kept_clusters"] + 1) / 2
    assert found["total"] == pytest.approx(0.6 * biology + 0.4 * found["entropy_mixing"])
    assert "silhouette" in found
    with_labels = scores(latent, domain=domain, cluster=CLUSTER, label=LABEL, before=before)
    assert with_labels["kept"] == found["kept"]
    assert with_labels["total"] == scores(latent, domain=domain, cluster=CLUSTER, label=LABEL)["total"]
    assert 0 < found["kept"] < scores(latent, domain=domain, cluster=CLUSTER, before=latent)["kept"] == 1


def test_many_cells_are_sampled(monkeypatch: pytest.MonkeyPatch, latent: NDArray[np.float32], domain: pd.Categorical) -> None:
    monkeypatch.setattr(sys.modules["scalex.metrics.scores"], "MAX_COMPARED", 100)
    some = choose_some(N)
    assert len(np.unique(some)) == 100
    found = scores(latent, domain=domain, cluster=CLUSTER, before=latent[:, :1])
    assert found["kept"] == pytest.approx(kept_neighbors(latent[some, :1], latent[some], domain[some]).mean())
