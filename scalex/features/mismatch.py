"""Why sources share few features, in words that say what to do."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from scalex.features.names import ENSEMBL, is_ensembl, listed, without_version
from scalex.features.peaks import are_peaks, regions

__all__ = ["why_few_are_shared"]

# Share of names that a column of var or another way of writing has to have in common with the other source, to be the explanation.
MANY = 0.2
# Names that are looked at.
LOOKED_AT = 5000


def why_few_are_shared(features: Sequence[pd.DataFrame], names: Sequence[str], cells: Sequence[Sequence[str]] = ()) -> str | None:
    """The likely reason; None where there is none to be seen.

    Parameters
    ----------
    features
        Table of the features of each source.
    names
        Of the sources.
    cells
        Some names of the cells of each source, if known.
    """
    # First, since cells differ from features in all the ways in which features do.
    for i, own in enumerate(cells):
        for j, var in enumerate(features):
            if i != j and _share(pd.Index(own), var.index) >= MANY:
                return (
                    f"The cells of {names[i]} are called like the features of {names[j]} ({listed(own, 3)}): one of the two is turned. "
                    "Text files are read with transpose=true if they have a row for each cell; they all need to be alike."
                )
    for i in range(1, len(features)):
        why = _why(features[0], features[i], names[0], names[i])
        if why is not None:
            return why
    return None


def _why(one: pd.DataFrame, other: pd.DataFrame, name: str, other_name: str) -> str | None:
    if are_peaks(one.index) and are_peaks(other.index):
        return _why_peaks(one.index, other.index, name, other_name)
    examples = f"{name}: {listed(one.index, 3)}; {other_name}: {listed(other.index, 3)}"
    if are_peaks(one.index) != are_peaks(other.index):
        peaks, genes = (name, other_name) if are_peaks(one.index) else (other_name, name)
        return f"The features of {peaks} are peaks and those of {genes} are not ({examples}): turn the peaks into gene activities first."
    for var, target, source in ((one, other, name), (other, one, other_name)):
        for column in var.columns:
            if _share(without_version(pd.Index(var[column].astype(str))), without_version(target.index)) >= MANY:
                kinds = "symbols and Ensembl identifiers" if is_ensembl(one.index) != is_ensembl(other.index) else "other kinds of names"
                return (
                    f"The sources use {kinds} ({examples}). Those of the other one are in var[{str(column)!r}] of {source}: use "
                    f"var_names_from={column}."
                )
    if is_ensembl(one.index) != is_ensembl(other.index):
        return (
            f"Some features are called by Ensembl identifiers and some by symbols ({examples}). If a column of var holds the other kind, "
            f"name it with var_names_from (columns of {name}: {listed(one.columns)}; of {other_name}: {listed(other.columns)}); else "
            "translate one of them."
        )
    species = [_ensembl_species(var.index) for var in (one, other)]
    if all(species) and not species[0] & species[1]:
        return (
            f"The Ensembl identifiers are of different species ({examples}): those of human begin with ENSG and those of mouse with "
            "ENSMUSG. Translate one of them by their orthologues first."
        )
    lower = _share(pd.Index(one.index.str.lower()), pd.Index(other.index.str.lower()))
    if lower >= MANY and lower > 2 * _share(one.index, other.index):
        return (
            f"The names differ in upper and lower case ({examples}). Mouse genes are written Actb and human genes ACTB: if these are of "
            "two species, translate one of them by their orthologues first."
        )
    return None


def _why_peaks(one: pd.Index, other: pd.Index, name: str, other_name: str) -> str:
    examples = f"{name}: {listed(one, 2)}; {other_name}: {listed(other, 2)}"
    alike = [pd.Index([f"{c}:{s}-{e}" for c, s, e in regions(own).itertuples(index=False)]) for own in (one, other)]
    if _share(*alike) >= MANY:
        return (
            f"The same peaks are written in different ways ({examples}). Rename those of one of them, or use match_peaks=overlap, which "
            "reads both."
        )
    return (
        f"The peaks have different coordinates ({examples}): they were called for each source by itself, or on different genomes. Count "
        "all cells on the same peaks, or use match_peaks=overlap, which unites those that overlap (on one genome)."
    )


def _ensembl_species(names: pd.Index) -> set[str]:
    """What Ensembl identifiers have before the letter of their kind, ENS for human and ENSMUS for mouse; nothing if the names are none."""
    looked = without_version(names[:LOOKED_AT])
    return set(looked[looked.str.fullmatch(ENSEMBL)].str.slice(stop=-12)) if is_ensembl(names) else set()


def _share(one: pd.Index, other: pd.Index) -> float:
    """Share of the names of the shorter that the other has too, of some."""
    if len(one) == 0 or len(other) == 0:
        return 0.0
    looked = one.unique() if len(one) <= len(other) else other.unique()
    whole = other if len(one) <= len(other) else one
    if len(looked) > LOOKED_AT:
        looked = looked[np.random.default_rng(0).choice(len(looked), LOOKED_AT, replace=False)]
    return float(looked.isin(whole).mean())
