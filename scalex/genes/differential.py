"""Differences of expression between two conditions, tested on pseudobulk of samples."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from pydantic import SkipValidation
from scipy import sparse

from scalex.features.columns import require_column
from scalex.genes.counts import find_no_count
from scalex.genes.pseudobulk import DROPPED
from scalex.system.settings import Count, Number, check_call

__all__ = ["Differences", "compare_conditions"]

logger = logging.getLogger(__name__)

COLUMNS = ["label", "feature", "mean", "log2_fold_change", "standard_error", "statistic", "p", "adjusted_p"]
# Columns of PyDESeq2's results.
RENAMED = {
    "baseMean": "mean", "log2FoldChange": "log2_fold_change", "lfcSE": "standard_error", "stat": "statistic", "pvalue": "p",
    "padj": "adjusted_p",
}  # fmt: skip


class Differences(NamedTuple):
    """The result of `compare_conditions`.

    Attributes
    ----------
    table
        A row for each label and tested feature, by label and rising p-value: "label", "feature", "mean" (of the normalized counts),
        "log2_fold_change" (condition over baseline) with its "standard_error", "statistic" (Wald), "p", and "adjusted_p"
        (Benjamini-Hochberg within the label; missing for features with too few counts, and for outliers).
    refused
        The labels that were not tested, with the reason.
    """

    table: pd.DataFrame
    refused: dict[str, str]


@check_call
def compare_conditions(
    pseudobulk: AnnData,
    label: str,
    condition: str,
    *,
    treated: SkipValidation[object],
    baseline: SkipValidation[object],
    sample: str,
    adjust_for: str | Sequence[str] = ("domain",),
    min_replicates: Count = 2,
    min_counts: Number = 10,
) -> Differences:
    """Test each label's features for a difference between two conditions, by PyDESeq2 on the sums of samples.

    The samples are the replicates: cells of one donor are not independent. The design is ``~ adjust_for + condition``.

    Parameters
    ----------
    pseudobulk
        Sums of counts, as `make_pseudobulk` returns them.
    label, condition, sample
        Columns of its obs: types or clusters, conditions, and the samples that are replicates. Sums without a value are left out.
    treated, baseline
        The conditions that are compared: values of `condition`.
    adjust_for
        Columns of obs whose effect is removed first: the technology, or the donor if each has both conditions. Their values are
        categories, also where they are numbers.
    min_replicates
        Fewest samples of each condition with which a label is tested.
    min_counts
        Features with fewer counts in all samples of a label are not tested.

    Returns
    -------
    Differences
        The tests, and the labels that were not tested.

    Raises
    ------
    KeyError
        If there is no such column.
    ValueError
        If the values are no sums of counts of samples, if there is no such condition, or if no label can be tested. The message says
        why: too few replicates, or a condition that goes along with the columns of `adjust_for`, so that their effects cannot be told
        apart.
    ImportError
        If PyDESeq2 is not installed.

    References
    ----------
    Love et al., Moderated estimation of fold change and dispersion for RNA-seq data with DESeq2, Genome Biology 15:550 (2014).
    Muzellec et al., PyDESeq2, Bioinformatics 39:btad547 (2023).
    """
    names = [adjust_for] if isinstance(adjust_for, str) else list(dict.fromkeys(adjust_for))
    if missing := [name for name in names if name not in pseudobulk.obs]:
        raise KeyError(
            f"adjust_for={', '.join(missing)}: the sums have no such column. It may vary within them, as the domain may within a sample. "
            f"Name another column, or none (adjust_for=[]). Columns: {', '.join(map(str, pseudobulk.obs.columns))}."
        )
    options = {label: "label", condition: "condition", sample: "sample"}
    table = pd.DataFrame({name: require_column(pseudobulk.obs, name, options.get(name, "adjust_for")) for name in [*options, *names]})
    sides = {"treated": str(treated), "baseline": str(baseline)}
    for option, side in sides.items():
        if side not in table[condition].cat.categories or sides["treated"] == sides["baseline"]:
            allowed = ", ".join(table[condition].cat.categories)
            raise ValueError(f"{option}={side!r}: allowed are two different values of {condition!r}: {allowed}.")
    known = table.notna().all(axis=1).to_numpy()
    if not known.all():
        logger.info("%d sums without a value in one of the columns are left out", (~known).sum())
    pseudobulk, table = pseudobulk[known], table[known]
    counts = pseudobulk.X.toarray() if sparse.issparse(pseudobulk.X) else np.asarray(pseudobulk.X)
    if (wrong := find_no_count(counts.ravel())) is not None:
        raise ValueError(
            f"The tests need sums of counts (scalex genes pseudobulk; in Python make_pseudobulk), and X holds others, such as {wrong:g}."
        )
    if table.duplicated(list(options)).any():
        raise ValueError(
            f"There are several rows for the same {label}, {condition} and {sample}. The samples are the replicates, and not their cells: "
            "give sums of samples (scalex genes pseudobulk; in Python make_pseudobulk)."
        )
    tables, refused = [], {}
    for one in table[label].cat.remove_unused_categories().cat.categories:
        member = ((table[label] == one) & table[condition].isin(list(sides.values()))).to_numpy()
        obs, values = table[member].astype(str), counts[member]
        factors, is_treated = obs[names], (obs[condition] == sides["treated"]).to_numpy()
        tested = values.sum(0) >= min_counts
        reason = find_obstacle(is_treated, obs[sample].to_numpy(str), factors, min_replicates)
        if reason is None and not tested.any():
            reason = f"no feature has {min_counts} counts (min_counts)"
        if reason is None:
            # Names may be there several times.
            found = _test(pd.DataFrame(values[:, tested], obs.index.astype(str)), is_treated, factors)
            found["feature"] = pseudobulk.var_names[tested][found["feature"].astype(int)]
            tables.append(found.assign(label=one))
            logger.info("%s: %s features tested in %d samples", one, f"{tested.sum():,}", len(obs))
        else:
            refused[str(one)] = reason
            logger.info("%s: not tested: %s", one, reason)
    dropped = pseudobulk.uns.get(DROPPED)
    if isinstance(dropped, pd.DataFrame) and label in dropped:
        left = set(map(str, dropped[label])) - set(table[label].astype(str))
        refused |= dict.fromkeys(sorted(left), "all its sums were of too few cells (min_cells of the pseudobulk)")
    if not tables:
        reasons = [
            f"{', '.join(name for name, its in refused.items() if its == reason)}: {reason}" for reason in dict.fromkeys(refused.values())
        ]
        raise ValueError(f"No label can be tested. {'; '.join(reasons)}.")
    return Differences(pd.concat(tables, ignore_index=True)[COLUMNS], refused)


def find_obstacle(is_treated: NDArray[np.bool_], sample: NDArray[np.str_], factors: pd.DataFrame, min_replicates: int) -> str | None:
    """Return why a difference cannot be tested, or None.

    Parameters
    ----------
    is_treated
        (n_sums,) whether each sum is of the treated condition.
    sample
        (n_sums,) its sample.
    factors
        (n_sums, n_factors) the columns to adjust for, as text.
    min_replicates
        Fewest samples of each condition.
    """
    n_treated, n_baseline = (len(np.unique(sample[of_side])) for of_side in (is_treated, ~is_treated))
    if min(n_treated, n_baseline) < min_replicates:
        return f"it has {n_treated} treated and {n_baseline} baseline samples, and {min_replicates} of each are needed (min_replicates)"
    without = np.hstack([np.ones((len(factors), 1)), *(pd.get_dummies(factors[name], dtype=float).to_numpy() for name in factors)])
    rank = np.linalg.matrix_rank(np.column_stack([without, is_treated]))
    if rank == np.linalg.matrix_rank(without):
        single = [name for name in factors if not factors[name][is_treated].isin(factors[name][~is_treated]).any()]
        why = f"each value of {' and '.join(single)} has one condition only" if single else f"{' and '.join(factors)} together determine it"
        return f"the condition cannot be told apart from what is adjusted for: {why} (adjust_for; [] adjusts for nothing)"
    chosen = choose_factors(factors)
    if 1 + sum(factors[name].nunique() - 1 for name in chosen) > np.linalg.matrix_rank(without):
        return f"{' and '.join(chosen)} partly say the same: leave one of them out (adjust_for)"
    if len(factors) <= rank:
        return f"{len(factors)} sums are too few for {rank} coefficients (adjust_for)"
    return None


def choose_factors(factors: pd.DataFrame) -> list[str]:
    """Return the columns to adjust for without those that others determine, as the donor determines the technology."""
    chosen: list[str] = []
    for name in sorted(factors, key=lambda name: -factors[name].nunique()):
        if len(factors[[*chosen, name]].drop_duplicates()) > (len(factors[chosen].drop_duplicates()) if chosen else 1):
            chosen.append(name)
    return [name for name in factors if name in chosen]


def _test(counts: pd.DataFrame, is_treated: NDArray[np.bool_], factors: pd.DataFrame) -> pd.DataFrame:
    """Return PyDESeq2's tests of the features of one label, by rising p-value."""
    try:
        from pydeseq2.dds import DeseqDataSet
        from pydeseq2.ds import DeseqStats
    except ImportError as error:
        raise ImportError("compare_conditions needs PyDESeq2, which is not installed: pip install 'scalex[de]'.") from error
    # The names and values of a user may mean something else in a formula.
    varying = choose_factors(factors)
    columns = {f"factor{i}": "value" + pd.Series(pd.factorize(factors[name])[0]).astype(str) for i, name in enumerate(varying)}
    metadata = pd.DataFrame(columns | {"condition": np.where(is_treated, "treated", "baseline")}).set_axis(counts.index)
    with warnings.catch_warnings():
        # PyDESeq2 tells of each fit that does not converge, and of its own libraries.
        warnings.simplefilter("ignore")
        design = f"~ {' + '.join(metadata)}"
        fitted = DeseqDataSet(counts=counts, metadata=metadata, design=design, quiet=True, n_cpus=1)
        fitted.deseq2()
        tests = DeseqStats(fitted, contrast=["condition", "treated", "baseline"], quiet=True, n_cpus=1)
        tests.summary()
    return tests.results_df.rename(columns=RENAMED).rename_axis("feature").sort_values("p", kind="stable").reset_index()
