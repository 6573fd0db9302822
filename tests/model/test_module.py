from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from scipy import sparse
from torch import Tensor
from torch.nn import functional as F

from scalex.cells import AnnDataSource
from scalex.data import CellBatch, ScalexDataModule
from scalex.demo import demo_cells
from scalex.model.correction_plan import CorrectionPlan
from scalex.model.inference import MIN_ROWS
from scalex.model.module import ScalexModule
from scalex.model.trained_on import TrainedOn
from scalex.nn import MinibatchCounts, SparseRows
from scalex.nn.likelihood import Bernoulli, NegativeBinomial
from scalex.preprocess import Preprocessor, RnaRecipe


def make_trained_on(n_features: int = 40, domains: tuple[str, ...] = ("a", "b")) -> TrainedOn:
    names = pd.Index([f"g{i}" for i in range(n_features)])
    maximum = np.ones((len(domains), n_features), np.float32)
    return TrainedOn(
        Preprocessor(names, names, names, "total", 1e4, False, None, maximum, maximum[0] / 2, domains, "global", 0, False),
        100,
        "0",
    )


def make_module(**kwargs: Any) -> ScalexModule:
    module = ScalexModule(n_hidden=16, n_latent=3, **kwargs)
    module.set_trained_on(make_trained_on())
    return module


def make_batch(n_cells: int, seed: int = 0) -> CellBatch:
    rng = torch.Generator().manual_seed(seed)
    x = torch.rand(n_cells, 40, generator=rng)
    return CellBatch(SparseRows.of(sparse.csr_matrix(x.numpy())), torch.randint(2, (n_cells,), generator=rng), torch.arange(n_cells))


def make_data(label: pd.Categorical | None = None, **kwargs: Any) -> ScalexDataModule:
    cells = replace(AnnDataSource(path=demo_cells(200, 400, 2)).open(), label=label)
    return ScalexDataModule(cells, RnaRecipe(min_features=0, n_top_features=40).fit(cells), **kwargs)


def train(module: ScalexModule, data: ScalexDataModule, **kwargs: Any) -> Trainer:
    module.set_trained_on(TrainedOn(data.preprocessor, len(data.rows), "0"), data)
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        **kwargs,
    )
    trainer.fit(module, datamodule=data)
    return trainer


def select_rows(batch: CellBatch, rows: Tensor | slice) -> CellBatch:
    return CellBatch(SparseRows.of(batch.rows.csr()[np.arange(len(batch.row_C))[rows]]), batch.domain_C[rows], batch.row_C[rows])


def embed(module: ScalexModule, batch: CellBatch) -> Tensor:
    """Return the latents of a minibatch."""
    (found,) = module.embed([batch])
    return found.latent_CZ


def test_the_latent_of_a_cell_depends_on_that_cell_alone() -> None:
    module = make_module().eval()
    batch = make_batch(300)
    whole = embed(module, batch)
    for size in (1, 2, 7, MIN_ROWS, 250):
        assert torch.equal(embed(module, select_rows(batch, slice(size))), whole[:size])
    order = torch.randperm(300, generator=torch.Generator().manual_seed(1))
    assert torch.equal(embed(module, select_rows(batch, order)), whole[order])


def test_latents_are_the_same_in_train_and_eval_mode() -> None:
    module = make_module()
    batch = make_batch(80)
    assert torch.equal(embed(module.train(), batch), embed(module.eval(), batch))


def test_domain_statistics_are_those_of_all_cells_of_a_domain_for_every_chunk_size() -> None:
    embedded = []
    for chunk_size in (37, 200):
        data = make_data(chunk_size=chunk_size)
        module = ScalexModule(n_hidden=16, n_latent=3, statistics="domain", max_steps=5, lr=1e-3)
        train(module, data, max_steps=5)
        embedded.append(torch.cat([part.latent_CZ for part in module.embed(data.batches())]).numpy())
    np.testing.assert_allclose(embedded[0], embedded[1], atol=1e-6)

    vae = module.vae
    x = data.inputs().toarray()
    hidden = x @ vae.hidden.weight.detach().numpy().T
    for code in range(2):
        own = data.domain == code
        normalized = (hidden[own] - hidden[own].mean(0)) / np.sqrt(hidden[own].var(0) + 1e-5)
        active = np.maximum(normalized * vae.hidden_norm.weight.detach().numpy() + vae.hidden_norm.bias.detach().numpy(), 0)
        expected = (active @ vae.heads.weight.detach().numpy().T + vae.heads.bias.detach().numpy())[:, :3]
        np.testing.assert_allclose(embedded[1][own], expected, atol=1e-4)


