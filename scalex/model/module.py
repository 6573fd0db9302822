"""SCALEX: the VAE with its loss, optimizer, schedule and checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from scalex.model.base import AllCells, Embedded, Model
from scalex.model.compiled import ComputeTerms, compile_terms
from scalex.model.correction_plan import CorrectionPlan, check_labels
from scalex.model.epoch_losses import EpochLosses, Losses
from scalex.model.inference import decode, embed, feature_weights, statistics_by_domain
from scalex.model.optimizer import make_optimizer, one_cycle
from scalex.model.options import Schedule, Statistics, check_plan, choose_batch_size, choose_n_steps
from scalex.model.start import copy_weights, make_likelihood, shift_decoder
from scalex.model.trained_on import TrainedOn
from scalex.nn import VAE, MinibatchCounts, bound_terms, draw_noise, n_processes
from scalex.nn.batch import CellBatch, Sampling
from scalex.nn.likelihood import LIKELIHOODS
from scalex.system.settings import Count, NonNegative, Number, Positive, Seed, Share, check_call

__all__ = ["Losses", "Schedule", "ScalexModule", "Statistics"]

logger = logging.getLogger(__name__)

# Steps between two checks of the loss on an accelerator, where each check waits for the device.
CHECK_EVERY = 50


@check_call
class ScalexModule(Model):
    """SCALEX and the plan of its training.

    The data set the numbers of features and domains: see `set_trained_on`.

    Parameters
    ----------
    n_latent
        Latent dimensions.
    n_hidden
        Hidden units of the encoder.
    kl_weight
        Weight of the KL divergence relative to the reconstruction.
    kl_warmup
        Steps over which this weight grows from 0.
    lr
        Learning rate; with "one_cycle" the highest.
    encoder_lr
        Learning rate of the encoder in units of `lr`.
    weight_decay
        L2 penalty of Adam.
    likelihood
        Likelihood of the inputs given their reconstruction, a name in `scalex.nn.likelihood.LIKELIHOODS`. One of counts needs inputs that
        hold counts (`Preprocessor.keeps_counts`), and "bernoulli" takes its place for others.
    start_from_means
        Whether the decoder starts from the mean of each domain, instead of 0.
    correct_at
        When the encoder gets new targets, as rising shares of the training in [0, 1). Targets are the latents at that step without the
        differences between domains (`scalex.model.correction`). None: never.
    correction_weight
        Weight of the squared distance to the targets, in units of the latent variances, relative to the reconstruction.
    use_labels
        Whether the cells' labels take part in the corrections.
    schedule
        "constant", or "one_cycle": rising over the first 30 % of the steps, then falling to nearly 0 (Smith & Topin 2018).
    batch_size
        Most cells in a training minibatch. None: 16 for each domain, but at least 128 and at most 1,024.
    sampling
        Which cells share a minibatch; see `scalex.data.minibatches`.
    max_steps
        Most steps of the training. None: 1,200 for up to 20,000 cells, and in proportion to the root of their number for more.
    max_epochs
        Most epochs of the training; None: no limit.
    statistics
        Encoder statistics at inference. "running": a cell's latent depends on that cell alone. "domain": mean and variance of all cells of
        the domain normalize the hidden layer.
    compile_step
        Whether torch compiles the network's part of a step, with its gradient. The losses differ by rounding.
    seed
        Seed of the weights, the corrections and the noise of the latent.
    """

    def __init__(
        self,
        *,
        n_latent: Count = 10,
        n_hidden: Count = 1024,
        kl_weight: NonNegative = 0.5,
        kl_warmup: Number = 0,
        lr: Positive = 2e-4,
        encoder_lr: Positive = 1.0,
        weight_decay: NonNegative = 5e-4,
        likelihood: str = "bernoulli",
        start_from_means: bool = False,
        correct_at: Sequence[Share] | None = None,
        correction_weight: NonNegative = 50.0,
        use_labels: bool = False,
        schedule: Schedule = "constant",
        batch_size: Count | None = 64,
        sampling: Sampling = "shuffle",
        max_steps: Count | None = 30_000,
        max_epochs: Count | None = None,
        statistics: Statistics = "running",
        compile_step: bool = False,
        seed: Seed = 124,
    ) -> None:
        super().__init__()
        # Trackers get all settings of a run at once.
        self.save_hyperparameters(logger=False)
        check_plan(self.hparams)
        self.net: VAE | None = None
        self._epoch = EpochLosses.zero(self.device)
        self._generator: torch.Generator | None = None
        # Whether the weights are random: no training has begun, and they are not those of a trained model.
        self._is_new = False
        self.correction = CorrectionPlan(correct_at or (), seed, use_labels=use_labels)
        self._bound_terms: ComputeTerms = bound_terms

    def make_network(self, trained_on: TrainedOn) -> None:
        """Make the VAE."""
        # The weights depend on the seed alone, and other random numbers do not depend on the weights.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.hparams["seed"])
            sizes = {name: self.hparams[name] for name in ("n_latent", "n_hidden")}
            likelihood = make_likelihood(self.hparams["likelihood"], trained_on.preprocessor)
            self.net = VAE(trained_on.n_features, len(trained_on.domains), **sizes, likelihood=likelihood)
        self._is_new = True

    @property
    def vae(self) -> VAE:
        """The network.

        Raises
        ------
        RuntimeError
            Before `set_trained_on`.
        """
        if self.net is None:
            raise RuntimeError("The module has no network yet: train it with scalex.fit, or load it with from_checkpoint.")
        return self.net

    @property
    def n_domains(self) -> int:
        """The number of domains of the decoder."""
        return len(self.vae.output_norm.weight)

    def minibatch_size(self, n_domains: int) -> int:
        """Return the most cells of a training minibatch of so many domains."""
        size: int | None = self.hparams["batch_size"]
        return choose_batch_size(n_domains) if size is None else size

    def count_steps(self, n_cells: int) -> int:
        """Return the most steps of a training on so many cells."""
        n_steps: int | None = self.hparams["max_steps"]
        return choose_n_steps(n_cells) if n_steps is None else n_steps

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return Adam with an L2 penalty, and the schedule of its steps."""
        # Lightning does not clip gradients in mixed precision for a fused optimizer.
        fused = not (self.trainer.gradient_clip_val and "mixed" in self.trainer.precision)
        optimizer = make_optimizer(self.vae, self.hparams, fused=fused)
        if self.hparams["schedule"] == "constant":
            return optimizer
        scheduler = one_cycle(optimizer, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_fit_start(self) -> None:
        """Check that there are labels if they take part, start the decoder, and compile the step.

        Raises
        ------
        ValueError
            If there are none.
        """
        if self.hparams["use_labels"]:
            check_labels(self.cells)
        if self.hparams["compile_step"]:
            self._bound_terms = compile_terms()
        if self._is_new and self.cells is not None and self.hparams["start_from_means"]:
            shift_decoder(self.vae, self.cells)
        self._is_new = False

    def on_train_start(self) -> None:
        """Move the sums of a resumed epoch, and the targets, to the device. Checkpoints are loaded before the module has one."""
        self._epoch = self._epoch.to(self.device)
        self.correction.to(self.device)

    def on_train_epoch_start(self) -> None:
        """Start the sums of an epoch."""
        self._epoch = EpochLosses.zero(self.device)
        self.loss_is_comparable = self.correction.complete

    def on_train_batch_start(self, batch: CellBatch, batch_idx: int) -> None:
        """Make new targets if they are due."""
        if self.correction.complete:
            return
        n_due = self.correction.count_due(self.global_step, self.trainer.estimated_stepping_batches)
        if n_due > self.correction.n_done:
            self.correction.update(n_due, self.vae, self.cells, self.trainer, self.minibatch_size(self.n_domains))
            self.loss_is_comparable = batch_idx == 0 and self.correction.complete

    def training_step(self, batch: CellBatch, batch_idx: int) -> Tensor:
        """Return the loss of a minibatch.

        Raises
        ------
        FloatingPointError
            If the loss is not finite.
        """
        counts = batch.counts or MinibatchCounts.of(batch.domain_C, self.n_domains)
        losses = self.losses(batch, counts, self._noise(batch_idx), self.kl_weight(self.global_step))
        if self.device.type == "cpu" or batch_idx % CHECK_EVERY == 0:
            losses.check_finite(f"epoch {self.current_epoch}, minibatch {batch_idx}, step {self.global_step}", self.hparams["lr"])
        self._epoch = self._epoch.add(losses, counts)
        # Lightning averages the gradients over the processes.
        return losses.total * n_processes()

    def losses(self, batch: CellBatch, counts: MinibatchCounts, generator: torch.Generator, kl_weight: float) -> Losses:
        """Return the loss of a minibatch and its terms, averaged over its cells: this process's part of the sums."""
        noise_CZ = draw_noise(len(batch.domain_C), self.hparams["n_latent"], counts, generator)
        terms = self._bound_terms(self.vae, batch, noise_CZ, counts)
        reconstruction, kl = terms.reconstruction / counts.n_cells, terms.kl / counts.n_cells
        correction = self.correction.distance(terms.mean_CZ, terms.x_CG, batch) / counts.n_cells
        total = reconstruction + kl_weight * kl + self.hparams["correction_weight"] * correction
        return Losses(total, reconstruction, kl, correction)

    def kl_weight(self, step: int) -> float:
        """Return the weight of the KL divergence at a step, counted from 0."""
        weight: float = self.hparams["kl_weight"]
        warmup: int = self.hparams["kl_warmup"]
        return weight * min(1.0, (step + 1) / warmup) if warmup else weight

    def on_train_epoch_end(self) -> None:
        """Log the epoch's mean losses per cell."""
        losses = self._epoch.means()
        losses.check_finite(f"epoch {self.current_epoch}, the mean of the epoch, step {self.global_step}", self.hparams["lr"])
        logger.debug(
            "Epoch %d: loss %.3f, reconstruction %.3f, KL %.3f, correction %.3f (step %d)", self.current_epoch, *losses, self.global_step
        )
        self.log("train/loss", losses.total, logger=False, sync_dist=n_processes() > 1)
        # Loggers are called directly: self.log takes a millisecond per value, and an epoch may have four steps.
        metrics = {
            "train/loss": losses.total.item(),
            **{f"train/{name}": getattr(losses, name).item() for name in ("reconstruction", "kl", "correction")},
            "integration/domain_entropy": self._epoch.mean_domain_entropy(),
            "optimizer/lr": self.trainer.optimizers[0].param_groups[0]["lr"],
            "epoch": self.current_epoch,
        }
        for tracker in self.loggers:
            tracker.log_metrics(metrics, self.global_step)
            tracker.save()

    def _noise(self, batch_idx: int) -> torch.Generator:
        """Return the random numbers of a minibatch.

        They depend on the seed, the step and the position in the step, so that a resumed run draws the same.
        """
        if self._generator is None or self._generator.device != self.device:
            self._generator = torch.Generator(self.device)
        n_of_step = self.trainer.accumulate_grad_batches
        return self._generator.manual_seed((self.hparams["seed"] << 32) + self.global_step * n_of_step + batch_idx % n_of_step)

    def embed(
        self,
        batches: Iterable[CellBatch],
        statistics: Statistics | None = None,
        *,
        fill_value: NDArray[np.float32] | None = None,
        all_cells: AllCells | None = None,
    ) -> Iterator[Embedded]:
        """Yield the latents of cells chunk by chunk; see `Model.embed`."""
        by_domain = None
        if (statistics or self.hparams["statistics"]) == "domain":
            # A process that has all cells needs no sums of others.
            cells, n_domains = all_cells or (batches, self.n_domains)
            by_domain = statistics_by_domain(self.vae, cells, n_domains, fill_value, shared=all_cells is None)
        return embed(self.vae, batches, by_domain, fill_value)

    def impute(self, latent: NDArray[np.float32], domain: NDArray[np.int64]) -> NDArray[np.float32]:
        """Decode latents through domains; see `scalex.model.inference.decode`."""
        self.eval()
        return decode(self.vae, latent, domain)

    def feature_weights(self) -> NDArray[np.float32]:
        """Return the share of each feature in the encoder; see `scalex.model.inference.feature_weights`."""
        return feature_weights(self.vae).numpy()

    def trial_loss(self, batch: CellBatch) -> Tensor:
        """Return the loss of a minibatch without the KL divergence."""
        counts = MinibatchCounts.of(batch.domain_C, self.n_domains)
        return self.losses(batch, counts, torch.Generator(self.device), 0.0).total

    def describe(self) -> str:
        """Return the sizes of the layers, the number of weights and the plan as one line."""
        sizes = (len(self.vae.hidden.weight[0]), self.hparams["n_hidden"], self.hparams["n_latent"])
        used = next(name for name, kind in LIKELIHOODS.items() if type(self.vae.likelihood) is kind)
        options = {**self.hparams, "likelihood": used, "batch_size": self.minibatch_size(self.n_domains)}
        # The trainer decides how long the training is.
        left_out = ("n_hidden", "n_latent", "max_steps", "max_epochs")
        plan = ", ".join(f"{name}={value}" for name, value in options.items() if name not in left_out)
        layers = f"{sizes[0]:,} features -> {sizes[1]} -> {sizes[2]} latent dimensions"
        return f"{layers}, {sum(p.numel() for p in self.parameters()):,} weights, {self.n_domains} domains; {plan}"

    def count_embeddings(self, n_steps: float, n_cells: int) -> int:
        """Return how often the corrections embed all cells."""
        return self.correction.count_embeddings(n_steps, self.minibatch_size(self.n_domains), n_cells)

    def check_start(self, trained: Model) -> None:
        """Check that a trained model is a SCALEX of the same size and likelihood."""
        names = ("n_latent", "n_hidden", "likelihood")
        if not isinstance(trained, ScalexModule):
            super().check_start(trained)
        has, asked = ([model.hparams[name] for name in names] for model in (trained, self))
        if has != asked:
            pairs = [[f"{name}={value}" for name, value in zip(names, values, strict=True)] for values in (has, asked)]
            settings = " ".join(f"model.{pair}" for pair in pairs[0])
            raise ValueError(f"The reference has {', '.join(pairs[0])}, but the training asks for {', '.join(pairs[1])}: use {settings}.")

    def start_from(self, trained: Model, inputs: sparse.csr_matrix, domain: NDArray[np.int64]) -> None:
        """Take the weights of a trained model; see `scalex.model.start.copy_weights`."""
        assert isinstance(trained, ScalexModule)
        self._is_new = False
        copy_weights(trained.vae, self.vae, inputs, domain)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what the weights alone do not say."""
        super().on_save_checkpoint(checkpoint)
        if "optimizer_states" in checkpoint:
            # A training that goes on also needs the targets and the sums of the epoch.
            if self.correction.n_done:
                checkpoint["targets"] = self.correction.to_plain()
            checkpoint["epoch_sums"] = self._epoch.to_plain() | {"settled": self.loss_is_comparable}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Make the network that the weights belong to, and restore the targets and the sums of the epoch."""
        super().on_load_checkpoint(checkpoint)
        self._is_new = False
        if "targets" in checkpoint:
            self.correction.load_plain(checkpoint["targets"], self.vae)
        if "epoch_sums" in checkpoint:
            self._epoch = EpochLosses.from_plain(checkpoint["epoch_sums"])
            self.loss_is_comparable = checkpoint["epoch_sums"]["settled"]
