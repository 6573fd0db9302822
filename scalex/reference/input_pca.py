"""Principal components of the model's inputs, frozen with a reference, so that new cells can be compared with its cells.

The latents hardly distinguish a type that the model has never seen from the known types. The inputs do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse
from sklearn.decomposition import PCA

__all__ = ["INPUT_PCA", "STEPS", "InputPca"]

# Key of the coordinates in obsm, of the components in varm and of their origin in uns.
INPUT_PCA = "input_pca"
# Key of the steps in uns. A packed reference has its coordinates in whole numbers of them.
STEPS = "steps"
N_COMPONENTS = 100
# More cells do not improve the components. More values take minutes: cells of many peaks have thousands.
MAX_CELLS = 50_000
MAX_VALUES = 10_000_000


@dataclass(frozen=True, eq=False)
class InputPca:
    """Principal components of model inputs.

    Attributes
    ----------
    components
        (n_features, n_components) float32.
    origin
        (n_components,) float32, coordinates of the mean input.
    """

    components: NDArray[np.float32]
    origin: NDArray[np.float32]

    @staticmethod
    def choose_rows(n_cells: int, values_per_cell: float, *, seed: int = 124) -> NDArray[np.int64]:
        """Return the rows to fit to, ascending: all, or a random sample of at most 50,000 cells and about ten million values above 0."""
        max_cells = min(MAX_CELLS, int(MAX_VALUES / max(values_per_cell, 1)))
        if n_cells <= max_cells:
            return np.arange(n_cells)
        return np.sort(np.random.default_rng(seed).choice(n_cells, max_cells, replace=False))

    @classmethod
    def fit(cls, inputs: sparse.csr_matrix, *, seed: int = 124) -> Self:
        """Fit the components to inputs, (n_cells, n_features)."""
        n_features = inputs.shape[1]
        n_components = min(N_COMPONENTS, inputs.shape[0] - 1, n_features - 1)
        pca = PCA(n_components, svd_solver="arpack", random_state=seed).fit(inputs)
        components = np.ascontiguousarray(pca.components_.T, np.float32)
        return cls(components, pca.mean_.astype(np.float32) @ components)

    @classmethod
    def from_anndata(cls, adata: AnnData) -> Self | None:
        """Return the components that `add_to` has added to an AnnData, or None if there are none."""
        if INPUT_PCA not in adata.varm or INPUT_PCA not in adata.uns:
            return None
        return cls(np.asarray(adata.varm[INPUT_PCA]), np.asarray(adata.uns[INPUT_PCA]["origin"]))

    def add_to(self, adata: AnnData, coordinates: NDArray[np.float32] | None) -> None:
        """Add the components to an AnnData, and the coordinates of its cells, (n_cells, n_components), unless they are None."""
        adata.varm[INPUT_PCA] = self.components
        adata.uns[INPUT_PCA] = {"origin": self.origin}
        if coordinates is not None:
            adata.obsm[INPUT_PCA] = coordinates

    def transform(self, inputs: sparse.csr_matrix, fill_value: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """Return the coordinates of cells, (n_cells, n_components) float32. Those of a cell depend on that cell alone.

        Parameters
        ----------
        inputs
            (n_cells, n_features) model inputs.
        fill_value
            (n_features,) values to add to each row; see `scalex.preprocess.RowTransform`.
        """
        origin = self.origin if fill_value is None else self.origin - fill_value @ self.components
        return np.asarray(inputs @ self.components - origin, np.float32)