def count_cells(batch: CellBatch) -> MinibatchCounts:
    return MinibatchCounts.of(batch.domain_C, 2)


def test_loss_is_reconstruction_plus_weighted_kl() -> None:
    module = make_module()
    batch = make_batch(50)
    losses = module.losses(batch, count_cells(batch), torch.Generator().manual_seed(3), 0.7)
    noise = torch.randn(50, module.hparams["n_latent"], generator=torch.Generator().manual_seed(3))
    logits, posterior = module.vae(batch.rows.dense(), batch.domain_C, noise, count_cells(batch))
    reconstruction = F.binary_cross_entropy(torch.sigmoid(logits), batch.rows.dense()) * 40
    normal = torch.distributions.Normal
    q = normal(posterior.mean_CZ, torch.exp(0.5 * posterior.logvar_CZ))
    kl = torch.distributions.kl_divergence(q, normal(0.0, 1.0)).sum(1).mean()
    torch.testing.assert_close(losses.reconstruction, reconstruction)
    torch.testing.assert_close(losses.kl, kl)
    torch.testing.assert_close(losses.total, reconstruction + 0.7 * kl)


def test_kl_weight_grows_during_the_warmup_only() -> None:
    module = make_module(kl_weight=0.5, kl_warmup=10)
    assert [module.kl_weight(step) for step in (0, 4, 9, 10, 1000)] == [0.05, 0.25, 0.5, 0.5, 0.5]
    assert make_module(kl_weight=0.5).kl_weight(0) == 0.5


@pytest.mark.parametrize("limits", [{"max_steps": 12, "max_epochs": None}, {"max_steps": 1000, "max_epochs": 3}])
def test_one_cycle_ends_with_the_training(limits: dict[str, Any]) -> None:
    rates: list[float] = []
    module = ScalexModule(n_hidden=8, lr=1e-2, schedule="one_cycle", batch_size=50)
    data = make_data(batch_size=50)
    module.set_trained_on(TrainedOn(data.preprocessor, len(data.rows), "0"), data)
    step = module.optimizer_step
    module.optimizer_step = lambda *a, **k: (rates.append(a[2].param_groups[0]["lr"]), step(*a, **k))[1]  # type: ignore[method-assign]
    train(module, data, **limits)
    reference_optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(reference_optimizer, 1e-2, total_steps=13)
    expected = []
    for _ in range(12):
        expected.append(reference_optimizer.param_groups[0]["lr"])
        reference_optimizer.step()
        scheduler.step()
    np.testing.assert_allclose(rates, expected)


@pytest.mark.parametrize(("n_domains", "size"), [(1, 128), (8, 128), (9, 144), (40, 640), (64, 1024), (1000, 1024)])
def test_minibatches_have_enough_cells_of_each_domain(n_domains: int, size: int) -> None:
    assert ScalexModule(batch_size=None).minibatch_size(n_domains) == size
    assert ScalexModule(batch_size=50).minibatch_size(n_domains) == 50


def test_the_seed_determines_the_weights() -> None:
    trained = []
    for seed in (1, 1, 2):
        torch.manual_seed(len(trained))  # The global random state does not matter.
        module = ScalexModule(n_hidden=8, seed=seed)
        train(module, make_data(seed=seed), max_steps=7)
        trained.append(module.vae.heads.weight.detach())
    assert torch.equal(trained[0], trained[1])
    assert not torch.equal(trained[0], trained[2])


def test_a_new_module_leaves_the_global_random_state_of_torch_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    make_module()
    assert torch.equal(torch.rand(3), expected)


def test_a_loss_that_is_not_finite_stops_the_training() -> None:
    module = ScalexModule(n_hidden=8, lr=1e30, batch_size=50)
    with pytest.raises(FloatingPointError, match=r"The loss is (nan|inf) at epoch 0, minibatch \d+, step \d+ .*Lower model.lr"):
        train(module, make_data(batch_size=50), max_steps=50)


