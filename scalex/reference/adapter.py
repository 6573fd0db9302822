"""An adapter: where the latents of new cells belong whose domains are unlike all of the training.

Dimension letters: N cells, K regions, Z latent dimensions, P principal components of the inputs.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from scalex.model.base import Model
from scalex.model.correction import N_NEIGHBORS, average_neighbors
from scalex.model.mixed_clusters import WIDTH, first_centers
from scalex.system.atomic_files import atomic_write
from scalex.system.program import name_command

__all__ = ["Adapter", "DomainMap", "compute_fingerprint"]

ARRAYS, DESCRIPTION = "adapter.npz", "adapter.json"
PARTS = ("matrix_ZZ", "center_KZ", "factor_KZ", "offset_KZ", "shift_P")
# Number of the format. Files of a higher number are refused.
FORMAT = 1
# Smallest variance of a region, where the spread of the reference is 1.
MIN_VARIANCE = 1e-4
# Weight, relative to the mean variance within regions, with which the matrix is drawn to the identity.
MATRIX_RIDGE = 0.01


@dataclass(frozen=True, eq=False)
class DomainMap:
    """Where the latents of the cells of one domain belong: a matrix for all, then a mean of maps of regions, weighted by their nearness.

    The result for a cell depends on that cell and these numbers alone, to the bit.

    Attributes
    ----------
    matrix_ZZ
        (n_latent, n_latent) float64.
    center_KZ
        (n_regions, n_latent) float64 centres of the regions.
    factor_KZ, offset_KZ
        (n_regions, n_latent) float64: a region maps z to factor * (z @ matrix) + offset.
    shift_P
        (n_components,) float64, added to principal components of the inputs.
    width
        Squared distance from a centre at which the weight of a region is 1/e.
    """

    matrix_ZZ: NDArray[np.float64]
    center_KZ: NDArray[np.float64]
    factor_KZ: NDArray[np.float64]
    offset_KZ: NDArray[np.float64]
    shift_P: NDArray[np.float64]
    width: float

    @classmethod
    def fit(
        cls, latent: NDArray[np.float32], aligned: NDArray[np.float32], shift: NDArray[np.float64], *, spread: float, seed: int
    ) -> Self:
        """Fit the maps of regions to cells and their places after the alignment.

        Parameters
        ----------
        latent, aligned
            (n_cells, n_latent) latents, and where they belong.
        shift
            (n_components,) shift of the components.
        spread
            Root of the total variance of the reference's latents.
        seed
            Seed of the regions.
        """
        scaled_NZ = torch.from_numpy(latent) / spread
        center_KZ = first_centers(average_neighbors(scaled_NZ, scaled_NZ, N_NEIGHBORS), seed, n_least=1).numpy().astype(np.float64) * spread
        width = WIDTH * spread**2
        before_NZ, after_NZ = latent.astype(np.float64), aligned.astype(np.float64)
        weight_NK = _weigh(before_NZ, center_KZ, width)
        matrix_ZZ = _fit_matrix(before_NZ, after_NZ, weight_NK)
        means, variances = [], []
        for cell_NZ in (before_NZ @ matrix_ZZ, after_NZ):
            means.append(_mean_of_regions(cell_NZ, weight_NK))
            squares_KZ = _mean_of_regions(np.square(cell_NZ), weight_NK) - np.square(means[-1])
            variances.append(np.maximum(squares_KZ, 0) + MIN_VARIANCE * spread**2)
        factor_KZ = np.sqrt(variances[1] / variances[0])
        return cls(matrix_ZZ, center_KZ, factor_KZ, means[1] - factor_KZ * means[0], shift, width)

    @classmethod
    def identity(cls, n_latent: int, n_components: int) -> Self:
        """Return the map of cells that lie where they belong."""
        zero = np.zeros((1, n_latent))
        return cls(np.eye(n_latent), zero, np.ones((1, n_latent)), zero, np.zeros(n_components), 1.0)

    def apply(self, latent: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return where latents belong, (n_cells, n_latent) float32."""
        cell_NZ = latent.astype(np.float64)
        weight_NK = _weigh(cell_NZ, self.center_KZ, self.width)
        # Products of matrices round differently with the number of rows. These sums do not.
        factor_NZ, offset_NZ, turned_NZ = (
            np.einsum("nk,kz->nz", left, right, optimize=False)
            for left, right in ((weight_NK, self.factor_KZ), (weight_NK, self.offset_KZ), (cell_NZ, self.matrix_ZZ))
        )
        result: NDArray[np.float32] = (factor_NZ * turned_NZ + offset_NZ).astype(np.float32)
        return result


