"""What the model gets of all cells, in one file: made once for all runs that want the same of the same cells."""

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
from scalex.system.atomic_files import atomic_create

__all__ = ["InputCache"]

logger = logging.getLogger(__name__)

FORMAT = 1


class InputCache:
    """The inputs of kept cells and the preprocessing that made them, as an .h5ad file.

    The file is called after all that it depends on, so that other cells or options have another one; it is there whole or not at all.

    Parameters
    ----------
    folder
        Where the file is.
    depends_on
        Says what the inputs are made of: sources with size and time, and options.
    """

    def __init__(self, folder: str | Path, depends_on: str) -> None:
        digest = hashlib.sha256(f"{FORMAT}\n{depends_on}".encode()).hexdigest()
        self.path = Path(folder) / f"inputs-{digest[:20]}.h5ad"

    def fitted(self) -> FittedRecipe | None:
        """The preprocessing; None if there is no file yet. One that cannot be read is removed."""
        if not self.path.exists():
            return None
        try:
            with h5py.File(self.path) as file:
                found = FittedRecipe.load(io.BytesIO(file["uns/fitted"][()].tobytes()))
                StoredMatrix(self.path, "X")
        except (OSError, KeyError, ValueError, RuntimeError) as error:
            logger.warning("The cache %s cannot be read (%s): it is made again.", self.path, error)
            self.path.unlink()
            return None
        return found

    def inputs(self) -> StoredMatrix:
        """The inputs, (n_kept, n_features), a row for each kept cell."""
        return StoredMatrix(self.path, "X")

    def write(self, data: ScalexDataModule) -> None:
        """Read all kept cells of a data module once, and write what the model gets of them.

        Of several runs that do so at once each writes a file of its own; the first one stays.
        """
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