@pytest.mark.parametrize("sampling", ["shuffle", "domain", "balanced"])
def test_training_lowers_the_loss_with_every_sampling(sampling: Any) -> None:
    data = make_data(sampling=sampling)
    module = ScalexModule(n_hidden=32, lr=3e-3)
    data.setup("fit")
    batch = CellBatch(SparseRows.of(data.inputs()), torch.from_numpy(data.domain), torch.arange(len(data.domain)))
    module.set_trained_on(TrainedOn(data.preprocessor, len(data.rows), "0"), data)
    with torch.no_grad():
        before = module.losses(batch, count_cells(batch), torch.Generator().manual_seed(0), 0.5).total
        train(module, data, max_steps=60)
        after = module.train().losses(batch, count_cells(batch), torch.Generator().manual_seed(0), 0.5).total
    assert after < before


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_gradients_are_clipped_in_every_precision(precision: Any) -> None:
    norms = []

    class Norms(Callback):
        def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
            norms.append(float(torch.nn.utils.get_total_norm([p.grad for p in pl_module.parameters() if p.grad is not None])))

        def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
            norms.append(float(torch.nn.utils.get_total_norm([p.grad for p in pl_module.parameters() if p.grad is not None])))

    train(ScalexModule(n_hidden=8), make_data(), max_steps=1, precision=precision, gradient_clip_val=0.5, callbacks=[Norms()])
    before, after = norms
    assert before > 1
    assert after == pytest.approx(0.5, rel=1e-3)


def test_the_decoder_starts_from_the_means_of_the_domains() -> None:
    data = make_data()
    data.setup("fit")
    starts = []
    for likelihood in ("bernoulli", "negative_binomial"):
        module = ScalexModule(n_hidden=16, n_latent=3, likelihood=likelihood, start_from_means=True, max_steps=1, lr=1e-9)
        train(module, data, max_steps=1)
        starts.append(module.vae.output_norm.bias.detach())
    for code in range(2):
        own = data.inputs()[data.domain == code].toarray().astype(np.float64)
        np.testing.assert_allclose(torch.sigmoid(starts[0][code]), np.clip(own.mean(0), 1e-4, None), rtol=1e-3)
        counts = np.expm1(own * data.preprocessor.unit)
        unit = np.where(counts > 0, counts, np.inf).min(1, keepdims=True)
        np.testing.assert_allclose(torch.exp(starts[1][code]), ((counts / unit).sum(0) + 0.5) / (1 / unit).sum(), rtol=1e-3)


def test_a_model_that_goes_on_keeps_its_start(tmp_path: Path) -> None:
    data = make_data()
    module = ScalexModule(n_hidden=16, n_latent=3, likelihood="negative_binomial", start_from_means=True, max_steps=2)
    trainer = train(module, data, max_steps=2)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    loaded = ScalexModule.from_checkpoint(tmp_path / "last.ckpt")
    loaded.cells = data
    trained = module.vae.output_norm.bias.detach().clone()
    for goes_on in (loaded, module):
        goes_on.on_fit_start()
        torch.testing.assert_close(goes_on.vae.output_norm.bias.detach(), trained)


@pytest.mark.parametrize("normalization", ["none", "tfidf", "clr"])
def test_inputs_without_counts_have_no_likelihood_of_counts(normalization: Any, caplog: pytest.LogCaptureFixture) -> None:
    known = make_trained_on()
    module = ScalexModule(n_hidden=16, n_latent=3, likelihood="negative_binomial")
    with caplog.at_level("INFO", logger="scalex"):
        module.set_trained_on(replace(known, preprocessor=replace(known.preprocessor, normalization=normalization)))
    assert type(module.vae.likelihood) is Bernoulli
    assert "bernoulli is used instead" in caplog.text
    assert "likelihood=bernoulli," in module.describe()
    module = ScalexModule(n_hidden=16, n_latent=3, likelihood="negative_binomial")
    module.set_trained_on(known)
    assert type(module.vae.likelihood) is NegativeBinomial
    assert "likelihood=negative_binomial," in module.describe()


