from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from anndata import AnnData
from lightning import Callback, LightningModule, Trainer

from scalex.callbacks import Checkpoint, EarlyStopping
from scalex.cells import AnnDataSource, Cells, InMemoryCells
from scalex.data import ScalexDataModule
from scalex.demo import demo_cells
from scalex.model.module import ScalexModule
from scalex.model.trained_on import TrainedOn
from scalex.preprocess import RnaRecipe


class Recorder(Callback):
    """Record the weights after each epoch, and its loss."""

    def __init__(self) -> None:
        self.weights: list[dict[str, torch.Tensor]] = []
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.is_last_batch:
            self.weights.append({name: value.clone() for name, value in pl_module.state_dict().items()})

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.weights:
            self.losses.append(float(trainer.callback_metrics["train/loss"]))

    on_train_end = on_train_epoch_start


def make_module_and_data(cells: Cells, **kwargs: Any) -> tuple[ScalexModule, ScalexDataModule]:
    fitted = RnaRecipe(min_features=0, n_top_features=50).fit(cells)
    module = ScalexModule(n_hidden=8, **kwargs)
    data = ScalexDataModule(cells, fitted, batch_size=module.hparams["batch_size"])
    module.set_trained_on(TrainedOn(fitted.preprocessor, len(fitted.rows), "0"), data)
    return module, data


def make_trainer(*callbacks: Callback, **kwargs: Any) -> Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "log_every_n_steps": 1}
    return Trainer(accelerator="cpu", callbacks=list(callbacks), **quiet, **kwargs)


@pytest.mark.parametrize("folder", [False, True], ids=["in memory", "in a folder"])
def test_early_stopping_restores_the_best_weights(demo_in_memory: InMemoryCells, tmp_path: Path, folder: bool) -> None:
    # With this learning rate, the loss goes up and down.
    module, data = make_module_and_data(demo_in_memory, lr=0.3)
    recorder = Recorder()
    trainer = make_trainer(recorder, EarlyStopping(patience=3), Checkpoint(tmp_path if folder else None), max_epochs=200)
    trainer.fit(module, datamodule=data)
    assert trainer.current_epoch < 200
    best = min(range(len(recorder.losses)), key=recorder.losses.__getitem__)
    assert best < len(recorder.losses) - 1
    for name, value in module.state_dict().items():
        assert torch.equal(value, recorder.weights[best][name])
    if folder:
        saved = ScalexModule.from_checkpoint(tmp_path / "checkpoint" / "best.ckpt")
        assert all(torch.equal(value, recorder.weights[best][name]) for name, value in saved.state_dict().items())
        last = ScalexModule.from_checkpoint(tmp_path / "checkpoint" / "last.ckpt")
        assert all(torch.equal(value, recorder.weights[-1][name]) for name, value in last.state_dict().items())
    else:
        assert list(tmp_path.iterdir()) == []


def test_resuming_a_finished_training_gives_its_best_weights(demo_in_memory: InMemoryCells, tmp_path: Path) -> None:
    module, data = make_module_and_data(demo_in_memory, lr=0.3)
    make_trainer(Checkpoint(tmp_path), max_epochs=6).fit(module, datamodule=data)
    again, data = make_module_and_data(demo_in_memory, lr=0.3)
    trainer = make_trainer(Checkpoint(tmp_path), max_epochs=6)
    trainer.fit(again, datamodule=data, ckpt_path=tmp_path / "checkpoint" / "last.ckpt", weights_only=True)
    assert all(torch.equal(*pair) for pair in zip(module.state_dict().values(), again.state_dict().values(), strict=True))


def test_while_losses_are_not_comparable_the_last_weights_are_the_best_and_training_goes_on(
    demo_in_memory: InMemoryCells, tmp_path: Path
) -> None:
    module, data = make_module_and_data(demo_in_memory, lr=0.3, correct_at=[0.5])
    recorder = Recorder()
    trainer = make_trainer(recorder, EarlyStopping(patience=2), Checkpoint(tmp_path), max_epochs=40)
    trainer.fit(module, datamodule=data)
    n_before = 21
    assert sum(a <= b for a, b in zip(recorder.losses[: n_before - 1], recorder.losses[1:n_before], strict=True)) > 2
    assert len(recorder.losses) > n_before
    best = min(range(n_before, len(recorder.losses)), key=recorder.losses.__getitem__)
    for name, value in module.state_dict().items():
        assert torch.equal(value, recorder.weights[best][name])


