"""What the names of features are, and of which species, as far as they tell it for certain."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from scalex.features.names import ENSEMBL, format_names, is_ensembl, strip_version
from scalex.features.peaks import are_peaks

__all__ = ["describe_names", "find_species_codes", "guess_species"]

# Names that are compared.
N_COMPARED = 5000
# The species of Ensembl identifiers; those of human genes have no letters between ENS and the kind of the feature.
SPECIES: Mapping[str, str] = {
    "ENS": "human (Homo sapiens)",
    "ENSMUS": "mouse (Mus musculus)",
    "ENSRNO": "rat (Rattus norvegicus)",
    "ENSDAR": "zebrafish (Danio rerio)",
    "ENSSSC": "pig (Sus scrofa)",
    "ENSMMU": "rhesus macaque (Macaca mulatta)",
}


def find_species_codes(names: pd.Index) -> set[str]:
    """Return the first letters of Ensembl identifiers, ENS for human and ENSMUS for mouse; nothing for other names."""
    tested = strip_version(names[:N_COMPARED])
    return set(tested[tested.str.fullmatch(ENSEMBL)].str.slice(stop=-12)) if is_ensembl(names) else set()


def guess_species(names: pd.Index) -> str | None:
    """Return the species of features by their Ensembl identifiers, or None. Symbols are alike in many species, so they tell nothing."""
    codes = find_species_codes(names)
    return SPECIES.get(codes.pop()) if len(codes) == 1 else None


def describe_names(names: pd.Index) -> str:
    """Return in words what the names of features are, with the first of them."""
    kind = "Ensembl identifiers" if is_ensembl(names) else "peaks" if are_peaks(names) else "symbols or other names"
    return f"{kind} ({format_names(names, 3)})"