def test_the_shift_of_the_decoder_of_counts_is_not_drawn_to_0() -> None:
    """A rare feature's is far from 0, and the penalty would be larger than its gradient."""
    for likelihood, expected in (("bernoulli", 0.5), ("negative_binomial", 0.0)):
        module = make_module(likelihood=likelihood, weight_decay=0.5)
        module.trainer = Trainer(accelerator="cpu", logger=False)
        groups = module.configure_optimizers().param_groups  # type: ignore[union-attr]
        decay = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
        assert decay.keys() == {id(parameter) for parameter in module.parameters()}
        assert decay[id(module.vae.output_norm.bias)] == expected
        assert decay[id(module.vae.output_weight)] == 0.5


def test_a_domain_may_have_a_single_cell() -> None:
    adata = demo_cells(120, 400, 2)
    adata.obs["batch"] = ["single"] + ["rest"] * 119
    cells = AnnDataSource(path=adata).open()
    data = ScalexDataModule(cells, RnaRecipe(min_features=0).fit(cells), sampling="domain")
    module = ScalexModule(n_hidden=8)
    train(module, data, max_steps=10)
    assert all(torch.isfinite(p).all() for p in module.parameters())


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"schedule": "cosine"}, "schedule=cosine: one of constant, one_cycle is needed"),
        ({"statistics": "batch"}, "statistics=batch: one of running, domain is needed"),
        ({"n_latent": 0}, "n_latent=0: a whole number of at least 1 is needed"),
        ({"correct_at": [0.5, 1.0]}, r"correct_at=\[0\.5, 1\.0\]: it must be rising shares of the training, at least 0 and below 1"),
        ({"correct_at": [0.5, 0.2]}, "correct_at=.*rising"),
        ({"correction_weight": -1}, "correction_weight=-1: a number of at least 0 is needed"),
        ({"use_labels": True}, "use_labels=true: labels take part in the corrections, of which correct_at allows none"),
        ({"lr": -1.0}, r"lr=-1\.0: a number above 0 is needed"),
    ],
)
def test_wrong_settings_are_refused(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ScalexModule(**kwargs)


def test_an_untrained_module_has_no_network() -> None:
    with pytest.raises(RuntimeError, match="no network yet"):
        _ = ScalexModule().vae


class TestCheckpoint:
    @pytest.fixture
    def trained_file(self, tmp_path: Path) -> Path:
        """Return the file of a trained model."""
        module = ScalexModule(n_hidden=8)
        trainer = train(module, make_data(), max_steps=3)
        trainer.save_checkpoint(tmp_path / "model.ckpt")
        return tmp_path / "model.ckpt"

    def test_is_plain_and_sufficient(self, trained_file: Path) -> None:
        torch.load(trained_file, weights_only=True)
        module = ScalexModule.from_checkpoint(trained_file)
        data = make_data()
        assert module.trained_on is not None
        assert module.trained_on.domains == data.preprocessor.domains
        assert list(module.trained_on.preprocessor.features) == list(data.preprocessor.features)
        latent = []
        for loaded in (module, ScalexModule.load_from_checkpoint(trained_file, weights_only=True).eval()):
            with torch.inference_mode():
                latent.append(embed(loaded, make_batch(70)))
        assert torch.equal(*latent)

    def test_names_weights_that_do_not_fit(self, trained_file: Path) -> None:
        checkpoint = torch.load(trained_file, weights_only=True)
        checkpoint["state_dict"]["net.heads.extra"] = checkpoint["state_dict"].pop("net.heads.weight")
        torch.save(checkpoint, trained_file)
        with pytest.raises(ValueError, match=r"(?s)do not fit.*net\.heads\.weight.*net\.heads\.extra"):
            ScalexModule.from_checkpoint(trained_file)

    def test_is_refused_if_its_format_is_another(self, trained_file: Path) -> None:
        checkpoint = torch.load(trained_file, weights_only=True)
        checkpoint["trained_on"]["format"] = 99
        torch.save(checkpoint, trained_file)
        with pytest.raises(ValueError, match="saved in format 99 by scalex 0; this version reads format 2"):
            ScalexModule.from_checkpoint(trained_file)

    def test_is_refused_if_it_is_no_checkpoint_of_scalex(self, tmp_path: Path) -> None:
        path = tmp_path / "x.ckpt"
        with pytest.raises(FileNotFoundError, match="No such checkpoint"):
            ScalexModule.from_checkpoint(path)
        torch.save({"weights": torch.zeros(1)}, path)
        with pytest.raises(ValueError, match="not a checkpoint of scalex"):
            ScalexModule.from_checkpoint(path)

    def test_runs_no_code_that_it_contains(self, tmp_path: Path) -> None:
        class Hostile:
            def __reduce__(self) -> Any:
                return Path.touch, (tmp_path / "ran",)

        path = tmp_path / "x.ckpt"
        torch.save({"state_dict": {}, "hyper_parameters": Hostile()}, path)
        with pytest.raises(ValueError, match="not a checkpoint of scalex"):
            ScalexModule.from_checkpoint(path)
        path.write_bytes(pickle.dumps(Hostile(), protocol=2))
        with pytest.raises(ValueError, match="not a checkpoint of scalex"):
            ScalexModule.from_checkpoint(path)
        assert not (tmp_path / "ran").exists()


class RecordTargets(Callback):
    """Record the targets after each step, and whether the loss is comparable at the end of each epoch."""

    def __init__(self) -> None:
        self.targets: list[torch.Tensor | None] = []
        self.comparable: list[bool] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.targets.append(pl_module.correction.target_NZ)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.comparable.append(pl_module.loss_is_comparable)


def test_targets_change_at_the_steps_of_the_corrections() -> None:
    record = RecordTargets()
    data = make_data(batch_size=50)
    module = ScalexModule(n_hidden=16, n_latent=3, lr=1e-3, batch_size=50, correct_at=[0.25, 0.6])
    train(module, data, max_epochs=5, callbacks=[record])
    # An epoch has 4 steps: the 5th step and the 12th are the first ones with new targets.
    changed = [i for i, (was, now) in enumerate(zip([None, *record.targets], record.targets, strict=False)) if was is not now]
    assert changed == [5, 12]
    assert record.comparable == [False, False, False, True, True]
    assert record.targets[-1].shape == (200, 3)


def test_cells_corrected_when_drawn_have_the_targets_of_cells_corrected_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scalex.model.correction.MAX_CELLS", 60)
    monkeypatch.setattr("scalex.model.correction_plan.MAX_CELLS", 60)
    monkeypatch.setattr("scalex.model.correction.MIN_DOMAIN_CELLS", 10)
    data = make_data(batch_size=50)
    targets = {}
    for n_draws in (199, 200):
        monkeypatch.setattr(CorrectionPlan, "count_draws", lambda *_, n=n_draws: n)
        module = ScalexModule(n_hidden=16, n_latent=3, lr=1e-3, batch_size=50, correct_at=[0.5])
        # The last step is the first with targets.
        train(module, data, max_steps=2)
        assert (module.correction.target_NZ is None) == (n_draws < 200)
        rows = torch.randperm(200, generator=torch.Generator().manual_seed(1))[:70]
        batch = CellBatch(SparseRows.of(data.inputs()[rows.numpy()]), torch.from_numpy(data.domain)[rows], rows)
        targets[n_draws] = module.correction._targets(batch.rows.dense(), batch), module.correction.variance_Z
    torch.testing.assert_close(targets[199][0], targets[200][0], atol=1e-4, rtol=1e-3)
    # The first variance is that of a sample.
    torch.testing.assert_close(targets[199][1], targets[200][1], atol=0, rtol=0.5)


@pytest.mark.parametrize(("n_due", "step", "expected"), [(1, 50, 10 * 25), (2, 75, 10 * 25), (1, 51, 10 * 24)])
def test_draws_are_counted_until_the_next_correction(n_due: int, step: int, expected: int) -> None:
    assert CorrectionPlan([0.5, 0.75], 0).count_draws(n_due, step, 100, 10) == expected


def test_all_cells_are_embedded_if_they_are_few_or_drawn_often() -> None:
    plan = CorrectionPlan([0.5, 0.8], 0)
    # In 100 steps of 1,000 cells, 30,000 are drawn between the corrections and 20,000 after the second.
    assert [plan.count_embeddings(100, 1000, n) for n in (20_000, 20_001, 30_000, 30_001)] == [2, 1, 1, 0]
    assert CorrectionPlan([0.5, 0.8], 0, use_labels=True).count_embeddings(100, 1000, 30_001) == 2
    assert CorrectionPlan([], 0).count_embeddings(100, 1000, 30_001) == 0


@pytest.mark.parametrize("use_labels", [False, True])
def test_corrections_get_seed_labels_and_attraction(monkeypatch: pytest.MonkeyPatch, use_labels: bool) -> None:
    calls = []

    def record(latent: torch.Tensor, domain: torch.Tensor, **options: Any) -> torch.Tensor:
        calls.append(options)
        return latent

    monkeypatch.setattr("scalex.model.correction_plan.correction_targets", record)
    data = make_data(batch_size=50, label=pd.Categorical(np.resize(["b", None, "a"], 200)))
    options = {"n_hidden": 16, "n_latent": 3, "batch_size": 50, "seed": 5, "use_labels": use_labels}
    train(ScalexModule(correct_at=[0.2, 0.4, 0.8], **options), data, max_epochs=5)
    # Only the first correction attracts.
    assert [one["attract"] for one in calls] == [True, False, False]
    assert {one["seed"] for one in calls} == {5}
    for one in calls:
        assert one["label_N"] is None if not use_labels else one["label_N"].tolist() == np.resize([1, -1, 0], 200).tolist()


def test_corrections_by_label_need_labels() -> None:
    module = ScalexModule(n_hidden=16, n_latent=3, batch_size=50, correct_at=[0.5], use_labels=True)
    with pytest.raises(ValueError, match=r"model.use_labels=true, but no cell has a label: .*dataset.label_key"):
        train(module, make_data(batch_size=50), max_epochs=1)


def test_correction_loss_is_the_scaled_distance_to_the_targets() -> None:
    module = make_module(correction_weight=7.0, correct_at=[0.5])
    batch = make_batch(50)
    rows = CellBatch(batch.rows, batch.domain_C, batch.row_C.flip(0))
    without = module.losses(rows, count_cells(rows), torch.Generator().manual_seed(3), 0.7)
    assert without.correction == 0
    target = torch.rand(50, 3)
    module.correction.load_plain({"latent_NZ": target, "variance_Z": torch.tensor([1.0, 4.0, 0.25]), "n_corrected": 1}, module.vae)
    losses = module.losses(rows, count_cells(rows), torch.Generator().manual_seed(3), 0.7)
    mean = module.vae.posterior(batch.rows.dense()).mean_CZ
    expected = sum(((mean[i] - target[49 - i]) ** 2 / torch.tensor([1.0, 4.0, 0.25])).sum() for i in range(50)) / 50
    torch.testing.assert_close(losses.correction, expected)
    torch.testing.assert_close(losses.total, without.total + 7 * expected)


def test_corrections_bring_domains_closer() -> None:
    embedded = []
    for correct_at in (None, [0.5]):
        data = make_data(batch_size=50)
        module = ScalexModule(
            n_hidden=64, n_latent=4, lr=5e-3, batch_size=50, schedule="one_cycle", correct_at=correct_at, sampling="domain"
        )
        train(module, data, max_epochs=60)
        embedded.append(torch.cat([part.latent_CZ for part in module.embed(data.batches())]).numpy())
    distance = [np.linalg.norm((z[data.domain == 0].mean(0) - z[data.domain == 1].mean(0)) / z.std(0)) for z in embedded]
    assert distance[1] < 0.7 * distance[0]


def test_corrections_need_the_training_cells() -> None:
    data = make_data(batch_size=50)
    module = ScalexModule(n_hidden=16, n_latent=3, batch_size=50, correct_at=[0.5], max_steps=4)
    module.set_trained_on(TrainedOn(data.preprocessor, len(data.rows), "0"))
    trainer = Trainer(accelerator="cpu", max_steps=4, logger=False, enable_checkpointing=False, enable_progress_bar=False)
    with pytest.raises(ValueError, match="correct_at needs the training cells, and set_trained_on was given none: give it the data module"):
        trainer.fit(module, datamodule=data)
