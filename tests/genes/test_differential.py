from __future__ import annotations

import logging
import sys
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from pydeseq2.dds import DeseqDataSet
from pydeseq2.ds import DeseqStats
from scipy import sparse

from scalex.genes import compare_conditions
from scalex.genes.differential import find_obstacle

N_FEATURES = 60
# PyDESeq2 warns of few samples and of its own libraries.
pytestmark = pytest.mark.filterwarnings("ignore")


def make_sums(n_donors: int = 4, *, paired: bool = False, label: str = "T") -> AnnData:
    """Return sums of samples in which feature 0 doubles four times and feature 1 halves as often with the condition."""
    rng = np.random.default_rng(0)
    donors = [f"d{i}" for i in range(n_donors)]
    rows = [(one, side) for side in ("ctrl", "stim") for one in donors] if paired else [
        (f"{side}{one}", side) for side in ("ctrl", "stim") for one in donors
    ]  # fmt: skip
    obs = pd.DataFrame(rows, columns=["donor", "condition"])
    obs["type"], obs["lab"] = label, np.where(np.arange(len(obs)) % 2 == 0, "A", "B")
    mean = rng.gamma(2.0, 60.0, N_FEATURES) * np.ones((len(obs), 1))
    mean[(obs["condition"] == "stim").to_numpy(), 0] *= 16
    mean[(obs["condition"] == "stim").to_numpy(), 1] /= 16
    mean[(obs["lab"] == "B").to_numpy(), 2] *= 8
    counts = rng.negative_binomial(20, 20 / (20 + mean)).astype(np.int64)
    obs.index = [f"sum{i}" for i in range(len(obs))]
    return AnnData(counts, obs=obs, var=pd.DataFrame(index=[f"g{i}" for i in range(N_FEATURES)]))


SIDES = {"treated": "stim", "baseline": "ctrl", "sample": "donor"}


def test_results_are_those_of_pydeseq2() -> None:
    sums = make_sums()
    found = compare_conditions(sums, "type", "condition", adjust_for=["lab"], **SIDES).table.set_index("feature")
    counts = pd.DataFrame(sums.X, sums.obs_names, sums.var_names)
    fitted = DeseqDataSet(counts=counts, metadata=sums.obs, design="~ lab + condition", quiet=True)
    fitted.deseq2()
    tests = DeseqStats(fitted, contrast=["condition", "stim", "ctrl"], quiet=True)
    tests.summary()
    expected = tests.results_df.loc[found.index]
    np.testing.assert_allclose(found["log2_fold_change"], expected["log2FoldChange"], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found["adjusted_p"], expected["padj"], rtol=1e-3)
    np.testing.assert_allclose(found["mean"], expected["baseMean"], rtol=1e-6)


def test_the_features_that_change_come_first_with_their_direction() -> None:
    table = compare_conditions(make_sums(), "type", "condition", adjust_for=["lab"], **SIDES).table
    assert set(table["feature"][:2]) == {"g0", "g1"}
    change = table.set_index("feature")["log2_fold_change"]
    assert change["g0"] == pytest.approx(4, abs=0.7)
    assert change["g1"] == pytest.approx(-4, abs=0.7)
    assert (table["adjusted_p"] < 0.05).sum() <= 4
    assert table["p"].is_monotonic_increasing


def test_each_label_is_tested_alone() -> None:
    first, second = make_sums(label="T"), make_sums(3, label="B")
    second.obs_names = [f"other{i}" for i in range(second.n_obs)]
    both = AnnData(np.vstack([first.X, second.X]), obs=pd.concat([first.obs, second.obs]), var=first.var)
    found = compare_conditions(both, "type", "condition", adjust_for=[], **SIDES).table
    alone = compare_conditions(second, "type", "condition", adjust_for=[], **SIDES).table
    pd.testing.assert_frame_equal(found[found["label"] == "B"].reset_index(drop=True), alone)


def test_a_donor_with_both_conditions_can_be_adjusted_for() -> None:
    found = compare_conditions(make_sums(paired=True), "type", "condition", adjust_for=["donor"], **SIDES)
    assert set(found.table["feature"][:2]) == {"g0", "g1"}