class StopAtEpoch(Callback):
    """Stop the training at the start of an epoch, as if it were killed."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch == self.epoch:
            raise KeyboardInterrupt


@pytest.mark.parametrize("epoch", [4, 7, 11])
@pytest.mark.parametrize("sampled", [False, True], ids=["all cells", "sampled cells"])
def test_a_resumed_run_continues_with_its_targets(
    demo_in_memory: InMemoryCells, tmp_path: Path, epoch: int, sampled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if sampled:
        monkeypatch.setattr("scalex.model.correction.MAX_CELLS", 60)
        monkeypatch.setattr("scalex.model.correction_plan.CorrectionPlan.takes_all", lambda *_: False)
    options = {"lr": 1e-2, "correct_at": [0.5, 0.75], "schedule": "one_cycle"}
    whole, data = make_module_and_data(demo_in_memory, **options)
    make_trainer(Checkpoint(None), max_epochs=12).fit(whole, datamodule=data)
    module, data = make_module_and_data(demo_in_memory, **options)
    with pytest.raises(SystemExit):
        make_trainer(Checkpoint(tmp_path, every_seconds=0), StopAtEpoch(epoch), max_epochs=12).fit(module, datamodule=data)
    again, data = make_module_and_data(demo_in_memory, **options)
    trainer = make_trainer(Checkpoint(tmp_path), max_epochs=12)
    trainer.fit(again, datamodule=data, ckpt_path=tmp_path / "checkpoint" / "last.ckpt", weights_only=True)
    assert all(torch.equal(*pair) for pair in zip(whole.state_dict().values(), again.state_dict().values(), strict=True))
    best = torch.load(tmp_path / "checkpoint" / "best.ckpt", weights_only=True)
    assert "targets" not in best


def test_a_run_is_not_resumed_with_other_cells(demo_in_memory: InMemoryCells, tmp_path: Path) -> None:
    module, data = make_module_and_data(demo_in_memory)
    make_trainer(Checkpoint(tmp_path), max_epochs=1).fit(module, datamodule=data)
    other, data = make_module_and_data(AnnDataSource(path=demo_cells(300, 500, 2)).open())
    with pytest.raises(ValueError, match=r"differ from those of the run's start .* Start a new run"):
        make_trainer(max_epochs=2, enable_checkpointing=False).fit(
            other, datamodule=data, ckpt_path=tmp_path / "checkpoint" / "last.ckpt", weights_only=True
        )


def test_a_stopped_run_logs_how_to_resume(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trainer = make_trainer(enable_checkpointing=False)
    Checkpoint(tmp_path).on_exception(trainer, ScalexModule(), KeyboardInterrupt())
    assert "Stopped at step 0. Nothing of it is kept.\n" in caplog.text
    (tmp_path / ".composed.yaml").touch()
    Checkpoint(tmp_path).on_exception(trainer, ScalexModule(), KeyboardInterrupt())
    assert f"Stopped at step 0. Nothing of it is kept. Begin again with: scalex train resume={tmp_path}" in caplog.text
    caplog.clear()
    Checkpoint(tmp_path).on_exception(trainer, ScalexModule(), ValueError())
    Checkpoint(None).on_exception(trainer, ScalexModule(), KeyboardInterrupt())
    assert caplog.text == ""


class StopWithinEpoch(Callback):
    """Stop the training within an epoch, as if it were killed."""

    def __init__(self, epoch: int, minibatch: int) -> None:
        self.at = epoch, minibatch

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if (trainer.current_epoch, batch_idx) == self.at:
            raise KeyboardInterrupt


@pytest.fixture
def cells(request: pytest.FixtureRequest, demo: AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cells:
    """Return cells in memory, or cells in a file that are read in five buffers per epoch."""
    monkeypatch.setattr("scalex.data.sizes.BUFFER_MINIBATCHES", 4)
    monkeypatch.setattr("scalex.data.sizes.BUFFER_ROWS", 1)
    demo.write_h5ad(tmp_path / "demo.h5ad")
    return AnnDataSource(path=tmp_path / "demo.h5ad", batch_key="batch", backed=request.param == "in a file").open()


class WholeRun(NamedTuple):
    """Final weights and losses of the epochs of a run that is not stopped."""

    weights: dict[str, torch.Tensor]
    losses: list[float]


@pytest.fixture(scope="module")
def whole_runs() -> dict[tuple[bool, int, bool], WholeRun]:
    """Return a cache of runs that are not stopped, one for each way of training."""
    return {}


@pytest.mark.parametrize(
    ("cells", "n_accumulated", "correct_at"),
    [
        ("in memory", 1, None),
        ("in memory", 3, [0.4, 0.5]),
        ("in a file", 1, [0.4, 0.5]),
        ("in a file", 3, None),
    ],
    indirect=["cells"],
)
@pytest.mark.parametrize("at", [(0, 4), (1, 18), (2, 0)])
def test_a_run_that_was_stopped_within_an_epoch_resumes_as_if_it_had_not_been(
    cells: Cells,
    tmp_path: Path,
    whole_runs: dict[tuple[bool, int, bool], WholeRun],
    at: tuple[int, int],
    n_accumulated: int,
    correct_at: list[float] | None,
) -> None:
    plan: dict[str, Any] = {"lr": 1e-2, "schedule": "one_cycle", "batch_size": 16, "correct_at": correct_at}
    options: dict[str, Any] = {"max_epochs": 3, "accumulate_grad_batches": n_accumulated}
    key = cells.in_memory, n_accumulated, correct_at is None
    if key not in whole_runs:
        module, data = make_module_and_data(cells, **plan)
        recorder = Recorder()
        make_trainer(Checkpoint(tmp_path / "whole"), recorder, **options).fit(module, datamodule=data)
        whole_runs[key] = WholeRun(module.state_dict(), recorder.losses)
    whole = whole_runs[key]
    module, data = make_module_and_data(cells, **plan)
    with pytest.raises(SystemExit):
        make_trainer(Checkpoint(tmp_path, every_seconds=0), StopWithinEpoch(*at), **options).fit(module, datamodule=data)
    again, data = make_module_and_data(cells, **plan)
    resumed = Recorder()
    last = tmp_path / "checkpoint" / "last.ckpt"
    assert torch.load(last, weights_only=True)["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"] == at[0]
    make_trainer(Checkpoint(tmp_path), resumed, **options).fit(again, datamodule=data, ckpt_path=last, weights_only=True)
    assert all(torch.equal(*pair) for pair in zip(whole.weights.values(), again.state_dict().values(), strict=True))
    # The losses include that of the epoch in which the run was stopped.
    assert whole.losses[-len(resumed.losses) :] == resumed.losses
    assert len(resumed.losses) == 3 - at[0]
