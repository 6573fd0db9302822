"""What a GPU must do as the CPU does: ``pytest -m gpu`` on a machine that has one. Elsewhere, all but two are skipped."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import anndata as ad
import numpy as np
import pytest
import torch
from anndata import AnnData
from commands import Done, run_program
from lightning import Callback, LightningModule, Trainer
from numpy.typing import NDArray
from torch import Tensor

import scalex
from scalex.callbacks import Checkpoint, LatentExport
from scalex.cells import AnnDataSource
from scalex.data import CellBatch, ScalexDataModule
from scalex.data.stream import InputDataset, StreamSampler
from scalex.demo import demo_cells
from scalex.model.correction_plan import CorrectionPlan
from scalex.model.epoch_losses import EpochLosses, Losses
from scalex.model.module import ScalexModule
from scalex.model.optimizer import make_optimizer
from scalex.model.trained_on import TrainedOn
from scalex.nn import MinibatchCounts, SparseRows
from scalex.nn.likelihood import LIKELIHOODS
from scalex.preprocess import RnaRecipe
from scalex.projection.project import embed
from scalex.projection.reference import Reference

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore:GPU available but not used")]
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch can use")

GPU = torch.device("cuda", 0)
CPU = torch.device("cpu")
# Values of Lightning's trainer.
ON_GPU, ON_CPU = "gpu", "cpu"
# The order of the terms of a sum is the device's own. Latents are of the size of 1, and each is a sum of some hundred terms.
ROUNDING = {"rtol": 1e-4, "atol": 1e-4}
N_FEATURES, N_DOMAINS = 200, 6
PLAN: dict[str, Any] = {
    "n_latent": 8, "n_hidden": 32, "batch_size": 50, "lr": 3e-3, "likelihood": "negative_binomial", "start_from_means": True,
    "schedule": "one_cycle", "correct_at": [0.4, 0.6], "max_steps": 60,
}  # fmt: skip
MINIBATCHES = {
    "all domains": [0, 1, 2, 3, 4, 5] * 8,
    "absent domains": [4, 1, 4, 4, 1, 1] * 4,
    "one domain": [2] * 16,
    "domains with one cell": [0] * 6 + [1] * 5 + [2, 5],
    "only domains with one cell": [0, 1, 3, 5],
}
# The step waits for a single cell, whose hidden layer has statistics of its own.
WITH_ONE_CELL = MINIBATCHES | {"a single cell": [3]}
QUICK = [
    "model=small", "model.n_hidden=16", "model.max_epochs=3", "dataset.n_cells=200", "dataset.n_features=400", "preprocess.min_features=50",
    "callbacks=[checkpoint,latent_export]", "output=run",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _restore_determinism() -> Iterator[None]:
    """Undo what a program with trainer.deterministic=true leaves in torch."""
    yield
    torch.use_deterministic_algorithms(mode=False)


class Trained(NamedTuple):
    """A finished run, and the cells as they were exported."""

    folder: Path
    adata: AnnData

    @property
    def latent(self) -> NDArray[np.float32]:
        """(n_cells, n_latent)."""
        latent: NDArray[np.float32] = self.adata.obsm["latent"]
        return latent

    @property
    def weights(self) -> dict[str, Tensor]:
        """Weights and running statistics of the model."""
        return read_weights(self.folder / "checkpoint" / "best.ckpt")


def make_trainer(accelerator: str, **options: Any) -> Trainer:
    trainer = Trainer(
        accelerator=accelerator, devices=1, logger=False, enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        use_distributed_sampler=False, **options,
    )  # fmt: skip
    assert trainer.strategy.root_device == (GPU if accelerator == ON_GPU else CPU)
    return trainer


def train(
    folder: Path,
    cells: Any,
    accelerator: str = ON_GPU,
    *callbacks: Callback,
    backed: bool = False,
    resume_from: Path | None = None,
    plan: dict[str, Any] | None = None,
    **options: Any,
) -> Trained:
    """Train with corrections; `options` are the trainer's."""
    module = ScalexModule(**(PLAN | (plan or {})))
    outputs = [Checkpoint(folder, every_seconds=0), LatentExport(folder)]
    source = AnnDataSource(path=cells, batch_key="batch", backed=backed)
    try:
        trainer = make_trainer(accelerator, max_steps=module.hparams["max_steps"], callbacks=[*outputs, *callbacks], **options)
        scalex.fit(source, RnaRecipe(min_features=0, n_top_features=N_FEATURES), module, trainer, resume_from=resume_from)
    finally:
        # A trainer with deterministic=True leaves it in torch.
        torch.use_deterministic_algorithms(mode=False)
    assert trainer.global_step == module.hparams["max_steps"]
    return Trained(folder, ad.read_h5ad(folder / "adata.h5ad"))