def test_names_and_values_need_not_fit_a_formula() -> None:
    sums = make_sums()
    sums.obs["my lab (place)"] = sums.obs["lab"].map({"A": "St. Mary's + Co", "B": "~1"})
    sums.obs["condition"] = sums.obs["condition"].map({"stim": "IFN-β 10%", "ctrl": "none: 0"})
    found = compare_conditions(
        sums, "type", "condition", treated="IFN-β 10%", baseline="none: 0", sample="donor", adjust_for=["my lab (place)"]
    ).table
    expected = compare_conditions(make_sums(), "type", "condition", adjust_for=["lab"], **SIDES).table
    pd.testing.assert_frame_equal(found, expected)


def test_features_with_few_counts_are_not_tested() -> None:
    sums = make_sums()
    sums.X[:, 5] = 0
    sums.X[0, 5] = 9
    table = compare_conditions(sums, "type", "condition", adjust_for=[], **SIDES).table
    assert "g5" not in set(table["feature"])
    assert len(table) == N_FEATURES - 1


def test_labels_with_few_samples_are_refused_with_the_reason() -> None:
    sums = make_sums()
    sums.obs["type"] = ["T"] * 7 + ["few"]
    found = compare_conditions(sums, "type", "condition", adjust_for=[], **SIDES)
    assert set(found.table["label"]) == {"T"}
    assert found.refused == {"few": "it has 1 treated and 0 baseline samples, and 2 of each are needed (min_replicates)"}


@pytest.mark.parametrize(
    ("factors", "is_treated", "expected"),
    [
        ({"lab": "AABB"}, "0011", "each value of lab has one condition only"),
        ({"lab": "AABB", "day": "1122"}, "0011", "each value of lab and day has one condition only"),
        # (lab B) - (day 2) is 1 for the treated and 0 for the others.
        ({"lab": "ABBABB", "day": "112112"}, "010010", "lab and day together determine it"),
        ({"lab": "ABCA", "day": "1231"}, "0011", "4 sums are too few for 4 coefficients"),
        ({"lab": "ABAB"}, "0011", None),
        ({}, "0011", None),
    ],
)
def test_what_cannot_be_told_apart_is_found(factors: dict[str, str], is_treated: str, expected: str | None) -> None:
    treated = np.array([one == "1" for one in is_treated])
    table = pd.DataFrame({name: list(values) for name, values in factors.items()}, index=range(len(treated)))
    found = find_obstacle(treated, np.arange(len(treated)).astype(str), table, 2)
    if expected is None:
        assert found is None
    else:
        assert found is not None
        assert expected in found


