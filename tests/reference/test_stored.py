"""A reference stored by an earlier version opens, and gives the latents and labels that it gave then.

``stored/`` is the folder of a finished run: checkpoint format 2, version 2.0.0.dev0, 109 demo cells of two domains, 60 features. Its
``query.npz`` holds the counts of 24 other cells, half of them of a new domain and without 5 of the features, and what that version gave
for them. A new format gets a folder of its own beside this one, which stays as it is.
"""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from scalex.model.module import Statistics
from scalex.projection.reference import Reference

FOLDER = Path(__file__).parent / "stored"


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference.load(FOLDER)


@pytest.fixture(scope="module")
def stored() -> dict[str, np.ndarray]:
    with np.load(FOLDER / "query.npz") as file:
        return dict(file)


@pytest.fixture
def query(stored: dict[str, np.ndarray]) -> AnnData:
    obs = pd.DataFrame({"batch": stored["batch"]}, [f"c{i}" for i in range(len(stored["batch"]))])
    return AnnData(stored["counts"].astype(np.float32), obs, pd.DataFrame(index=stored["features"]))


# Processors add up in different orders.
@pytest.mark.parametrize("statistics", get_args(Statistics))
def test_the_latents_are_those_of_then(reference: Reference, query: AnnData, stored: dict[str, np.ndarray], statistics: Statistics) -> None:
    latent = reference.embed(query, statistics=statistics)
    np.testing.assert_allclose(latent, stored[f"latent_{statistics}"], rtol=1e-5, atol=1e-5)


def test_the_labels_are_those_of_then(reference: Reference, query: AnnData, stored: dict[str, np.ndarray]) -> None:
    assert list(reference.transfer_labels(query)["best"]) == list(stored["label"])
