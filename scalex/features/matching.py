"""Which features of new cells are those that a trained model knows: by name, never by guessing."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scalex.features.names import ENSEMBL, without_version

__all__ = ["FeatureMatch", "match_features"]


class FeatureMatch(NamedTuple):
    """How the features of new cells relate to known ones.

    Attributes
    ----------
    position
        (len(given),) position among the known features, -1 where it is none of them.
    found
        (len(known),) which of the known features are there.
    n_without_version
        Number of features matched only after the versions of Ensembl identifiers were left out.
    n_repeated
        Number of features left out because another one already stands for the same known feature.
    case_only
        Pairs (known, given) of names that differ only in upper and lower case. They are not matched: mouse and human genes differ so.
    """

    position: NDArray[np.int64]
    found: NDArray[np.bool_]
    n_without_version: int
    n_repeated: int
    case_only: list[tuple[str, str]]


def match_features(known: pd.Index, given: pd.Index) -> FeatureMatch:
    """Match the names of features, in any order.

    Equal names match first; then Ensembl identifiers without their versions, those of both sides.

    Parameters
    ----------
    known
        Unique names.
    given
        Names; where one occurs again, the first counts.
    """
    position = np.asarray(known.get_indexer(given), np.int64)
    exact = position >= 0
    taken = np.zeros(len(known), bool)
    taken[position[exact]] = True
    # A given name without version may stand for a known one with it, and the other way.
    plain_known, plain_given = without_version(known), without_version(given)
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
    return FeatureMatch(position, found, n_without_version, int(repeated.sum()), _case_only(known[~found], given[position < 0]))


def _case_only(known: pd.Index, given: pd.Index) -> list[tuple[str, str]]:
    by_lower = pd.Series(given.astype(str), index=given.astype(str).str.lower())
    by_lower = by_lower[~by_lower.index.duplicated()]
    lower = known.astype(str).str.lower()
    return [(name, by_lower[key]) for name, key in zip(known, lower, strict=True) if key in by_lower.index]
