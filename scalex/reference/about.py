"""What the maker of a packed reference says of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from scalex.h5ad.uns_values import convert_to_uns

__all__ = ["PACKED_RAW_VAR", "About"]

# Where adata.h5ad of a packed reference has the annotation of the kept features: anndata opens no raw without a matrix.
PACKED_RAW_VAR = "uns/scalex/raw_var"


@dataclass(frozen=True)
class About:
    """What the maker of a packed reference says of it. None of it was given for a run folder.

    Attributes
    ----------
    title, species, license, contact
        Text for people, or None.
    all_columns
        Whether the reference has all columns of its cells' annotation.
    """

    title: str | None = None
    species: str | None = None
    license: str | None = None
    contact: str | None = None
    all_columns: bool = True

    @classmethod
    def from_uns(cls, uns: Mapping[str, Any]) -> Self:
        """Return what `to_uns` has stored in uns of an AnnData."""
        told: Any = uns
        for name in ("scalex", "about"):
            told = told.get(name, {}) if isinstance(told, Mapping) else {}
        if not isinstance(told, Mapping):
            return cls()
        texts = {name: str(told[name]) for name in ("title", "species", "license", "contact") if name in told}
        return cls(**texts, all_columns=bool(told.get("all_columns", True)))

    def update(self, told: Self, *, all_columns: bool) -> Self:
        """Return these texts with those of `told` that are not None in their places, of cells that lack columns unless `all_columns`."""
        texts = {name: getattr(told, name) or getattr(self, name) for name in ("title", "species", "license", "contact")}
        return type(self)(**texts, all_columns=self.all_columns and all_columns)

    def to_uns(self) -> dict[str, Any]:
        """Return values for uns["scalex"]["about"] of an AnnData."""
        return convert_to_uns(asdict(self))
