"""Explanations of why sources share few features, with what to do."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from scalex.features.names import format_names, is_ensembl, strip_version
from scalex.features.peaks import are_peaks, parse_regions
from scalex.features.species import find_species_codes

__all__ = ["explain_mismatch"]

# Share of names that must be in common under a candidate explanation for it to be given.
MIN_SHARE = 0.2
# Names that are compared.
N_COMPARED = 5000


def explain_mismatch(features: Sequence[pd.DataFrame], names: Sequence[str], cells: Sequence[Sequence[str]] = ()) -> str | None:
    """Return the likely reason why sources share few features, or None if there is no obvious one.

    Parameters
    ----------
    features
        Table of the features of each source.
    names
        Names of the sources.
    cells
        Some names of the cells of each source, if known.
    """
    # A transposed source comes first: it would fit the other explanations as well.
    for i, own in enumerate(cells):
        for j, var in enumerate(features):
            if i != j and _compute_share(pd.Index(own), var.index) >= MIN_SHARE:
                return (
                    f"The names of the cells of {names[i]} are features of {names[j]} ({format_names(own, 3)}): one of the two is "
                    "transposed. Text files with a row for each cell need transpose=true, and all files must have the same orientation."
                )
    for i in range(1, len(features)):
        reason = _explain_pair(features[0], features[i], names[0], names[i])
        if reason is not None:
            return reason
    return None


def _explain_pair(one: pd.DataFrame, other: pd.DataFrame, name: str, other_name: str) -> str | None:
    if are_peaks(one.index) and are_peaks(other.index):
        return _explain_peaks(one.index, other.index, name, other_name)
    examples = f"{name}: {format_names(one.index, 3)}; {other_name}: {format_names(other.index, 3)}"
    if are_peaks(one.index) != are_peaks(other.index):
        peaks, genes = (name, other_name) if are_peaks(one.index) else (other_name, name)
        return f"The features of {peaks} are peaks and those of {genes} are not ({examples}). Compute gene activities from the peaks first."
    for var, target, source in ((one, other, name), (other, one, other_name)):
        for column in var.columns:
            if _compute_share(strip_version(pd.Index(var[column])), strip_version(target.index)) >= MIN_SHARE:
                kinds = "symbols and Ensembl identifiers" if is_ensembl(one.index) != is_ensembl(other.index) else "different names"
                return (
                    f"The sources use {kinds} ({examples}). var[{str(column)!r}] of {source} holds the names that the other uses: set "
                    f"var_names_from={column}."
                )
    if is_ensembl(one.index) != is_ensembl(other.index):
        return (
            f"One source uses Ensembl identifiers and the other symbols ({examples}). If a column of var holds the other kind, name it "
            f"with var_names_from (columns of {name}: {format_names(one.columns)}; of {other_name}: {format_names(other.columns)}). "
            "Otherwise translate the names of one source."
        )
    species = [find_species_codes(var.index) for var in (one, other)]
    if all(species) and not species[0] & species[1]:
        return (
            f"The Ensembl identifiers belong to different species ({examples}): human ones start with ENSG, mouse ones with ENSMUSG. "
            "Map one source to orthologues first."
        )
    lower = _compute_share(pd.Index(one.index.str.lower()), pd.Index(other.index.str.lower()))
    if lower >= MIN_SHARE and lower > 2 * _compute_share(one.index, other.index):
        return (
            f"The names differ in case ({examples}). Mouse genes are written Actb and human genes ACTB: if these are two species, map one "
            "source to orthologues first."
        )
    return None


def _explain_peaks(one: pd.Index, other: pd.Index, name: str, other_name: str) -> str:
    examples = f"{name}: {format_names(one, 2)}; {other_name}: {format_names(other, 2)}"
    canonical = [pd.Index([f"{c}:{s}-{e}" for c, s, e in parse_regions(own).itertuples(index=False)]) for own in (one, other)]
    if _compute_share(*canonical) >= MIN_SHARE:
        return (
            f"The names of the same peaks have different formats ({examples}). Rename the peaks of one source, or use match_peaks=overlap, "
            "which reads both formats."
        )
    return (
        f"The peaks have different coordinates ({examples}): they were called separately for each source, or on different genomes. Count "
        "all cells on the same peaks, or use match_peaks=overlap, which merges overlapping peaks of one genome."
    )


def _compute_share(one: pd.Index, other: pd.Index) -> float:
    """Return the share of the shorter source's names that the longer one also has, estimated from a sample."""
    if len(one) == 0 or len(other) == 0:
        return 0.0
    shorter, longer = (one, other) if len(one) <= len(other) else (other, one)
    tested = shorter.unique()
    if len(tested) > N_COMPARED:
        tested = tested[np.random.default_rng(0).choice(len(tested), N_COMPARED, replace=False)]
    return float(tested.isin(longer).mean())
