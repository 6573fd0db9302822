"""Peaks: parsing of their names and matching by overlap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

__all__ = ["MatchPeaks", "are_peaks", "merge_overlapping", "match_by_overlap", "parse_regions"]

MatchPeaks: TypeAlias = Literal["exact", "overlap"]

# chr1:100-200, chr1-100-200, chr1_100_200; the chromosome with or without "chr", or a scaffold: GL000194.1, chrUn_KI270742v1.
PEAK = r"^(?P<chromosome>(?:chr)?(?:\d+|X|Y|MT?)|chr[\w.]+|[A-Z]{2}_?\d+\.\d+)[:_\-](?P<start>\d+)[_\-](?P<end>\d+)$"
# Share of names that must be regions for all to count as peaks.
MIN_SHARE = 0.9


def parse_regions(names: pd.Index) -> pd.DataFrame:
    """Return chromosome ("chr1"), start and end of each name, in the order of `names`; missing where a name is no region.

    Returns
    -------
    DataFrame
        "chromosome" text, "start" and "end" float64 (bases), indexed by `names`.
    """
    found = pd.Series(names.astype(str), index=names).str.extract(PEAK)
    chromosome = found["chromosome"]
    bare = chromosome.str.fullmatch(r"\d+|X|Y|M|MT", na=False)
    found["chromosome"] = chromosome.where(~bare, "chr" + chromosome.replace("MT", "M"))
    return found.assign(start=found["start"].astype(float), end=found["end"].astype(float))


def are_peaks(names: pd.Index) -> bool:
    """Return whether almost all names are regions of chromosomes."""
    return len(names) > 0 and float(parse_regions(names[:1000])["start"].notna().mean()) >= MIN_SHARE


def merge_overlapping(sources: Sequence[pd.Index], names: Sequence[str]) -> list[pd.Index]:
    """Merge overlapping peaks of all sources into regions, and return the region of each peak.

    A region is the union of a chain of peaks in which each overlaps the next.

    Parameters
    ----------
    sources
        Names of the peaks of each source.
    names
        Names of the sources, for messages.

    Returns
    -------
    list of Index
        The region of each peak of each source, such as "chr1:100-900". Several peaks may share a region.

    Raises
    ------
    ValueError
        If a name is no region.
    """
    tables = [parse_regions(one) for one in sources]
    for table, source in zip(tables, names, strict=True):
        wrong = table.index[table["start"].isna() | ~(table["start"] < table["end"])]
        if len(wrong):
            raise ValueError(
                f"match_peaks='overlap': {len(wrong):,} features of {source} are not regions ({', '.join(map(str, wrong[:3]))}). Name each "
                "peak like chr1:100-200, with the start before the end."
            )
    together = pd.concat(tables, ignore_index=True)
    order = together.sort_values(["chromosome", "start"], kind="stable").index
    ordered = together.loc[order]
    # A region continues while a peak starts before the end of an earlier one.
    reached = ordered.groupby("chromosome", sort=False)["end"].cummax()
    new_chromosome = (ordered["chromosome"] != ordered["chromosome"].shift()).to_numpy()
    starts = new_chromosome | (ordered["start"].to_numpy() >= reached.shift(fill_value=-1.0).to_numpy())
    region = np.cumsum(starts) - 1
    first = ordered[starts]
    last = ordered["end"].groupby(region).max()
    text = first["chromosome"].to_numpy() + [f":{int(start)}-{int(end)}" for start, end in zip(first["start"], last, strict=True)]
    renamed: NDArray[np.object_] = np.empty(len(together), object)
    renamed[order] = text[region]
    ends = np.cumsum([len(one) for one in sources])
    return [pd.Index(own) for own in np.split(renamed, ends[:-1])]


def match_by_overlap(known: pd.Index, given: pd.Index) -> NDArray[np.int64]:
    """Return the position of the known peak that each given peak overlaps most, (len(given),); -1 if it overlaps none."""
    table, wanted = parse_regions(known).reset_index(drop=True), parse_regions(given).reset_index(drop=True)
    found = np.full(len(given), -1, np.int64)
    for chromosome, own in wanted.groupby("chromosome", sort=False):
        there = table[table["chromosome"] == chromosome].sort_values("start", kind="stable")
        start, end = there["start"].to_numpy(), there["end"].to_numpy()
        # Of the known peaks sorted by start, those in [first, stop) may overlap.
        first = np.searchsorted(np.maximum.accumulate(end), own["start"], side="right")
        stop = np.maximum(np.searchsorted(start, own["end"], side="left"), first)
        row = np.repeat(np.arange(len(own)), stop - first)
        other = np.arange(len(row)) - np.repeat(np.cumsum(stop - first) - stop, stop - first)
        overlap = np.minimum(own["end"].to_numpy()[row], end[other]) - np.maximum(own["start"].to_numpy()[row], start[other])
        # The largest overlap of each peak comes last.
        order = np.lexsort((-other, overlap, row))
        best = order[np.append(np.diff(row[order]) > 0, True)] if len(row) else order
        best = best[overlap[best] > 0]
        found[own.index[row[best]]] = there.index[other[best]]
    return found
