"""The trained thing: the VAE with its loss, optimizer, schedule and checkpoint."""

from __future__ import annotations

import logging
import pickle
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self, get_args

import numpy as np
import torch
from lightning import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from numpy.typing import NDArray
from torch import Tensor

from scalex.model.correction_plan import CorrectionPlan, TrainingCells
from scalex.model.inference import Embedded, decode, embed, statistics_by_domain
from scalex.model.trained_on import TrainedOn
from scalex.nn import (
    VAE,
    MinibatchCounts,
    kl_divergence,
    n_processes,
    reconstruction_loss,
    summed,
)
from scalex.nn.batch import CellBatch, Sampling

__all__ = ["Losses", "Schedule", "ScalexModule", "Statistics"]

logger = logging.getLogger(__name__)

Schedule = Literal["constant", "one_cycle"]
Statistics = Literal["running", "domain"]

# On an accelerator, looking at the loss stops the queue of work; once in so many steps is often enough.
CHECK_EVERY = 50


class Losses(NamedTuple):
    """The loss that is minimized and its terms, scalars, averaged over cells."""

    total: Tensor
    reconstruction: Tensor
    kl: Tensor
    correction: Tensor


class ScalexModule(LightningModule):
    """SCALEX as Lightning trains it, with the plan of its training.

    The number of features and domains comes from the data: see `set_trained_on`.

    Parameters
    ----------
    n_latent
        Latent dimensions.
    n_hidden
        Hidden units of the encoder.
    kl_weight
        Weight of the KL divergence beside the reconstruction.
    kl_warmup
        Steps over which that weight grows from 0.
    lr
        Learning rate; the highest one, with "one_cycle".
    encoder_lr
        Learning rate of the encoder, as a share of `lr`.
    weight_decay
        L2 penalty of Adam.
    correct_at
        When the encoder gets new targets, as shares of the training, rising, each from 0 up to, but not, 1: the latents of all cells as
        they are then, less the differences between domains (`scalex.model.correction`). None: never.
    correction_weight
        Weight of the squared distance to the targets, in units of the variance of each latent dimension, beside the reconstruction.
    use_labels
        Whether the known types of cells take part in the corrections.
    schedule
        "constant", or "one_cycle": up over the first 30 % of the steps and down to nearly 0 (Smith & Topin 2018).
    batch_size
        Most cells in a training minibatch.
    sampling
        Which cells share a minibatch; see `scalex.data.minibatches`.
    max_steps, max_epochs
        Training ends at whichever comes first; None: no limit on the epochs.
    statistics
        Encoder statistics at inference. "running": a cell's latent depends on that cell alone. "domain": hidden layer
        normalized by mean and variance over all cells of the domain.
    seed
        Seed of the noise in the latent.

    Attributes
    ----------
    settled : bool
        Whether the last targets were there when the epoch began, so that its loss can be compared with those of later epochs.
    """

    def __init__(
        self,
        *,
        n_latent: int = 10,
        n_hidden: int = 1024,
        kl_weight: float = 0.5,
        kl_warmup: int = 0,
        lr: float = 2e-4,
        encoder_lr: float = 1.0,
        weight_decay: float = 5e-4,
        correct_at: Sequence[float] | None = None,
        correction_weight: float = 50.0,
        use_labels: bool = False,
        schedule: Schedule = "constant",
        batch_size: int = 64,
        sampling: Sampling = "shuffle",
        max_steps: int = 30_000,
        max_epochs: int | None = None,
        statistics: Statistics = "running",
        seed: int = 124,
    ) -> None:
        super().__init__()
        for name, value, allowed in (("schedule", schedule, Schedule), ("statistics", statistics, Statistics)):
            if value not in get_args(allowed):
                raise ValueError(f"{name}={value!r}: allowed are {', '.join(get_args(allowed))}.")
        for name, number in (("n_latent", n_latent), ("n_hidden", n_hidden), ("max_steps", max_steps)):
            if number < 1:
                raise ValueError(f"{name}={number}: it must be at least 1.")
        for name, rate in (("lr", lr), ("encoder_lr", encoder_lr)):
            if rate <= 0:
                raise ValueError(f"{name}={rate}: it must be above 0.")
        if correction_weight < 0:
            raise ValueError(f"correction_weight={correction_weight}: it must be at least 0.")
        if use_labels and not correct_at:
            raise ValueError("use_labels=True: labels take part in the corrections, of which correct_at allows none.")
        self.save_hyperparameters()
        self.trained_on: TrainedOn | None = None
        self.net: VAE | None = None
        self.settled = True
        self._sums, self._entropy, self._n_cells = torch.zeros(len(Losses._fields)), torch.zeros(()), 0
        self._generator: torch.Generator | None = None
        self._cells: TrainingCells | None = None
        self._correction = CorrectionPlan(correct_at or (), seed)

    def set_trained_on(self, trained_on: TrainedOn, cells: TrainingCells | None = None) -> None:
        """Say what the model is trained on; its network gets its size from it.

        Called before training, by `scalex.fit`, with the cells, and when a checkpoint is loaded.
        """
        self.trained_on = trained_on
        self._cells = cells
        self.configure_model()

    def configure_model(self) -> None:
        """Make the network, once that is known (Lightning also calls this before a checkpoint is read)."""
        if self.trained_on is None or self.net is not None:
            return
        # Its own generator: the same weights whatever was drawn before, and nothing else changes its random numbers.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.hparams["seed"])
            self.net = VAE(
                self.trained_on.n_features,
                len(self.trained_on.domains),
                n_latent=self.hparams["n_latent"],
                n_hidden=self.hparams["n_hidden"],
            )

    def n_embeddings(self, n_steps: int, n_cells: int) -> int:
        """How often a training embeds all cells, for its corrections."""
        plan, batch_size = self._correction, self.hparams["batch_size"]
        return len(self.hparams["correct_at"] or ()) if self.hparams["use_labels"] else plan.n_of_all(n_steps, batch_size, n_cells)

    @property
    def vae(self) -> VAE:
        """The network.

        Raises
        ------
        RuntimeError
            Before it is known what the module is trained on.
        """
        if self.net is None:
            raise RuntimeError("The module has no network yet: train it with scalex.fit, or load it with from_checkpoint.")
        return self.net

    # Training

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Adam with L2 penalty, and the schedule stepped once per training step."""
        # Lightning does not clip gradients in mixed precision for a fused optimizer.
        fused = not (self.trainer.gradient_clip_val and "mixed" in self.trainer.precision)
        lr, encoder_lr = self.hparams["lr"], self.hparams["lr"] * self.hparams["encoder_lr"]
        net = self.vae
        encoder = [*net.hidden.parameters(), *net.hidden_norm.parameters(), *net.heads.parameters()]
        decoder = [net.output_weight, *net.output_norm.parameters()]
        groups = [{"params": decoder, "lr": lr}, {"params": encoder, "lr": encoder_lr}]
        optimizer = torch.optim.Adam(groups, weight_decay=self.hparams["weight_decay"], fused=fused)
        if self.hparams["schedule"] == "constant":
            return optimizer
        # One step more than are taken, since the first learning rate is set before the first step.
        n_steps = int(self.trainer.estimated_stepping_batches) + 1
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, [lr, encoder_lr], total_steps=n_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_fit_start(self) -> None:
        """See that there are known types where they are to be used.

        Raises
        ------
        ValueError
            If there are none.
        """
        if not self.hparams["use_labels"]:
            return
        label = None if self._cells is None else self._cells.label
        if label is None:
            raise ValueError(
                "model.use_labels=true, and no cell has a known type: name the column of obs that has them (dataset.label_key), or use "
                "another model (model=scalex)."
            )
        known = label.codes[label.codes >= 0]
        logger.info("Learns from %d types, known of %s of %s cells", len(np.unique(known)), f"{len(known):,}", f"{len(label):,}")

    def on_train_start(self) -> None:
        """Where training goes on within an epoch, its sums go on, on the device."""
        self._sums, self._entropy = self._sums.to(self.device), self._entropy.to(self.device)

    def on_train_epoch_start(self) -> None:
        """Sums of the losses over the epoch, and of the entropies of the minibatches' domains, kept on the device."""
        self._sums = torch.zeros(len(Losses._fields), device=self.device)
        self._entropy = torch.zeros((), device=self.device)
        self._n_cells = 0
        self.settled = self._correction.complete

    def on_train_batch_start(self, batch: CellBatch, batch_idx: int) -> None:
        """Make new targets, if it is time."""
        if self._correction.complete:
            return
        n_due = self._correction.n_due(self.global_step, self.trainer.estimated_stepping_batches)
        if n_due > self._correction.n_made:
            self._make_targets(n_due)
            self.settled = batch_idx == 0 and self._correction.complete

    def training_step(self, batch: CellBatch, batch_idx: int) -> Tensor:
        """Loss of one minibatch.

        Raises
        ------
        FloatingPointError
            If the loss is not finite.
        """
        counts = MinibatchCounts.of(batch.domain_C, len(self.vae.output_norm.weight))
        losses = self.losses(batch, counts, self._noise(batch_idx), self.kl_weight(self.global_step))
        if self.device.type == "cpu" or batch_idx % CHECK_EVERY == 0:
            self._check_finite(losses, f"minibatch {batch_idx}")
        self._sums += torch.stack(losses).detach() * counts.n_cells
        self._entropy += counts.domain_entropy() * counts.n_cells
        self._n_cells += counts.n_cells
        # Lightning takes the mean over the processes' gradients.
        return losses.total * n_processes()

    def losses(self, batch: CellBatch, counts: MinibatchCounts, generator: torch.Generator, kl_weight: float) -> Losses:
        """The loss of a minibatch and its terms, means over its cells; of one that several processes share, this process's summands."""
        x_CG = batch.rows.dense()
        logits_CG, posterior = self.vae(x_CG, batch.domain_C, generator, counts)
        reconstruction = reconstruction_loss(logits_CG, x_CG) / counts.n_cells
        kl = kl_divergence(posterior) / counts.n_cells
        correction = self._correction.distance(posterior.mean_CZ, x_CG, batch) / counts.n_cells
        total = reconstruction + kl_weight * kl + self.hparams["correction_weight"] * correction
        return Losses(total, reconstruction, kl, correction)

    @torch.no_grad()
    def _make_targets(self, n_due: int) -> None:
        """See where the cells would lie without differences between domains: all of them, or a sample if few of them are drawn."""
        cells, start = self._cells, time.monotonic()
        if cells is None:
            raise ValueError(
                "The latents of the cells are to be corrected (correct_at), and set_trained_on was given no cells: give it the data module."
            )
        plan, domain_N = self._correction, torch.from_numpy(cells.domain)
        n_steps, batch_size = self.trainer.estimated_stepping_batches, self.hparams["batch_size"]
        moved = 0.0
        if not self.hparams["use_labels"] and not plan.takes_all(n_due, self.global_step, n_steps, batch_size, len(domain_N)):
            row_M = plan.sample(domain_N)
            n_embedded = len(row_M)
            if self.trainer.is_global_zero:
                latent_MZ = torch.cat([found.latent_CZ for found in embed(self.vae, cells.batches_of(row_M.numpy()))]).cpu()
                moved = plan.make_from_sample(self.vae, latent_MZ, domain_N[row_M], row_M, n_due)
        else:
            n_embedded = len(domain_N)
            latent_NZ = torch.zeros(n_embedded, self.hparams["n_latent"], device=self.device)
            for batch, latent_CZ in embed(self.vae, cells.batches()):
                latent_NZ[batch.row_C] = latent_CZ
            # Each process embeds its share of the chunks.
            latent_NZ = summed(latent_NZ).cpu()
            label_N = None
            if self.hparams["use_labels"]:
                assert cells.label is not None
                label_N = torch.from_numpy(cells.label.codes.astype(np.int64))
            if self.trainer.is_global_zero:
                moved = plan.make(latent_NZ, domain_N, n_due, label_N)
        if n_processes() > 1:
            plan.load_plain(self.trainer.strategy.broadcast(plan.to_plain()), self.vae)
        plan.to(self.device)
        logger.info(
            "Step %s: corrected the latents of %s cells for their domains in %.1f s; they move by %.2f of their spread",
            f"{self.global_step:,}", f"{n_embedded:,}", time.monotonic() - start, moved,
        )  # fmt: skip

    def kl_weight(self, step: int) -> float:
        """Weight of the KL divergence at a step, counted from 0."""
        weight: float = self.hparams["kl_weight"]
        warmup: int = self.hparams["kl_warmup"]
        return weight * min(1.0, (step + 1) / warmup) if warmup else weight

    def on_train_epoch_end(self) -> None:
        """Log the epoch's mean losses per cell."""
        losses = Losses(*(summed(self._sums) / self._n_cells))
        self._check_finite(losses, "the mean of the epoch")
        loss, reconstruction, kl, correction = losses
        logger.debug(
            "Epoch %d: loss %.3f, reconstruction %.3f, KL %.3f, correction %.3f (step %d)", self.current_epoch, *losses, self.global_step
        )
        self.log("train/loss", loss, logger=False, sync_dist=n_processes() > 1)
        # Straight to the loggers: Lightning's bookkeeping of a logged value takes a millisecond, and an epoch may be four steps.
        metrics = {
            "train/loss": loss.item(),
            "train/reconstruction": reconstruction.item(),
            "train/kl": kl.item(),
            "train/correction": correction.item(),
            "train/domain_entropy": (self._entropy / self._n_cells).item(),
            "train/lr": self.trainer.optimizers[0].param_groups[0]["lr"],
            "epoch": self.current_epoch,
        }
        for tracker in self.loggers:
            tracker.log_metrics(metrics, self.global_step)
            tracker.save()

    def _noise(self, batch_idx: int) -> torch.Generator:
        """The noise of this minibatch: a function of seed, step and, where several minibatches make a step, which of them it is.

        So a resumed run draws what an uninterrupted one would.
        """
        if self._generator is None or self._generator.device != self.device:
            self._generator = torch.Generator(self.device)
        n_of_step = self.trainer.accumulate_grad_batches
        return self._generator.manual_seed((self.hparams["seed"] << 32) + self.global_step * n_of_step + batch_idx % n_of_step)

    def _check_finite(self, losses: Losses, where: str) -> None:
        if not torch.isfinite(losses.total):
            raise FloatingPointError(
                f"The loss is {losses.total.item()} at epoch {self.current_epoch}, {where}, step {self.global_step} (reconstruction "
                f"{losses.reconstruction.item():.4g}, KL {losses.kl.item():.4g}). Lower model.lr (now {self.hparams['lr']}) or set "
                "trainer.gradient_clip_val=10."
            )

    # Inference

    def embed(
        self,
        batches: Iterable[CellBatch],
        statistics: Statistics | None = None,
        *,
        fill_value: NDArray[np.float32] | None = None,
    ) -> Iterator[Embedded]:
        """Latents of cells, chunk by chunk.

        Parameters
        ----------
        batches
            The cells; gone through twice with "domain".
        statistics
            Encoder statistics; None: those of this module's plan.
        fill_value
            As in `scalex.model.inference.embed`.
        """
        own: Statistics = self.hparams["statistics"] if statistics is None else statistics
        by_domain = None
        if own == "domain":
            by_domain = statistics_by_domain(self.vae, batches, len(self.vae.output_norm.weight), fill_value)
        return embed(self.vae, batches, by_domain, fill_value)

    def impute(self, latent: NDArray[np.float32], domain: NDArray[np.int64]) -> NDArray[np.float32]:
        """Decode latents: what the cells would show if they were measured in the given domains; see `scalex.model.inference.decode`."""
        assert self.trained_on is not None
        self.eval()
        return decode(self.vae, self.trained_on.preprocessor, latent, domain)

    # Checkpoint

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what the weights alone do not say."""
        assert self.trained_on is not None
        checkpoint["trained_on"] = self.trained_on.to_plain()
        # The targets belong to the state of training, as the optimizer's does.
        if "optimizer_states" not in checkpoint:
            return
        if self._correction.n_made:
            checkpoint["targets"] = self._correction.to_plain()
        # Of a checkpoint within an epoch: what the epoch has added up so far. Each process gets an equal share of it again.
        checkpoint["epoch_sums"] = {
            "losses": summed(self._sums.clone()) / n_processes(),
            "entropy": self._entropy,
            "n_cells": self._n_cells,
            "settled": self.settled,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Make the network that the weights belong to; if there is one, see that it was made for the same cells.

        Raises
        ------
        ValueError
            If training is to go on with other features or domains than it began with.
        """
        saved = TrainedOn.from_plain(checkpoint["trained_on"])
        known = self.trained_on or saved
        self.set_trained_on(known, self._cells)
        for what, then, now in (
            ("features", saved.preprocessor.features, known.preprocessor.features),
            ("domains", saved.domains, known.domains),
        ):
            if list(then) != list(now):
                raise ValueError(
                    f"The {what} are not those this run began with ({len(then)} then, {len(now)} now): its cells or settings have changed. "
                    "Begin a new run."
                )
        if "targets" in checkpoint:
            self._correction.load_plain(checkpoint["targets"], self.vae)
            self._correction.to(self.device)
        # Not there in checkpoints of before this was, and in those of a trained model.
        if "epoch_sums" in checkpoint:
            epoch = checkpoint["epoch_sums"]
            self._sums, self._entropy, self._n_cells = epoch["losses"], epoch["entropy"], epoch["n_cells"]
            self.settled = epoch["settled"]

    @classmethod
    def from_checkpoint(cls, path: str | Path) -> Self:
        """A trained module from its checkpoint alone; nothing in the file is run.

        Raises
        ------
        FileNotFoundError
            No such file.
        ValueError
            The file is no scalex checkpoint, or its weights do not fit; the message says which.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"No such checkpoint: {path}.")
        try:
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
            TrainedOn.check_format(checkpoint["trained_on"])
            module = cls(**checkpoint["hyper_parameters"])
            module.on_load_checkpoint(checkpoint)
        except (KeyError, IndexError, TypeError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise ValueError(f"{path} is not a checkpoint of scalex ({type(error).__name__}: {error}).") from error
        try:
            module.load_state_dict(checkpoint["state_dict"])
        except RuntimeError as error:
            raise ValueError(f"The weights in {path} do not fit the model that it describes: {error}") from error
        return module.eval()