def read_weights(path: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    return state


def assert_same_bits(first: Trained, second: Trained) -> None:
    weights = first.weights
    assert weights.keys() == second.weights.keys()
    assert [name for name, value in second.weights.items() if not torch.equal(value, weights[name])] == []
    np.testing.assert_array_equal(first.latent, second.latent)


def correlate(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    """Return the correlation of all values of two tables of latents, whose dimensions are centred."""
    centred = [(latent - latent.mean(0)).astype(np.float64).ravel() for latent in (first, second)]
    return float(np.corrcoef(*centred)[0, 1])


@pytest.fixture(scope="module")
def cells() -> AnnData:
    """Return 300 cells of 3 domains."""
    return demo_cells(300, 400, 3)


@pytest.fixture(scope="module")
def query() -> AnnData:
    """Return 150 cells of 2 domains, with other shifts and programs."""
    return demo_cells(150, 400, 2, seed=1)


@pytest.fixture(scope="module")
def trained(cells: AnnData, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Return a run on the GPU that gives the same bits each time."""
    return train(tmp_path_factory.mktemp("gpu") / "run", cells, deterministic=True)


class Minibatch(NamedTuple):
    """A model with targets on the CPU, and a minibatch of its cells there."""

    module: ScalexModule
    data: ScalexDataModule
    batch: CellBatch

    def send(self) -> CellBatch:
        """Return the minibatch on the GPU, as Lightning gets it."""
        return self.data.transfer_batch_to_device(self.batch, GPU, 0)

    def copy_module(self) -> ScalexModule:
        """Return the model on the GPU."""
        module = copy.deepcopy(self.module).to(GPU)
        module.correction.to(GPU)
        return module


@pytest.fixture(params=MINIBATCHES.values(), ids=MINIBATCHES)
def domains(request: pytest.FixtureRequest) -> list[int]:
    """Return the domain of each cell of a minibatch."""
    codes: list[int] = request.param
    return codes


@pytest.fixture(params=LIKELIHOODS)
def minibatch(request: pytest.FixtureRequest, domains: list[int]) -> Minibatch:
    """Return a minibatch for each likelihood and each choice of domains."""
    cells = AnnDataSource(path=demo_cells(300, 400, N_DOMAINS), batch_key="batch").open()
    data = ScalexDataModule(cells, RnaRecipe(min_features=0, n_top_features=N_FEATURES).fit(cells))
    module = ScalexModule(n_latent=8, n_hidden=32, likelihood=request.param, correct_at=[0.5], correction_weight=2.0)
    module.set_trained_on(TrainedOn(data.preprocessor, len(data.rows), "0"))
    assert type(module.vae.likelihood) is LIKELIHOODS[request.param]
    rng = torch.Generator().manual_seed(0)
    for norm in (module.vae.hidden_norm, module.vae.output_norm):
        for values in (norm.weight.data, norm.bias.data, norm.running_mean):
            values.add_(torch.randn(values.shape, generator=rng), alpha=0.2)
        norm.running_var.mul_(torch.rand(norm.running_var.shape, generator=rng) + 0.5)
    latent_NZ = torch.randn(len(data.rows), 8, generator=rng)
    module.correction.correct_all(latent_NZ, torch.from_numpy(data.domain), 1)
    row_C = np.sort(np.concatenate([np.flatnonzero(data.domain == code)[: domains.count(code)] for code in set(domains)]))
    (batch,) = data.batches_of(row_C)
    assert sorted(batch.domain_C.tolist()) == sorted(domains)
    return Minibatch(module.train(), data, batch)


class Step(NamedTuple):
    """What a step computes, on the CPU."""

    losses: Losses
    gradients: dict[str, Tensor]
    statistics: dict[str, Tensor]


def compute_step(module: ScalexModule, batch: CellBatch) -> Step:
    """Compute the losses, the gradients and the running statistics after the step."""
    counts = batch.counts or MinibatchCounts.of(batch.domain_C, N_DOMAINS)
    losses = module.losses(batch, counts, torch.Generator(module.device), 0.5)
    torch.autograd.backward(losses.total)
    gradients = {name: value.grad.cpu() for name, value in module.named_parameters() if value.grad is not None}
    statistics = {name: value.cpu() for name, value in module.named_buffers() if "running" in name}
    return Step(Losses(*(loss.detach().cpu() for loss in losses)), gradients, statistics)


@needs_gpu
class TestAgreement:
    @pytest.mark.parametrize("domains", WITH_ONE_CELL.values(), ids=WITH_ONE_CELL)
    def test_losses_gradients_and_statistics_are_those_of_the_cpu(self, minibatch: Minibatch, monkeypatch: pytest.MonkeyPatch) -> None:
        # The generators of the devices draw different numbers from the same seed.
        noise_CZ = torch.randn(len(minibatch.batch.row_C), 8, generator=torch.Generator().manual_seed(1))

        monkeypatch.setattr("scalex.model.module.draw_noise", lambda *given: noise_CZ.to(given[-1].device))
        on_gpu = compute_step(minibatch.copy_module(), minibatch.send())
        on_cpu = compute_step(minibatch.module, minibatch.batch)
        assert all(loss > 0 for loss in on_cpu.losses)
        torch.testing.assert_close(on_gpu.losses, on_cpu.losses, rtol=2e-5, atol=0)
        assert on_gpu.gradients.keys() == on_cpu.gradients.keys() == {name for name, _ in minibatch.module.named_parameters()}
        for name, expected in on_cpu.gradients.items():
            # Small gradients are differences of large terms. On the CPU, another order of the cells changes them by 2e-6 of the largest.
            atol = 5e-5 * float(expected.abs().max())
            torch.testing.assert_close(
                on_gpu.gradients[name], expected, rtol=1e-4, atol=atol, msg=lambda text, name=name: f"{name}: {text}"
            )
        torch.testing.assert_close(on_gpu.statistics, on_cpu.statistics, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("domains", WITH_ONE_CELL.values(), ids=WITH_ONE_CELL)
    @pytest.mark.parametrize("statistics", ["running", "domain"])
    def test_latents_are_those_of_the_cpu(self, minibatch: Minibatch, statistics: Any) -> None:
        (on_gpu,) = minibatch.copy_module().embed([minibatch.batch], statistics)
        (on_cpu,) = minibatch.module.embed([minibatch.batch], statistics)
        assert on_gpu.latent_CZ.device == GPU
        torch.testing.assert_close(on_gpu.latent_CZ.cpu(), on_cpu.latent_CZ, **ROUNDING)

    def test_targets_of_cells_that_are_corrected_when_drawn_are_those_of_the_cpu(self, minibatch: Minibatch) -> None:
        module, batch, sent = minibatch.module, minibatch.batch, minibatch.send()
        row_M = torch.arange(0, len(minibatch.data.rows), 2)
        latent_MZ = torch.randn(len(row_M), 8, generator=torch.Generator().manual_seed(2))
        module.correction.correct_sample(module.vae, latent_MZ, torch.from_numpy(minibatch.data.domain)[row_M], row_M, 1)
        mean_CZ = torch.randn(len(batch.row_C), 8, generator=torch.Generator().manual_seed(3))
        on_gpu = minibatch.copy_module().correction.distance(mean_CZ.to(GPU), sent.rows.dense(), sent)
        assert on_gpu.device == GPU
        torch.testing.assert_close(on_gpu.cpu(), module.correction.distance(mean_CZ, batch.rows.dense(), batch), rtol=1e-4, atol=0)

    def test_statistics_of_domains_are_those_of_all_their_cells(self, trained: Trained, cells: AnnData) -> None:
        reference = Reference.load(trained.folder)
        source = AnnDataSource(path=cells, batch_key="batch")
        on_gpu = embed(reference, source, make_trainer(ON_GPU), statistics="domain", chunk_size=70)
        np.testing.assert_allclose(on_gpu, embed(reference, source, statistics="domain"), **ROUNDING)

        weights = {name: value.double().numpy() for name, value in trained.weights.items()}
        hidden = trained.adata.X.toarray().astype(np.float64) @ weights["net.hidden.weight"].T
        for domain in trained.adata.obs["domain"].unique():
            own = (trained.adata.obs["domain"] == domain).to_numpy()
            normal = (hidden[own] - hidden[own].mean(0)) / np.sqrt(hidden[own].var(0) + 1e-5)
            active = np.maximum(normal * weights["net.hidden_norm.weight"] + weights["net.hidden_norm.bias"], 0)
            expected = (active @ weights["net.heads.weight"].T + weights["net.heads.bias"])[:, : PLAN["n_latent"]]
            np.testing.assert_allclose(on_gpu[own], expected, **ROUNDING)

    def test_decoding_is_that_of_the_cpu(self, trained: Trained) -> None:
        module = Reference.load(trained.folder).module
        domain = np.arange(len(trained.latent)) % 3
        on_cpu = module.impute(trained.latent, domain)
        np.testing.assert_allclose(module.to(GPU).impute(trained.latent, domain), on_cpu, rtol=1e-3, atol=1e-4)


@needs_gpu
class TestCompiledStep:
    @pytest.mark.parametrize("likelihood", LIKELIHOODS)
    def test_training_gives_the_weights_of_plain_steps(self, tmp_path: Path, cells: AnnData, likelihood: str) -> None:
        plan = {"likelihood": likelihood, "correct_at": None, "max_steps": 20}
        plain, compiled = (
            train(tmp_path / str(compiles), cells, plan=plan | {"compile_step": compiles}, deterministic=True) for compiles in (False, True)
        )
        for name, expected in plain.weights.items():
            # The differences of single steps grow with their number.
            torch.testing.assert_close(compiled.weights[name], expected, rtol=0, atol=1e-3 * float(expected.abs().max()))


@needs_gpu
class TestSameBits:
    @pytest.mark.parametrize("likelihood", LIKELIHOODS)
    def test_the_same_seed_gives_the_same_bits(self, tmp_path: Path, cells: AnnData, likelihood: str) -> None:
        first, second = (train(tmp_path / name, cells, deterministic=True, plan={"likelihood": likelihood}) for name in ("a", "b"))
        assert_same_bits(first, second)
        other = train(tmp_path / "other", cells, deterministic=True, plan={"likelihood": likelihood, "seed": 5})
        assert not np.array_equal(other.latent, first.latent)

    def test_the_default_model_gives_the_same_bits_by_the_program(self, tmp_path: Path) -> None:
        settings = [
            "trainer=gpu", "trainer.deterministic=true", "model=scalex", "model.max_steps=40", "dataset.n_cells=300",
            "dataset.n_features=400", "preprocess.min_features=50", "callbacks=[checkpoint,latent_export]",
        ]  # fmt: skip
        runs = []
        for name in ("a", "b"):
            done = run_program("train", *settings, f"output={name}", cwd=tmp_path)
            assert done.returncode == 0, done.stderr
            assert (tmp_path / name / "log.txt").read_text().count("corrected the latents") == 3
            runs.append(Trained(tmp_path / name, ad.read_h5ad(tmp_path / name / "adata.h5ad")))
        assert_same_bits(*runs)

    def test_cells_in_files_are_trained_as_cells_in_memory(self, tmp_path: Path, trained: Trained, cells: AnnData) -> None:
        cells.write_h5ad(tmp_path / "cells.h5ad")
        assert_same_bits(train(tmp_path / "run", tmp_path / "cells.h5ad", backed=True, deterministic=True), trained)

    def test_inputs_that_do_not_fit_are_trained_on_as_those_that_do(
        self, tmp_path: Path, trained: Trained, cells: AnnData, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("scalex.data.datamodule.fits", lambda *_: False)
        assert_same_bits(train(tmp_path / "run", cells, deterministic=True), trained)

    def test_buffers_give_the_same_bits_in_either_memory(self, tmp_path: Path, cells: AnnData, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("scalex.data.sizes.BUFFER_MINIBATCHES", 2)
        monkeypatch.setattr("scalex.data.sizes.BUFFER_ROWS", 1)
        cells.write_h5ad(tmp_path / "cells.h5ad")
        on_gpu = train(tmp_path / "gpu", tmp_path / "cells.h5ad", backed=True, deterministic=True)
        monkeypatch.setattr(StreamSampler, "device", property(lambda _: CPU, lambda *_: None), raising=False)
        assert_same_bits(train(tmp_path / "host", tmp_path / "cells.h5ad", backed=True, deterministic=True), on_gpu)


@needs_gpu
class TestProjection:
    def test_training_cells_get_their_latents_to_the_bit(self, trained: Trained, cells: AnnData) -> None:
        source = AnnDataSource(path=cells, batch_key="batch")
        np.testing.assert_array_equal(embed(Reference.load(trained.folder), source, make_trainer(ON_GPU)), trained.latent)

    def test_training_cells_get_their_latents_by_the_program(self, tmp_path: Path, trained: Trained, cells: AnnData) -> None:
        cells.write_h5ad(tmp_path / "cells.h5ad")
        settings = [f"reference={trained.folder}", "dataset.path=cells.h5ad", "repeat=true", "trainer=gpu", "output=out"]
        done = run_program("project", *settings, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        np.testing.assert_array_equal(ad.read_h5ad(tmp_path / "out" / "adata.h5ad").obsm["latent"], trained.latent)

    @pytest.mark.parametrize("chunk_size", [1, 7, 64, 100])
    def test_the_latent_of_a_cell_depends_on_that_cell_alone(self, trained: Trained, cells: AnnData, chunk_size: int) -> None:
        source = AnnDataSource(path=cells, batch_key="batch")
        latent = embed(Reference.load(trained.folder), source, make_trainer(ON_GPU), chunk_size=chunk_size)
        # Other numbers of rows may have other kernels, so that this is not to the bit as on the CPU.
        np.testing.assert_allclose(latent, trained.latent, **ROUNDING)

    def test_cells_in_files_get_the_latents_of_cells_in_memory(self, tmp_path: Path, trained: Trained, query: AnnData) -> None:
        query.write_h5ad(tmp_path / "query.h5ad")
        reference = Reference.load(trained.folder)
        in_memory = AnnDataSource(path=query, batch_key="batch")
        in_file = AnnDataSource(path=tmp_path / "query.h5ad", batch_key="batch", backed=True)
        for statistics in ("running", "domain"):
            latents = [embed(reference, source, make_trainer(ON_GPU), statistics=statistics) for source in (in_memory, in_file)]
            np.testing.assert_array_equal(*latents)

    @pytest.mark.parametrize("trained_on", [ON_GPU, ON_CPU])
    def test_a_reference_serves_on_either_device(
        self, tmp_path: Path, trained: Trained, cells: AnnData, query: AnnData, trained_on: str
    ) -> None:
        run = trained if trained_on == ON_GPU else train(tmp_path / "run", cells, ON_CPU)
        reference = Reference.load(run.folder)
        for some in (cells, query):
            source = AnnDataSource(path=some, batch_key="batch")
            on_cpu = reference.embed(some)
            np.testing.assert_allclose(embed(reference, source, make_trainer(ON_GPU)), on_cpu, **ROUNDING)
            if some is cells:
                np.testing.assert_allclose(on_cpu, run.latent, **ROUNDING)

    def test_a_query_without_some_features_gets_the_latents_of_the_cpu(self, trained: Trained, query: AnnData) -> None:
        reference = Reference.load(trained.folder)
        source = AnnDataSource(path=query[:, query.var_names != trained.adata.var_names[0]].copy(), batch_key="batch")
        np.testing.assert_allclose(embed(reference, source, make_trainer(ON_GPU)), embed(reference, source), **ROUNDING)


class StoppedError(Exception):
    """The end of a run that does not end by itself."""


class StopAt(Callback):
    """Stop before a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.step:
            raise StoppedError


class RecordStart(Callback):
    """Record the step and the weights at the start of the training."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.step = trainer.global_step
        self.device = pl_module.device
        self.weights = {name: value.detach().cpu().clone() for name, value in pl_module.state_dict().items()}


@needs_gpu
class TestResuming:
    # Before a correction, between the two, and after both.
    @pytest.mark.parametrize("step", [20, 31, 46])
    def test_a_run_goes_on_as_if_it_had_not_stopped(self, tmp_path: Path, trained: Trained, cells: AnnData, step: int) -> None:
        with pytest.raises(StoppedError):
            train(tmp_path / "stopped", cells, ON_GPU, StopAt(step), deterministic=True)
        start, checkpoint = RecordStart(), tmp_path / "stopped" / "checkpoint" / "last.ckpt"
        resumed = train(tmp_path / "resumed", cells, ON_GPU, start, deterministic=True, resume_from=checkpoint)
        assert (start.step, start.device) == (step, GPU)
        assert_same_bits(resumed, trained)

    def test_a_run_whose_cells_are_corrected_when_drawn_goes_on_too(
        self, tmp_path: Path, cells: AnnData, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("scalex.model.correction.MAX_CELLS", 100)
        monkeypatch.setattr("scalex.model.correction_plan.MAX_CELLS", 100)
        monkeypatch.setattr("scalex.model.correction.MIN_DOMAIN_CELLS", 20)
        monkeypatch.setattr(CorrectionPlan, "count_draws", lambda *_: 0)
        whole = train(tmp_path / "whole", cells, deterministic=True)
        with pytest.raises(StoppedError):
            train(tmp_path / "stopped", cells, ON_GPU, StopAt(46), deterministic=True)
        checkpoint = tmp_path / "stopped" / "checkpoint" / "last.ckpt"
        targets = torch.load(checkpoint, map_location="cpu", weights_only=True)["targets"]
        assert targets["latent_NZ"] is None
        assert len(targets["found"]["row_M"]) < 150
        assert_same_bits(train(tmp_path / "resumed", cells, deterministic=True, resume_from=checkpoint), whole)

    @pytest.mark.parametrize(("before", "after"), [(ON_GPU, ON_CPU), (ON_CPU, ON_GPU)])
    def test_a_run_goes_on_on_the_other_device(self, tmp_path: Path, trained: Trained, cells: AnnData, before: str, after: str) -> None:
        with pytest.raises(StoppedError):
            train(tmp_path / "stopped", cells, before, StopAt(46))
        start, checkpoint = RecordStart(), tmp_path / "stopped" / "checkpoint" / "last.ckpt"
        expected = read_weights(checkpoint)
        resumed = train(tmp_path / "resumed", cells, after, start, resume_from=checkpoint)
        assert (start.step, start.device) == (46, GPU if after == ON_GPU else CPU)
        assert all(torch.equal(value, expected[name]) for name, value in start.weights.items())
        assert not torch.equal(resumed.weights["net.heads.weight"], expected["net.heads.weight"])
        # The noise of the latents is another on each device, so that the weights differ in the end. On the CPU, another noise from here on
        # gives latents with a correlation of 0.999, and another noise from the start, as in a run that the CPU began, of 0.96.
        assert correlate(resumed.latent, trained.latent) > (0.98 if before == ON_GPU else 0.9)


@needs_gpu
class TestMixedPrecision:
    @pytest.mark.parametrize("likelihood", LIKELIHOODS)
    def test_training_gives_similar_latents(self, tmp_path: Path, cells: AnnData, likelihood: str) -> None:
        plan = {"likelihood": likelihood}
        full, mixed = (train(tmp_path / precision, cells, precision=precision, plan=plan) for precision in ("32-true", "bf16-mixed"))
        assert all(value.dtype == torch.float32 for value in mixed.weights.values() if value.is_floating_point())
        # Factors are rounded to 3 digits, so that the weights drift apart step by step. On the CPU the correlation is above 0.995, and
        # that with a run of another seed is 0.11.
        assert correlate(full.latent, mixed.latent) > 0.98

    def test_the_same_weights_give_nearly_the_same_latents(self, trained: Trained, query: AnnData) -> None:
        reference, source = Reference.load(trained.folder), AnnDataSource(path=query, batch_key="batch")
        full, mixed = (embed(reference, source, make_trainer(ON_GPU, precision=precision)) for precision in ("32-true", "bf16-mixed"))
        # Three digits of each product, of which a latent is a sum.
        assert correlate(full, mixed) > 0.999
        assert not np.array_equal(full, mixed)

    def test_likelihoods_keep_their_precision(self, minibatch: Minibatch) -> None:
        batch, likelihood = minibatch.send(), minibatch.copy_module().vae.likelihood
        x_CG = batch.rows.dense()
        decoded_CG = torch.randn(x_CG.shape, generator=torch.Generator().manual_seed(0)).to(GPU)
        full = likelihood(decoded_CG, x_CG, batch)
        with torch.autocast(GPU.type, dtype=torch.bfloat16):
            mixed = likelihood(decoded_CG, x_CG, batch)
        # A likelihood computes in float32 in every precision: the losses of epochs are compared, and differ by little in the end.
        torch.testing.assert_close(mixed, full, rtol=1e-6, atol=0)


@contextmanager
def refuse_waiting() -> Iterator[None]:
    """Raise an error where the program waits for the GPU."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@needs_gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
class TestWaiting:
    def test_a_step_waits_for_nothing(self, minibatch: Minibatch) -> None:
        module, batch = minibatch.copy_module(), minibatch.send()
        assert batch.counts is not None
        optimizer = make_optimizer(module.vae, module.hparams, fused=True)
        generator, sums = torch.Generator(GPU), EpochLosses.zero(GPU)

        def step(seed: int) -> None:
            nonlocal sums
            assert batch.counts is not None
            losses = module.losses(batch, batch.counts, generator.manual_seed(seed), 0.5)
            sums = sums.add(losses, batch.counts)
            optimizer.zero_grad()
            torch.autograd.backward(losses.total)
            optimizer.step()

        # The first step loads kernels, and makes the optimizer's state.
        step(0)
        before = {name: value.detach().clone() for name, value in module.named_parameters()}
        with refuse_waiting():
            step(1)
            step(2)
        assert sums.n_cells == 3 * len(batch.row_C)
        assert all(not torch.equal(value, before[name]) for name, value in module.named_parameters())

    def test_sending_a_minibatch_waits_for_nothing(self, minibatch: Minibatch) -> None:
        with refuse_waiting():
            sent = minibatch.send()
        assert torch.equal(sent.rows.dense().cpu(), minibatch.batch.rows.dense())
        assert torch.equal(sent.row_C.cpu(), minibatch.batch.row_C)

    def test_gathering_a_minibatch_waits_for_nothing(self, minibatch: Minibatch) -> None:
        cells = InputDataset(minibatch.data.inputs(), minibatch.data.domain)
        cells.copy = SparseRows.of(cells.matrix).to(GPU)
        rows = minibatch.batch.row_C.numpy()[::-1].copy()
        with refuse_waiting():
            drawn = cells[rows]
            dense_CG = drawn.rows.dense()
        assert dense_CG.device == drawn.row_C.device == GPU
        assert torch.equal(dense_CG.cpu(), minibatch.batch.rows.dense().flip(0))

    def test_what_waits_is_found(self) -> None:
        values = torch.arange(5, device=GPU)
        with refuse_waiting(), pytest.raises(RuntimeError, match="synchroniz"):
            values.sum().item()


@needs_gpu
class TestDevices:
    def test_more_processes_than_gpus_are_refused(self, tmp_path: Path) -> None:
        n_gpus = torch.cuda.device_count()
        done = run_program("train", *QUICK, "trainer=ddp", f"trainer.devices={n_gpus + 1}", cwd=tmp_path)
        asked = f"ValueError: trainer.devices={n_gpus + 1} asks for {n_gpus + 1} devices, but this machine has {n_gpus} GPU"
        assert_refused(done, asked, "Use at most that many, or trainer=cpu.")

    @pytest.mark.parametrize("accelerator", ["auto", "gpu"])
    def test_a_gpu_that_is_not_there_is_refused(self, tmp_path: Path, accelerator: str) -> None:
        n_gpus = torch.cuda.device_count()
        done = run_program("train", *QUICK, f"trainer={accelerator}", f"trainer.devices=[{n_gpus}]", cwd=tmp_path)
        assert_refused(done, f"ValueError: trainer.devices=[{n_gpus}]: there is no GPU {n_gpus}", "or trainer=cpu.")

    def test_the_function_for_notebooks_refuses_it_too(self, cells: AnnData) -> None:
        n_gpus = torch.cuda.device_count()
        with pytest.raises(ValueError, match=f"^gpu={n_gpus}: this machine has {n_gpus} GPU"):
            scalex.SCALEX(cells, gpu=n_gpus, min_features=0)

    def test_a_gpu_is_used_unless_the_cpu_is_asked_for(self, tmp_path: Path) -> None:
        def measure(*arguments: str) -> int:
            """Return the most memory of the GPU that a training used in addition, in bytes."""
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            done = run_program("train", *QUICK, *arguments, cwd=tmp_path)
            assert done.returncode == 0, done.stderr
            return torch.cuda.max_memory_allocated() - before

        assert measure("output=auto") > 0
        assert "The inputs are in the memory of the GPU" in (tmp_path / "auto" / "log.txt").read_text()
        assert measure("output=cpu", "trainer=cpu") == 0


def assert_refused(done: Done, *parts: str) -> None:
    """Check that a command ended with one line, which has these parts in their order."""
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "defect of SCALEX" not in done.stderr
    last, place = done.stderr.splitlines()[-1], 0
    for part in parts:
        assert part in last[place:], last
        place = last.index(part, place)


def fill_memory(*_: object, **__: object) -> None:
    raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 8.00 GiB.")


class TestFullMemory:
    """The error can be raised without a GPU: only the last of these tests needs one."""

    def test_a_training_says_what_to_lower(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ScalexModule, "training_step", fill_memory)
        done = run_program("train", *QUICK, "trainer=cpu", cwd=tmp_path)
        assert_refused(done, "The memory of the GPU is full. Lower model.batch_size", "chunk_size", "or use trainer=cpu")
        assert not (tmp_path / "run" / "adata.h5ad").exists()

    def test_a_projection_says_what_to_lower(self, tmp_path: Path, cells: AnnData, monkeypatch: pytest.MonkeyPatch) -> None:
        run = train(tmp_path / "run", cells, ON_CPU, plan={"max_steps": 5})
        cells.write_h5ad(tmp_path / "cells.h5ad")
        monkeypatch.setattr(ScalexModule, "embed", fill_memory)
        done = run_program("project", f"reference={run.folder}", "dataset.path=cells.h5ad", "output=out", "trainer=cpu", cwd=tmp_path)
        assert_refused(done, "The memory of the GPU is full. Lower ", "chunk_size", "or use trainer=cpu")
        assert not (tmp_path / "out" / "adata.h5ad").exists()

    @needs_gpu
    def test_a_gpu_that_is_full_says_so(self, tmp_path: Path) -> None:
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(1e-6)
        try:
            # 100 MB of weights are more than torch may still hold of earlier tests.
            done = run_program("train", *QUICK, "model.n_hidden=100000", "trainer=gpu", cwd=tmp_path)
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        assert_refused(done, "The memory of the GPU is full. Lower model.batch_size", "chunk_size", "or use trainer=cpu")
