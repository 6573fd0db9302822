from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from anndata import AnnData
from scipy import stats
from sklearn.metrics import roc_auc_score

from scalex.genes import find_markers

N_CELLS, N_FEATURES = 240, 12


@pytest.fixture
def adata() -> AnnData:
    """Three groups in three domains. Feature 0 marks group a everywhere, feature 1 only in the first domain."""
    rng = np.random.default_rng(0)
    obs = pd.DataFrame(
        {"leiden": pd.Categorical(rng.choice(["a", "b", "c"], N_CELLS)), "domain": pd.Categorical(rng.choice(["x", "y", "z"], N_CELLS))},
        index=[f"cell{i}" for i in range(N_CELLS)],
    )
    counts = rng.poisson(1.0, (N_CELLS, N_FEATURES)).astype(np.float32)
    in_a = (obs["leiden"] == "a").to_numpy()
    counts[in_a, 0] += 4
    counts[in_a & (obs["domain"] == "x").to_numpy(), 1] += 6
    counts[in_a & (obs["domain"] != "x").to_numpy(), 1] = 0
    made = AnnData(counts, obs=obs, var=pd.DataFrame(index=[f"gene{i}" for i in range(N_FEATURES)]))
    sc.pp.normalize_total(made, target_sum=1e4)
    sc.pp.log1p(made)
    made.raw = made
    made.X = None
    return made


def get_row(table: pd.DataFrame, group: str, feature: str) -> pd.Series:
    (row,) = (one for _, one in table[(table["group"] == group) & (table["feature"] == feature)].iterrows())
    return row


def test_effects_are_those_of_scikit_learn_and_scipy(adata: AnnData) -> None:
    table = find_markers(adata)
    assert len(table) == 3 * N_FEATURES
    values = np.asarray(adata.raw.X)
    for group in "abc":
        is_in = (adata.obs["leiden"] == group).to_numpy()
        for i in range(N_FEATURES):
            row = get_row(table, group, f"gene{i}")
            assert row["auroc"] == pytest.approx(roc_auc_score(is_in, values[:, i]), abs=1e-6)
            assert row["share_in"] == pytest.approx((values[is_in, i] > 0).mean())
            assert row["share_out"] == pytest.approx((values[~is_in, i] > 0).mean())
            fold = np.log2((np.expm1(values[is_in, i].mean()) + 1e-9) / (np.expm1(values[~is_in, i].mean()) + 1e-9))
            assert row["log2_fold_change"] == pytest.approx(fold, abs=1e-3)
            assert np.sign(row["score"]) == np.sign(stats.ranksums(values[is_in, i], values[~is_in, i]).statistic)


def test_agreement_counts_domains(adata: AnnData) -> None:
    table = find_markers(adata)
    everywhere, in_one = (get_row(table, "a", name) for name in ("gene0", "gene1"))
    assert (everywhere["domains_higher"], everywhere["domains"]) == (3, 3)
    assert (in_one["domains_higher"], in_one["domains"]) == (1, 3)
    values, obs = np.asarray(adata.raw.X), adata.obs
    for _, row in table.iterrows():
        feature = adata.raw.var_names.get_loc(row["feature"])
        means = [
            (values[(obs["domain"] == one) & (obs["leiden"] == row["group"]), feature].mean(),
             values[(obs["domain"] == one) & (obs["leiden"] != row["group"]), feature].mean())
            for one in "xyz"
        ]  # fmt: skip
        assert row["domains_higher"] == sum(inside > outside for inside, outside in means)


def test_a_domain_with_few_cells_does_not_count(adata: AnnData) -> None:
    is_few = (adata.obs["domain"] == "z") & (adata.obs["leiden"] == "a")
    few = adata[~is_few | (np.cumsum(is_few) <= 9)].copy()
    table = find_markers(few)
    assert set(table.loc[table["group"] == "a", "domains"]) == {2}
    assert set(table.loc[table["group"] == "b", "domains"]) == {3}
    assert set(find_markers(few, min_cells=5)["domains"]) == {3}


def test_the_best_features_come_first(adata: AnnData) -> None:
    table = find_markers(adata, n_features=3)
    assert len(table) == 9
    assert table[table["group"] == "a"]["feature"].iloc[0] == "gene0"
    for _, part in table.groupby("group"):
        assert part["score"].is_monotonic_decreasing


