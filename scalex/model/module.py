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

from scalex.model.correction_plan import CorrectionPlan
from scalex.model.trained_on import TrainedOn
from scalex.nn import (
    VAE,
    HiddenStatistics,
    MinibatchCounts,
    SparseRows,
    kl_divergence,
    n_processes,
    reconstruction_loss,
    summed,
)
from scalex.nn.batch import CellBatch, Chunk, Sampling

__all__ = ["Embedded", "Losses", "Schedule", "ScalexModule", "Statistics"]

logger = logging.getLogger(__name__)

Schedule = Literal["constant", "one_cycle"]
Statistics = Literal["running", "domain"]

# Matrix products of fewer rows run through other kernels, which round differently: below this, rows of zeros are added, so
# that a cell's latent is the same to the last bit whatever the number of cells beside it.
LEAST_ROWS = 64
# Chunks are encoded in pieces whose hidden layer stays in the processor's cache.
PIECE_ROWS = 1024
# On an accelerator, looking at the loss stops the queue of work; once in so many steps is often enough.
CHECK_EVERY = 50


class Embedded(NamedTuple):
    """Latents (n_cells, n_latent) float32 and the rows (n_cells,) they belong to."""

    latent_CZ: Tensor
    row_C: Tensor


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
        self._generator: torch.Generator | None = None
        self._hidden_statistics: HiddenStatistics | None = None
        self._correction = CorrectionPlan(correct_at or (), seed)

    def set_trained_on(self, trained_on: TrainedOn) -> None:
        """Say what the model is trained on; its network gets its size from it.

        Called before training, by `scalex.fit`, and when a checkpoint is loaded.
        """
        self.trained_on = trained_on
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
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        if data.label is None:
            raise ValueError(
                "model.use_labels=true, and no cell has a known type: name the column of obs that has them (dataset.label_key), or use "
                "another model (model=scalex)."
            )
        known = data.label.codes[data.label.codes >= 0]
        logger.info("Learns from %d types, known of %s of %s cells", len(np.unique(known)), f"{len(known):,}", f"{len(data.label):,}")

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
        losses = self.losses(batch, counts, self._noise(), self.kl_weight(self.global_step))
        if self.device.type == "cpu" or batch_idx % CHECK_EVERY == 0:
            self._check_finite(losses, f"minibatch {batch_idx}")
        self._sums += torch.stack(losses).detach() * counts.n_cells
        self._entropy += counts.domain_entropy() * counts.n_cells
        self._n_cells += counts.n_cells
        # Lightning takes the mean over the processes' gradients.
        return losses.total * n_processes()

    def losses(self, batch: CellBatch, counts: MinibatchCounts, generator: torch.Generator, kl_weight: float) -> Losses:
        """The loss of a minibatch and its terms, means over its cells; of one that several processes share, this process's summands."""
        logits_CG, posterior = self.vae(batch.x_CG, batch.domain_C, generator, counts)
        reconstruction = reconstruction_loss(logits_CG, batch.x_CG) / counts.n_cells
        kl = kl_divergence(posterior) / counts.n_cells
        correction = self._correction.distance(posterior.mean_CZ, batch) / counts.n_cells
        total = reconstruction + kl_weight * kl + self.hparams["correction_weight"] * correction
        return Losses(total, reconstruction, kl, correction)

    @torch.no_grad()
    def _make_targets(self, n_due: int) -> None:
        """See where the cells would lie without differences between domains: all of them, or a sample if few of them are drawn."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        start = time.monotonic()
        plan, domain_N = self._correction, torch.from_numpy(data.domain)
        n_steps, batch_size = self.trainer.estimated_stepping_batches, self.hparams["batch_size"]
        moved = 0.0
        if not self.hparams["use_labels"] and not plan.takes_all(n_due, self.global_step, n_steps, batch_size, len(domain_N)):
            row_M = plan.sample(domain_N)
            n_embedded = len(row_M)
            if self.trainer.is_global_zero:
                latent_MZ = torch.cat([self.predict_step(chunk).latent_CZ for chunk in data.chunks_of(row_M.numpy())]).cpu()
                moved = plan.make_from_sample(self.vae, latent_MZ, domain_N[row_M], row_M, n_due)
        else:
            n_embedded = len(domain_N)
            latent_NZ = torch.zeros(n_embedded, self.hparams["n_latent"], device=self.device)
            for chunk in data.predict_dataloader():
                embedded = self.predict_step(chunk)
                latent_NZ[embedded.row_C] = embedded.latent_CZ
            # Each process embeds its share of the chunks.
            latent_NZ = summed(latent_NZ).cpu()
            label_N = torch.from_numpy(data.label.codes.astype(np.int64)) if self.hparams["use_labels"] else None
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

    def _noise(self) -> torch.Generator:
        """The noise of this step: a function of seed and step, so that a resumed run draws what an uninterrupted one would."""
        if self._generator is None or self._generator.device != self.device:
            self._generator = torch.Generator(self.device)
        return self._generator.manual_seed((self.hparams["seed"] << 32) + self.global_step)

    def _check_finite(self, losses: Losses, where: str) -> None:
        if not torch.isfinite(losses.total):
            raise FloatingPointError(
                f"The loss is {losses.total.item()} at epoch {self.current_epoch}, {where}, step {self.global_step} (reconstruction "
                f"{losses.reconstruction.item():.4g}, KL {losses.kl.item():.4g}). Lower model.lr (now {self.hparams['lr']}) or set "
                "trainer.gradient_clip_val=10."
            )

    # Inference

    def on_predict_start(self) -> None:
        """First of two passes, where the cells' own domains give the encoder's statistics."""
        self._hidden_statistics = None
        if self.hparams["statistics"] == "domain":
            data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
            with torch.inference_mode():
                self._hidden_statistics = self._statistics_by_domain(data.predict_dataloader(), len(data.domains))

    def predict_step(self, chunk: Chunk) -> Embedded:
        """Latents of a chunk of cells."""
        domain_C = chunk.domain_C.to(self.device)
        latent_CZ = []
        for rows, hidden_CH in self._first_layer(chunk):
            encoded_CZ = self.vae.encode(_padded(hidden_CH), _padded(domain_C[rows]), self._hidden_statistics)
            latent_CZ.append(encoded_CZ[: len(hidden_CH)].float())
        return Embedded(torch.cat(latent_CZ), chunk.row_C)

    def _first_layer(self, chunk: Chunk) -> Iterator[tuple[slice, Tensor]]:
        """The encoder's hidden layer before normalization, piece by piece."""
        weight_GH = self.vae.hidden.weight.t().contiguous()
        if torch.is_autocast_enabled(self.device.type):
            # torch's autocast does not know the sparse product.
            weight_GH = weight_GH.to(torch.get_autocast_dtype(self.device.type))
        lacking_H = None if chunk.lacking is None else torch.from_numpy(chunk.lacking).to(weight_GH) @ weight_GH
        for start in range(0, chunk.inputs.shape[0], PIECE_ROWS):
            rows = slice(start, min(start + PIECE_ROWS, chunk.inputs.shape[0]))
            piece = chunk.inputs[rows]
            stored = (piece.data, piece.indices, piece.indptr[:-1])
            hidden_CH = SparseRows(*(torch.from_numpy(part).to(self.device) for part in stored)).times(weight_GH)
            yield rows, hidden_CH if lacking_H is None else hidden_CH + lacking_H

    def _statistics_by_domain(self, chunks: Iterable[Chunk], n_domains: int) -> HiddenStatistics:
        """Exact mean and variance of the hidden layer per domain, in float64 so that chunks and order do not matter."""
        hidden = self.vae.hidden.out_features
        count_D1 = torch.zeros(n_domains, 1, dtype=torch.float64, device=self.device)
        sums_2DH = torch.zeros(2, n_domains, hidden, dtype=torch.float64, device=self.device)
        for chunk in chunks:
            domain_C = chunk.domain_C.to(self.device)
            count_D1 += torch.bincount(domain_C, minlength=n_domains)[:, None]
            for rows, piece_CH in self._first_layer(chunk):
                hidden_CH = piece_CH.double()
                sums_2DH[0].index_add_(0, domain_C[rows], hidden_CH)
                sums_2DH[1].index_add_(0, domain_C[rows], hidden_CH.square())
        # Of several processes each has seen its share of the chunks.
        count_D1, sums_2DH = summed(count_D1), summed(sums_2DH)
        mean_DH = sums_2DH[0] / count_D1.clamp(min=1)
        var_DH = (sums_2DH[1] / count_D1.clamp(min=1) - mean_DH.square()).clamp(min=0)
        # Fewer than two cells have no variance: the running statistics stand in, as in training.
        norm = self.vae.hidden_norm
        known_D1 = count_D1 > 1
        return HiddenStatistics(
            torch.where(known_D1, mean_DH.float(), norm.running_mean), torch.where(known_D1, var_DH.float(), norm.running_var)
        )

    @torch.inference_mode()
    def impute(self, latent: NDArray[np.float32], domain: NDArray[np.int64]) -> NDArray[np.float32]:
        """Decode latents: what the cells would show if they were measured in the given domains.

        Parameters
        ----------
        latent
            (n_cells, n_latent) float32.
        domain
            (n_cells,) int64, codes of the domains the model knows.

        Returns
        -------
        (n_cells, n_features) float32, in the units of normalized expression: the scaling to [0, 1] is undone.
        """
        assert self.trained_on is not None
        preprocessor = self.trained_on.preprocessor
        maximum = preprocessor.maximum if preprocessor.scaling == "domain" else preprocessor.maximum.max(0, keepdims=True)
        # As in scaling, a maximum of 0 counts as 1.
        unit_DG = torch.from_numpy(np.where(maximum > 0, maximum, np.float32(1))).to(self.device)
        self.eval()
        decoded = np.empty((len(latent), len(preprocessor.features)), np.float32)
        for start in range(0, len(latent), PIECE_ROWS):
            piece = slice(start, start + PIECE_ROWS)
            z_CZ = torch.from_numpy(latent[piece]).to(self.device)
            domain_C = torch.from_numpy(domain[piece]).to(self.device)
            scaled_CG = torch.sigmoid(self.vae.decode(_padded(z_CZ), _padded(domain_C)))[: len(z_CZ)]
            decoded[piece] = (scaled_CG * (unit_DG[domain_C] if len(unit_DG) > 1 else unit_DG)).cpu().numpy()
        return decoded

    def feature_weights(self) -> Tensor:
        """How much the encoder uses each feature, (n_features,) of sum 1: the norms of the columns of its normalized first layer."""
        norm = self.vae.hidden_norm
        scale_H = norm.weight[0] * torch.rsqrt(norm.running_var[0] + norm.eps)
        weight_G = (self.vae.hidden.weight.detach() * scale_H.detach()[:, None]).norm(dim=0)
        share_G: Tensor = weight_G / weight_G.sum()
        return share_G

    # Checkpoint

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what the weights alone do not say."""
        assert self.trained_on is not None
        checkpoint["trained_on"] = self.trained_on.to_plain()
        # The targets belong to the state of training, as the optimizer's does.
        if self._correction.n_made and "optimizer_states" in checkpoint:
            checkpoint["targets"] = self._correction.to_plain()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Make the network that the weights belong to; if there is one, see that it was made for the same cells.

        Raises
        ------
        ValueError
            If training is to go on with other features or domains than it began with.
        """
        saved = TrainedOn.from_plain(checkpoint["trained_on"])
        known = self.trained_on or saved
        self.set_trained_on(known)
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


def _padded(rows: Tensor) -> Tensor:
    """The rows with zeros added where they are fewer than `LEAST_ROWS`."""
    missing = LEAST_ROWS - len(rows)
    return rows if missing <= 0 else torch.cat([rows, rows.new_zeros(missing, *rows.shape[1:])])
