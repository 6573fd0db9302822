"""A file of the model's inputs, shared by runs with the same cells and preprocessing."""

from __future__ import annotations

import hashlib
import io
import logging
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd

from scalex.cells import StoredMatrix
from scalex.data import ScalexDataModule
from scalex.h5ad.block_writer import BlockWriter
from scalex.preprocess import FittedRecipe
from scalex.system.atomic_files import atomic_create, remove_unfinished

__all__ = ["InputCache"]

logger = logging.getLogger(__name__)

# 2: a single source has the domain of its name.
FORMAT = 2


class InputCache:
    """Inputs of the kept cells and their preprocessing in an .h5ad file.

    The name of the file is a hash of what it depends on, so that other cells or options have another file. It is written whole.

    Parameters
    ----------
    folder
        Folder of the file.
    depends_on
        Text that identifies the sources, with size and time, and the options.
    """

    def __init__(self, folder: str | Path, depends_on: str) -> None:
        digest = hashlib.sha256(f"{FORMAT}\n{depends_on}".encode()).hexdigest()
        self.path = Path(folder) / f"inputs-{digest[:20]}.h5ad"

    def load_fitted(self) -> FittedRecipe | None:
        """Load the preprocessing; None if there is no file. An unreadable file is removed, as are those of killed processes."""
        remove_unfinished(self.path.parent)
        if not self.path.exists():
            return None
        try:
            with h5py.File(self.path) as file:
                fitted = FittedRecipe.load(io.BytesIO(file["uns/fitted"][()].tobytes()))
                StoredMatrix(self.path, "X")
        except (OSError, KeyError, ValueError, RuntimeError) as error:
            logger.warning("The cache %s cannot be read (%s): it is written again.", self.path, error)
            self.path.unlink()
            return None
        return fitted

    def open_inputs(self) -> StoredMatrix:
        """Open the inputs of the kept cells, (n_cells, n_features)."""
        return StoredMatrix(self.path, "X")

    def write(self, data: ScalexDataModule) -> None:
        """Write the inputs of all kept cells. Of several runs that write at once, the first to end leaves its file."""
        logger.info("Writes the inputs of %s cells to the cache %s", f"{len(data.rows):,}", self.path)
        with atomic_create(self.path) as path, h5py.File(path, "w") as file:
            writer = BlockWriter(file)
            var = pd.DataFrame(index=data.preprocessor.features)
            for part in data.row_chunks():
                obs = pd.DataFrame({"domain": pd.Categorical.from_codes(data.domain[part], list(data.domains))})
                obs.index = data.rows[part].astype(str)
                writer.append(ad.AnnData(data.inputs(part), obs=obs, var=var))
            saved = io.BytesIO()
            FittedRecipe(data.preprocessor, data.rows).save(saved)
            writer.finish(uns={"fitted": np.frombuffer(saved.getvalue(), np.uint8)})
