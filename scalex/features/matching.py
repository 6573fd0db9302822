"""Matching of a query's features to those of a trained model, by name only."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scalex.features.names import ENSEMBL, strip_version

__all__ = ["FeatureMatch", "match_features"]


class FeatureMatch(NamedTuple):
    """The relation of given features to known features.

    Attributes
    ----------
    position
        (len(given),) position among the known features, -1 for a feature that is not known.
    found
        (len(known),) which of the known features are given.
    n_without_version
        Number of features matched only after removing the versions of Ensembl identifiers.
    n_repeated
        Number of features ignored because another one already matches the same known feature.
    case_only
        Pairs (known, given) of names that differ only in case. They do not match: mouse and human genes differ in this way.
    """

    position: NDArray[np.int64]
    found: NDArray[np.bool_]
    n_without_version: int
    n_repeated: int
    case_only: list[tuple[str, str]]


def match_features(known: pd.Index, given: pd.Index) -> FeatureMatch:
    """Match the names of features, in any order.

    Equal names match first, then Ensembl identifiers without their versions.

    Parameters
    ----------
    known
        Unique names.
    given
        Names. Of repeated names the first counts.
    """
    position = np.asarray(known.get_indexer(given), np.int64)
    exact = position >= 0
    taken = np.zeros(len(known), bool)
    taken[position[exact]] = True
    # Either side may have versions.
    plain_known, plain_given = strip_version(known), strip_version(given)
    by_id = pd.Series(np.arange(len(known)), index=plain_known)
    by_id = by_id[~by_id.index.duplicated()]
    is_id = plain_given.str.fullmatch(ENSEMBL)
    later = np.flatnonzero(~exact & np.asarray(is_id, bool))
    position[later] = by_id.reindex(plain_given[later]).fillna(-1).to_numpy(np.int64)
    repeated = (position >= 0) & (pd.Series(position).duplicated().to_numpy() | (~exact & taken[position]))
    position[repeated] = -1
    found = np.zeros(len(known), bool)
    found[position[position >= 0]] = True
    n_without_version = int(np.count_nonzero(position[later] >= 0))
    return FeatureMatch(position, found, n_without_version, int(repeated.sum()), _find_case_pairs(known[~found], given[position < 0]))


def _find_case_pairs(known: pd.Index, given: pd.Index) -> list[tuple[str, str]]:
    by_lower = pd.Series(given.astype(str), index=given.astype(str).str.lower())
    by_lower = by_lower[~by_lower.index.duplicated()]
    lower = known.astype(str).str.lower()
    return [(name, by_lower[key]) for name, key in zip(known, lower, strict=True) if key in by_lower.index]
