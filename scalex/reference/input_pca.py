"""Principal components of the model's inputs: frozen with a reference, so that later cells can be compared with its cells in them.

What tells a type that the model never saw from those it knows is hardly in the latents; it is in the inputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse
from sklearn.decomposition import PCA

__all__ = ["INPUT_PCA", "InputPca"]

# Where the components are, in obsm and varm, and their origin, in uns.
INPUT_PCA = "input_pca"
N_COMPONENTS = 100
# More cells add nothing to the components, and more values take minutes: cells of many peaks have thousands.
MOST_CELLS = 50_000
MOST_VALUES = 10_000_000


@dataclass(frozen=True, eq=False)
class InputPca:
    """Principal components of model inputs.

    Attributes
    ----------
    components
        (n_features, n_components) float32.
    origin
        (n_components,) float32, where the mean of the inputs lies.
    """

    components: NDArray[np.float32]
    origin: NDArray[np.float32]

    @staticmethod
    def rows(n_cells: int, values_per_cell: float, *, seed: int = 124) -> NDArray[np.int64]:
        """Rows of the cells to fit to, ascending: all, or a random 50,000 of them, or as many as have ten million values above 0."""
        most = min(MOST_CELLS, int(MOST_VALUES / max(values_per_cell, 1)))
        if n_cells <= most:
            return np.arange(n_cells)
        return np.sort(np.random.default_rng(seed).choice(n_cells, most, replace=False))

    @classmethod
    def fit(cls, inputs: sparse.csr_matrix, *, seed: int = 124) -> Self:
        """Find the components of (n_cells, n_features) inputs."""
        n_features = inputs.shape[1]
        n_components = min(N_COMPONENTS, inputs.shape[0] - 1, n_features - 1)
        pca = PCA(n_components, svd_solver="arpack", random_state=seed).fit(inputs)
        components = np.ascontiguousarray(pca.components_.T, np.float32)
        return cls(components, pca.mean_.astype(np.float32) @ components)

    @classmethod
    def of(cls, adata: AnnData) -> Self | None:
        """Those that `add_to` put into an AnnData; None if there are none."""
        if INPUT_PCA not in adata.varm or INPUT_PCA not in adata.uns:
            return None
        return cls(np.asarray(adata.varm[INPUT_PCA]), np.asarray(adata.uns[INPUT_PCA]["origin"]))

    def add_to(self, adata: AnnData, coordinates: NDArray[np.float32] | None) -> None:
        """Keep the components and, unless they are kept elsewhere (None), the coordinates of the cells in them."""
        adata.varm[INPUT_PCA] = self.components
        adata.uns[INPUT_PCA] = {"origin": self.origin}
        if coordinates is not None:
            adata.obsm[INPUT_PCA] = coordinates

    def coordinates(self, inputs: sparse.csr_matrix, lacking: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """Coordinates of cells, (n_cells, n_components) float32; each depends on that cell alone.

        Parameters
        ----------
        inputs
            (n_cells, n_features) model inputs.
        lacking
            (n_features,) to be added to each row; see `scalex.preprocess.RowTransform`.
        """
        origin = self.origin if lacking is None else self.origin - lacking @ self.components
        return np.asarray(inputs @ self.components - origin, np.float32)