def test_small_groups_are_among_the_others(adata: AnnData) -> None:
    labels = adata.obs["leiden"].astype(str).to_numpy()
    labels[:4] = "few"
    adata.obs["leiden"] = pd.Categorical(labels)
    table = find_markers(adata)
    assert set(table["group"]) == {"a", "b", "c"}
    values, is_in = np.asarray(adata.raw.X), labels == "a"
    assert get_row(table, "a", "gene5")["auroc"] == pytest.approx(roc_auc_score(is_in, values[:, 5]), abs=1e-6)


def test_cells_without_a_label_are_among_the_others(adata: AnnData) -> None:
    adata.obs["leiden"] = adata.obs["leiden"].where(np.arange(N_CELLS) >= 30)
    values, is_in = np.asarray(adata.raw.X), (adata.obs["leiden"] == "b").to_numpy()
    assert get_row(find_markers(adata), "b", "gene2")["auroc"] == pytest.approx(roc_auc_score(is_in, values[:, 2]), abs=1e-6)


def test_without_domains_agreement_is_not_told(adata: AnnData) -> None:
    assert "domains" not in find_markers(adata, domain=None)


def test_the_cells_stay_as_they_are(adata: AnnData) -> None:
    before = adata.copy()
    find_markers(adata)
    pd.testing.assert_frame_equal(adata.obs, before.obs)
    assert list(adata.uns) == list(before.uns)


@pytest.mark.filterwarnings("error::pandas.errors.PerformanceWarning")
def test_many_groups_give_no_warnings() -> None:
    obs = pd.DataFrame({"leiden": pd.Categorical(np.repeat(np.arange(30).astype(str), 10))}, index=np.arange(300).astype(str))
    made = AnnData(obs=obs)
    made.raw = AnnData(np.random.default_rng(0).random((300, 5), np.float32), obs=obs)
    assert find_markers(made, domain=None)["group"].nunique() == 30


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groupby": "type"}, r"groupby='type' is not in obs. Columns: leiden, domain"),
        ({"domain": "lab"}, r"domain='lab' is not in obs"),
    ],
)
def test_an_unknown_column_is_an_error(adata: AnnData, options: dict[str, str], message: str) -> None:
    with pytest.raises(KeyError, match=message):
        find_markers(adata, **options)


@pytest.mark.parametrize("kind", [int, "category"])
def test_groups_may_be_numbers(adata: AnnData, kind: str) -> None:
    expected = find_markers(adata)
    adata.obs["number"] = adata.obs["leiden"].map({"a": 2, "b": 10, "c": 11}).astype(int).astype(kind)
    found = find_markers(adata, "number")
    # In their order, as text.
    assert list(dict.fromkeys(found["group"])) == ["2", "10", "11"]
    pd.testing.assert_frame_equal(found.drop(columns="group"), expected.drop(columns="group"))


def test_counts_are_an_error(adata: AnnData) -> None:
    raw = adata.raw.to_adata()
    raw.X = np.asarray(raw.X) * 100
    adata.raw = raw
    with pytest.raises(ValueError, match=r"Markers need logarithmic expression, and adata\.raw has values up to"):
        find_markers(adata)


def test_repeated_names_of_features_are_an_error(adata: AnnData) -> None:
    raw = adata.raw.to_adata()
    raw.var_names = ["twice", "twice", *raw.var_names[2:]]
    adata.raw = raw
    with pytest.raises(ValueError, match=r"Names of features in adata\.raw are not unique \(twice\)"):
        find_markers(adata)


@pytest.mark.parametrize("option", ["n_features", "min_cells"])
def test_numbers_below_1_are_an_error(adata: AnnData, option: str) -> None:
    with pytest.raises(ValueError, match=f"{option}=0: a whole number of at least 1"):
        find_markers(adata, **{option: 0})


def test_a_single_group_is_an_error(adata: AnnData) -> None:
    adata.obs["leiden"] = "a"
    with pytest.raises(ValueError, match=r"groupby='leiden': markers need two groups of 10 cells or more, and there are 1"):
        find_markers(adata)


def test_absent_expression_is_an_error(adata: AnnData) -> None:
    adata.raw = None
    with pytest.raises(ValueError, match=r"Markers need normalized expression, and there is none \(adata\.raw is None\)"):
        find_markers(adata)
