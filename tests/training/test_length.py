"""The length of a training, where the number of cells decides it."""

from __future__ import annotations

from typing import Any

import pytest
from lightning import Trainer

import scalex
from scalex.callbacks import LatentExport
from scalex.cells import AnnDataSource
from scalex.demo import demo_cells
from scalex.model import options
from scalex.model.module import ScalexModule
from scalex.training.length import trainer_limits


def train(module: ScalexModule, **limits: Any) -> Trainer:
    """Train on 200 cells in minibatches of 50, so that an epoch has four steps."""
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(accelerator="cpu", callbacks=[LatentExport(None)], **quiet, **limits)
    source = AnnDataSource(path=demo_cells(200, 400, 2), batch_key="batch")
    scalex.fit(source, scalex.RnaRecipe(min_features=0, n_top_features=50), module, trainer)
    return trainer


@pytest.mark.parametrize(("n_cells", "n_steps"), [(2, 1200), (20_000, 1200), (80_000, 2400), (2_000_000, 12_000)])
def test_steps_grow_with_the_root_of_the_number_of_cells(n_cells: int, n_steps: int) -> None:
    assert ScalexModule(max_steps=None).count_steps(n_cells) == n_steps
    assert ScalexModule(max_steps=7).count_steps(n_cells) == 7


@pytest.mark.parametrize(
    ("max_steps", "limits", "expected"),
    [
        (None, trainer_limits(None, None), 10),
        (None, trainer_limits(None, 2), 8),
        (None, trainer_limits(None, 3), 10),
        # What the trainer is told stands.
        (None, trainer_limits(6, None), 6),
        (5, trainer_limits(None, None), 5),
    ],
)
def test_training_takes_the_steps_that_suit_the_cells(
    monkeypatch: pytest.MonkeyPatch, max_steps: int | None, limits: dict[str, Any], expected: int
) -> None:
    monkeypatch.setattr(options, "MIN_STEPS", 5)
    monkeypatch.setattr(options, "MAX_CELLS_OF_MIN_STEPS", 50)
    module = ScalexModule(n_latent=3, n_hidden=8, batch_size=50, max_steps=max_steps, schedule="one_cycle", correct_at=[0.5])
    trainer = train(module, **limits)
    assert trainer.global_step == expected
    # The cycle of the learning rate ends with the training.
    assert trainer.optimizers[0].param_groups[0]["lr"] < 1e-4 * module.hparams["lr"]
    assert module.correction.complete


def test_minibatches_of_many_domains_are_larger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options, "MIN_BATCH_SIZE", 20)
    trainer = train(ScalexModule(n_latent=3, n_hidden=8, batch_size=None), max_epochs=1)
    # 16 cells of each of two domains are 32, in seven minibatches of 200 cells.
    assert trainer.global_step == 7
