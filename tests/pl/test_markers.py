from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import scalex

TABLE = pd.DataFrame(
    [
        ("a", "g0", 9.0, 2, 2), ("a", "g1", 8.0, 1, 2), ("a", "g2", 7.0, 2, 2), ("a", "g3", -5.0, 0, 2),
        ("b", "g0", 6.0, 2, 2), ("b", "g4", 5.0, 2, 2), ("b", "g5", 4.0, 2, 2),
    ],
    columns=["group", "feature", "score", "domains_higher", "domains"],
)  # fmt: skip


@pytest.fixture
def adata() -> AnnData:
    rng = np.random.default_rng(0)
    obs = pd.DataFrame({"leiden": pd.Categorical(rng.choice(["a", "b", "few"], 60))}, index=[f"c{i}" for i in range(60)])
    made = AnnData(rng.random((60, 6)).astype(np.float32), obs=obs, var=pd.DataFrame(index=[f"g{i}" for i in range(6)]))
    made.raw = made
    return made


def list_shown(axis: plt.Axes) -> list[str]:
    return [text.get_text() for text in axis.get_xticklabels()]


def test_markers_of_all_domains_come_first_and_each_once(adata: AnnData) -> None:
    axis = scalex.pl.markers(adata, TABLE, n_features=2)
    # g1 is higher in one of two domains only, g3 is lower, and g0 is shown for the first group.
    assert list_shown(axis) == ["g0", "g2", "g4", "g5"]
    assert [text.get_text() for text in axis.get_yticklabels()] == ["a", "b"]
    plt.close(axis.figure)


def test_without_domains_the_scores_decide(adata: AnnData) -> None:
    axis = scalex.pl.markers(adata, TABLE.drop(columns=["domains", "domains_higher"]), n_features=2)
    assert list_shown(axis) == ["g0", "g1", "g4", "g5"]
    plt.close(axis.figure)


def test_expression_may_be_in_x(adata: AnnData) -> None:
    adata.raw = None
    axis = scalex.pl.markers(adata, TABLE, n_features=1)
    assert list_shown(axis) == ["g0", "g4"]
    plt.close(axis.figure)


def test_a_table_from_a_file_has_numbers_for_the_names_of_clusters(adata: AnnData, tmp_path: Path) -> None:
    numbers = {"a": "0", "b": "1"}
    adata.obs["leiden"] = adata.obs["leiden"].cat.rename_categories(numbers)
    TABLE.assign(group=TABLE["group"].map(numbers)).to_csv(tmp_path / "markers.csv", index=False)
    axis = scalex.pl.markers(adata, pd.read_csv(tmp_path / "markers.csv"), n_features=2)
    assert [text.get_text() for text in axis.get_yticklabels()] == ["0", "1"]
    plt.close(axis.figure)


def test_an_unknown_column_is_an_error(adata: AnnData) -> None:
    with pytest.raises(KeyError, match=r"'type' is not in obs. Columns: leiden"):
        scalex.pl.markers(adata, TABLE, "type")


def test_a_table_of_other_groups_is_an_error(adata: AnnData) -> None:
    with pytest.raises(ValueError, match=r"The table has no markers of the groups in obs\['leiden'\]"):
        scalex.pl.markers(adata, TABLE.assign(group="z"))
