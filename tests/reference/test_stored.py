"""References that earlier versions stored still open, and give the same results for new cells."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from scalex.projection.reference import Reference

STORED = Path(__file__).parent / "stored"
Stored = dict[str, np.ndarray]


@pytest.fixture(params=["run", "packed.zip", "packed_in_steps.zip"])
def reference(request: pytest.FixtureRequest) -> Reference:
    return Reference.load(STORED / request.param)


@pytest.fixture(scope="module")
def stored() -> Stored:
    with np.load(STORED / "query.npz") as file:
        return dict(file)


@pytest.fixture
def query(stored: Stored) -> AnnData:
    counts = sparse.csr_matrix(stored["counts"], dtype=np.float32)
    return AnnData(counts, obs=pd.DataFrame(index=[f"q{i}" for i in range(counts.shape[0])]), var=pd.DataFrame(index=stored["features"]))


def test_a_stored_reference_opens(reference: Reference) -> None:
    described = reference.describe()
    assert (described["n_cells"], described["n_features"], described["n_latent"]) == (52, 40, 4)
    assert set(described["domains"]) == {"domain0", "domain1"}
    assert described["labels"] == ["batch", "cell_type"]
    assert described["statistics"] == "running"


@pytest.mark.parametrize(("statistics", "name"), [("running", "latent"), ("domain", "by_domain")])
def test_latents_are_the_stored_ones(reference: Reference, query: AnnData, stored: Stored, statistics: str, name: str) -> None:
    # Another CPU may round differently.
    np.testing.assert_allclose(reference.embed(query, statistics=statistics), stored[name], rtol=0, atol=1e-5)


def test_labels_are_the_stored_ones(reference: Reference, query: AnnData, stored: Stored) -> None:
    assert reference.transfer_labels(query)["label"].astype(str).tolist() == stored["labels"].tolist()
