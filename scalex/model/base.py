"""What the data module, the callbacks, checkpoints and projection ask of a model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
import pandas as pd
from lightning import LightningModule
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from scalex.model.load import load_checkpoint
from scalex.model.options import Statistics
from scalex.model.trained_on import TrainedOn
from scalex.nn.batch import CellBatch

__all__ = ["AllCells", "Embedded", "Model", "TrainingCells"]


class TrainingCells(Protocol):
    """The cells of a training, as a model may ask for them."""

    @property
    def domain(self) -> NDArray[np.int64]:
        """(n_cells,) code of each cell's domain."""
        ...

    @property
    def label(self) -> pd.Categorical | None:
        """(n_cells,) label of each cell."""
        ...

    def batches(self) -> Iterable[CellBatch]:
        """Return all cells in chunks, or this process's share of the chunks."""
        ...

    def batches_of(self, rows: NDArray[np.int64]) -> Iterable[CellBatch]:
        """Return the given cells, ascending, in chunks."""
        ...


class AllCells(NamedTuple):
    """All cells of the domains in chunks, for a process that embeds a share of them, and the number of their domains."""

    batches: Iterable[CellBatch]
    n_domains: int


class Embedded(NamedTuple):
    """Some cells and their latents, (n_cells, n_latent) float32, on the device of the model."""

    batch: CellBatch
    latent_CZ: Tensor


class Model(LightningModule, ABC):
    """A model of cells: Lightning trains it, and it embeds cells.

    A subclass also defines Lightning's `training_step` and `configure_optimizers`, and logs ``train/loss`` once an epoch. Its
    hyperparameters include ``n_latent``, ``batch_size``, ``sampling``, ``max_steps``, ``max_epochs`` and ``statistics``.

    Attributes
    ----------
    trained_on
        Features, domains and preprocessing, from the data; None before `set_trained_on`.
    loss_is_comparable
        Whether the loss of this epoch can be compared with the losses of later epochs.
    """

    trained_on: TrainedOn | None = None
    loss_is_comparable: bool = True
    cells: TrainingCells | None = None

    def set_trained_on(self, trained_on: TrainedOn, cells: TrainingCells | None = None) -> None:
        """Make the network, if there is none. Training calls this with its cells, loading a checkpoint without."""
        has_network = self.trained_on is not None
        self.trained_on = trained_on
        self.cells = cells
        if not has_network:
            self.make_network(trained_on)

    def minibatch_size(self, n_domains: int) -> int:
        """Return the most cells of a training minibatch of so many domains."""
        size: int = self.hparams["batch_size"]
        return size

    def count_steps(self, n_cells: int) -> int:
        """Return the most steps of a training on so many cells."""
        n_steps: int = self.hparams["max_steps"]
        return n_steps

    @abstractmethod
    def make_network(self, trained_on: TrainedOn) -> None:
        """Make the modules for the numbers of features and domains."""

    @abstractmethod
    def embed(
        self,
        batches: Iterable[CellBatch],
        statistics: Statistics | None = None,
        *,
        fill_value: NDArray[np.float32] | None = None,
        all_cells: AllCells | None = None,
    ) -> Iterator[Embedded]:
        """Yield the latents of cells chunk by chunk.

        Parameters
        ----------
        batches
            The cells, read twice with "domain" statistics.
        statistics
            Encoder statistics. None: the hyperparameter's.
        fill_value
            (n_features,) inputs of the features that the cells do not have, and 0 for the others.
        all_cells
            The cells that "domain" statistics are computed from. None: `batches`, over all processes.
        """

    @abstractmethod
    def impute(self, latent: NDArray[np.float32], domain: NDArray[np.int64]) -> NDArray[np.float32]:
        """Decode latents, (n_cells, n_latent), through domains: (n_cells, n_features) float32 in the units of normalized expression."""

    @abstractmethod
    def feature_weights(self) -> NDArray[np.float32]:
        """Return how much the encoder uses each feature, (n_features,) with sum 1."""

    @abstractmethod
    def trial_loss(self, batch: CellBatch) -> Tensor:
        """Return the loss of a minibatch outside a training; a forecast measures how long its step takes."""

    @abstractmethod
    def describe(self) -> str:
        """Return the sizes and options as one line of the log."""

    def count_embeddings(self, n_steps: float, n_cells: int) -> int:
        """Return how often a training of `n_steps` embeds all cells before its end."""
        return 0

    def check_start(self, trained: Model) -> None:
        """Check that training can start from a trained model.

        Raises
        ------
        ValueError
            If it cannot.
        """
        raise ValueError(f"{type(self).__name__} cannot start from a trained model: train it on the old cells and the new ones together.")

    def start_from(self, trained: Model, inputs: sparse.csr_matrix, domain: NDArray[np.int64]) -> None:
        """Take the weights of a trained model, and start new domains from their cells.

        Parameters
        ----------
        trained
            A model with the same features, whose domains come first here.
        inputs, domain
            (n_cells, n_features) inputs and (n_cells,) domain codes of the new cells.
        """
        raise NotImplementedError

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the name of the class, and what the model is trained on."""
        assert self.trained_on is not None
        checkpoint["trained_on"] = self.trained_on.to_plain()
        checkpoint["model"] = type(self).__name__

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Make the network that the weights belong to.

        Raises
        ------
        ValueError
            If training would go on with other features or domains.
        """
        saved = TrainedOn.from_plain(checkpoint["trained_on"])
        known = self.trained_on or saved
        self.set_trained_on(known, self.cells)
        saved.check_continued_by(known)

    @classmethod
    def from_checkpoint(cls, path: str | Path) -> Self:
        """Load a trained model; see `scalex.model.load.load_checkpoint`."""
        return load_checkpoint(path, {cls.__name__: cls})