def test_a_condition_that_goes_along_with_the_domain_is_an_error() -> None:
    sums = make_sums()
    sums.obs["domain"] = sums.obs["donor"]
    reason = (
        r"No label can be tested. T: the condition cannot be told apart from what is adjusted for: each value of domain has one condition"
    )
    with pytest.raises(ValueError, match=reason):
        compare_conditions(sums, "type", "condition", **SIDES)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"treated": "stimulated"}, r"treated='stimulated': allowed are two different values of 'condition': ctrl, stim"),
        ({"baseline": "stim"}, r"'stim': allowed are two different values of 'condition': ctrl, stim"),
    ],
)
def test_an_unknown_condition_is_an_error(changed: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare_conditions(make_sums(), "type", "condition", adjust_for=[], **(SIDES | changed))


@pytest.mark.parametrize("option", ["label", "condition", "sample", "adjust_for"])
def test_an_unknown_column_is_an_error(option: str) -> None:
    options = {"label": "type", "condition": "condition", "adjust_for": []} | SIDES | {option: "no" if option != "adjust_for" else ["no"]}
    with pytest.raises(KeyError, match=rf"{option}='?no'?.*\. Columns: donor, condition, type, lab"):
        compare_conditions(make_sums(), **options)


@pytest.mark.parametrize("kind", [int, bool, "category"])
def test_conditions_may_be_numbers(kind: Any) -> None:
    sums = make_sums()
    expected = compare_conditions(sums, "type", "condition", adjust_for="lab", **SIDES).table
    sums.obs["dose"] = (sums.obs["condition"] == "stim").astype(int).astype(kind)
    values = (True, False) if kind is bool else (1, 0)
    for treated, baseline in (values, map(str, values)):
        found = compare_conditions(sums, "type", "dose", adjust_for=["lab"], treated=treated, baseline=baseline, sample="donor").table
        pd.testing.assert_frame_equal(found, expected)


@pytest.mark.parametrize("column", ["type", "condition", "donor", "lab"])
def test_sums_without_a_value_are_left_out(column: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    sums = make_sums()
    expected = compare_conditions(sums[1:].copy(), "type", "condition", adjust_for=["lab"], **SIDES).table
    sums.obs.loc["sum0", column] = np.nan
    pd.testing.assert_frame_equal(compare_conditions(sums, "type", "condition", adjust_for=["lab"], **SIDES).table, expected)
    assert "1 sums without a value in one of the columns are left out" in caplog.text


def test_names_may_be_there_several_times() -> None:
    sums = make_sums()
    expected = compare_conditions(sums, "type", "condition", adjust_for=["lab"], **SIDES).table
    sums.var_names, sums.obs_names = ["g0", "g0", *sums.var_names[2:]], ["sum"] * sums.n_obs
    found = compare_conditions(sums, "type", "condition", adjust_for=["lab"], **SIDES).table
    pd.testing.assert_frame_equal(found.drop(columns="feature"), expected.drop(columns="feature"))


def test_sums_without_counts_are_refused() -> None:
    sums = make_sums()
    sums.X = sums.X * 0
    with pytest.raises(ValueError, match=r"No label can be tested\. T: no feature has 10 counts \(min_counts\)\."):
        compare_conditions(sums, "type", "condition", adjust_for=[], **SIDES)


def test_columns_that_others_determine_change_nothing() -> None:
    sums = make_sums(paired=True)
    sums.obs["technology"] = sums.obs["donor"].map({"d0": "v2", "d1": "v2", "d2": "v3", "d3": "v3"})
    expected = compare_conditions(sums, "type", "condition", adjust_for=["donor"], **SIDES).table
    for adjust_for in (["donor", "technology"], ["technology", "donor"], ["donor", "donor"]):
        pd.testing.assert_frame_equal(compare_conditions(sums, "type", "condition", adjust_for=adjust_for, **SIDES).table, expected)


def test_columns_that_partly_say_the_same_are_refused() -> None:
    # Neither determines the other, but both tell the first half from the second.
    factors = pd.DataFrame({"lane": list("aabbccdd") * 2, "day": list("xyxyzwzw") * 2})
    is_treated, sample = np.repeat([True, False], 8), np.arange(16).astype(str)
    assert find_obstacle(is_treated, sample, factors, 2) == "lane and day partly say the same: leave one of them out (adjust_for)"
    assert find_obstacle(is_treated, sample, factors[["lane"]], 2) is None


def test_labels_without_sums_are_listed() -> None:
    sums = make_sums()
    sums.uns["dropped_groups"] = pd.DataFrame({"type": ["rare", "T"], "donor": "d0", "psbulk_cells": 3})
    refused = compare_conditions(sums, "type", "condition", adjust_for=[], **SIDES).refused
    assert refused == {"rare": "all its sums were of too few cells (min_cells of the pseudobulk)"}


def test_an_absent_column_of_the_default_names_the_way_out() -> None:
    with pytest.raises(KeyError, match=r"adjust_for=domain: the sums have no such column\. .*or none \(adjust_for=\[\]\)\. Columns: donor"):
        compare_conditions(make_sums(), "type", "condition", **SIDES)


def test_without_pydeseq2_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydeseq2.dds", None)
    with pytest.raises(ImportError, match=r"compare_conditions needs PyDESeq2, which is not installed: pip install 'scalex\[de\]'"):
        compare_conditions(make_sums(), "type", "condition", adjust_for=[], **SIDES)


def test_a_sparse_matrix_gives_the_same() -> None:
    sums = make_sums()
    expected = compare_conditions(sums, "type", "condition", adjust_for=[], **SIDES).table
    sums.X = sparse.csr_matrix(sums.X)
    pd.testing.assert_frame_equal(compare_conditions(sums, "type", "condition", adjust_for=[], **SIDES).table, expected)


def test_cells_are_no_samples() -> None:
    sums = make_sums()
    sums.obs["donor"] = "d1"
    with pytest.raises(ValueError, match=r"There are several rows for the same type, condition and donor. The samples are the replicates"):
        compare_conditions(sums, "type", "condition", adjust_for=[], **SIDES)


@pytest.mark.parametrize("value", [0.25, -2.0, np.nan])
def test_values_that_are_no_counts_are_an_error(value: float) -> None:
    sums = make_sums()
    sums.X = sums.X.astype(float)
    sums.X[0, 3] = value
    with pytest.raises(ValueError, match=r"The tests need sums of counts \(.*make_pseudobulk\), and X holds others, such"):
        compare_conditions(sums, "type", "condition", adjust_for=[], **SIDES)
