from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from anndata import AnnData

import scalex
from scalex.pl.composition import find_single_domain_clusters


def test_bars_are_the_shares_of_the_domains() -> None:
    cluster, domain = ["0"] * 4 + ["1"] * 2, ["a", "a", "a", "b", "b", "b"]
    obs = pd.DataFrame({"leiden": pd.Categorical(cluster), "domain": pd.Categorical(domain)}, index=list("uvwxyz"))
    axis = scalex.pl.composition(AnnData(obs=obs))
    widths = [[bar.get_width() for bar in bars] for bars in axis.containers]  # type: ignore[union-attr]
    np.testing.assert_allclose(widths, [[0.75, 0], [0.25, 1]])
    plt.close("all")


def test_clusters_of_one_domain_are_found() -> None:
    cluster = pd.Series(["0"] * 20 + ["1"] * 20 + ["2"] * 5)
    domain = pd.Series(["a", "b"] * 10 + ["a"] * 19 + ["b"] + ["b"] * 5)
    found = find_single_domain_clusters(cluster, domain)
    # Cluster 2 has too few cells.
    assert found.to_dict("index") == {"1": {"domain": "a", "share": 0.95, "cells": 20}}
    assert find_single_domain_clusters(cluster, pd.Series(["a"] * 45)).empty