@dataclass(frozen=True, eq=False)
class Adapter:
    """Maps of the latents of new domains, fitted once and frozen. `scalex.Reference.fit_adapter` fits one.

    The reference and its model stay as they are. Given the adapter, the latent of a cell depends on that cell alone, if the encoder uses
    its running statistics.

    Attributes
    ----------
    maps
        The map of each domain, by name. A single map is that of all cells, whatever their domains.
    description
        Plain values: "fingerprint" of the model that the maps belong to, "fit_on", "seed", and for each of "domains" the number of cells,
        and how they lay before and after.
    """

    maps: Mapping[str, DomainMap]
    description: Mapping[str, Any]

    def check(self, model: Model, domains: Sequence[str], statistics: str | None = None) -> None:
        """Check that the adapter belongs to a model with encoder statistics (None: the model's), and has a map for each domain.

        Raises
        ------
        ValueError
            If not. The message says what to do.
        """
        if self.description["fingerprint"] != compute_fingerprint(model):
            raise ValueError("The adapter was fitted to the latents of another model: fit one with this reference (adapt=true).")
        used = statistics or model.hparams["statistics"]
        if self.description["statistics"] != used:
            raise ValueError(
                f"The adapter was fitted to latents with the encoder statistics {self.description['statistics']!r}, and these cells are "
                f"embedded with {used!r}: use the same statistics (SCALEX: eval=True for 'running')."
            )
        unknown = [name for name in domains if name not in self.maps]
        if unknown and len(self.maps) > 1:
            raise ValueError(
                f"The adapter has no map of the domains {', '.join(unknown[:5])}. It has: {', '.join(self.maps)}. Name the column of obs "
                "that tells the technology (dataset.batch_key), or fit an adapter to these cells (adapt=true)."
            )

    def apply(
        self, latent: NDArray[np.float32], domain: NDArray[np.int64], domains: Sequence[str], components: NDArray[np.float32] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Return where latents belong, and the principal components of their inputs, shifted alike.

        Parameters
        ----------
        latent
            (n_cells, n_latent) latents of the frozen encoder.
        domain, domains
            (n_cells,) codes of the domains, and their names.
        components
            (n_cells, n_components), or None.
        """
        latent, components = latent.copy(), None if components is None else components.copy()
        single = next(iter(self.maps.values())) if len(self.maps) == 1 else None
        for code in np.unique(domain):
            own = domain == code
            own_map = single or self.maps[domains[code]]
            latent[own] = own_map.apply(latent[own])
            if components is not None:
                components[own] += own_map.shift_P.astype(np.float32)
        return latent, components

    def save(self, folder: str | Path) -> None:
        """Write ``adapter.npz`` (plain arrays) and ``adapter.json`` to a folder, which is made if needed."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        arrays = {f"{part}/{i}": getattr(one, part) for i, one in enumerate(self.maps.values()) for part in PARTS}
        widths = np.array([one.width for one in self.maps.values()])
        with atomic_write(folder / ARRAYS) as path, path.open("wb") as file:
            np.savez(file, allow_pickle=False, width=widths, **arrays)
        values = {"format": FORMAT, "version": version("scalex"), "maps": list(self.maps), **self.description}
        with atomic_write(folder / DESCRIPTION) as path:
            path.write_text(json.dumps(values, indent=2))

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Open the folder of an adapter. No code from it is executed.

        Raises
        ------
        FileNotFoundError
            If the folder holds no adapter.
        ValueError
            If its files are damaged or have a newer format.
        """
        folder = Path(folder)
        if not (folder / DESCRIPTION).is_file() or not (folder / ARRAYS).is_file():
            raise FileNotFoundError(f"adapter={folder}: no adapter is there. {name_command('project')} adapt=true writes one.")
        try:
            values = json.loads((folder / DESCRIPTION).read_text())
            newer = values["format"] > FORMAT
            with (folder / ARRAYS).open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                maps = {
                    name: DomainMap(**{part: arrays[f"{part}/{i}"] for part in PARTS}, width=float(arrays["width"][i]))
                    for i, name in enumerate(values.pop("maps"))
                }
        except (ValueError, KeyError, TypeError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"{folder} is not a readable adapter ({error}).") from error
        if newer:
            raise ValueError(f"{folder} is not a readable adapter: it was written by scalex {values['version']}. Update scalex.")
        return cls(maps, values)


def compute_fingerprint(model: Model) -> str:
    """Return a hash of a model's weights: two versions of a reference have the same if their cells lie in the same space."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(value.detach().cpu().numpy()).tobytes())
    return digest.hexdigest()[:16]


def _fit_matrix(before_NZ: NDArray[np.float64], after_NZ: NDArray[np.float64], weight_NK: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the matrix that maps differences within regions best, by ridge regression that is drawn to the identity."""
    within_NZ, wanted_NZ = (cell_NZ - weight_NK @ _mean_of_regions(cell_NZ, weight_NK) for cell_NZ in (before_NZ, after_NZ))
    squares_ZZ = within_NZ.T @ within_NZ
    ridge_ZZ = (MATRIX_RIDGE * np.trace(squares_ZZ) / len(squares_ZZ) + np.finfo(np.float64).tiny) * np.eye(len(squares_ZZ))
    matrix_ZZ: NDArray[np.float64] = np.linalg.solve(squares_ZZ + ridge_ZZ, within_NZ.T @ wanted_NZ + ridge_ZZ)
    return matrix_ZZ


def _mean_of_regions(cell_NZ: NDArray[np.float64], weight_NK: NDArray[np.float64]) -> NDArray[np.float64]:
    mean_KZ: NDArray[np.float64] = weight_NK.T @ cell_NZ / weight_NK.sum(0)[:, None]
    return mean_KZ


def _weigh(cell_NZ: NDArray[np.float64], center_KZ: NDArray[np.float64], width: float) -> NDArray[np.float64]:
    """Return the weight of each region for each cell, (n_cells, n_regions) with sum 1."""
    squared_NK = cdist(cell_NZ, center_KZ, "sqeuclidean") / width
    weight_NK = np.exp(squared_NK.min(1, keepdims=True) - squared_NK)
    result: NDArray[np.float64] = weight_NK / weight_NK.sum(1, keepdims=True)
    return result
