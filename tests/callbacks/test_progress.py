from __future__ import annotations

import io
from typing import Any

import pytest
import tqdm
from lightning import Trainer

from scalex.callbacks import Progress, progress
from scalex.cells import InMemoryCells
from scalex.data import ScalexDataModule
from scalex.model.module import ScalexModule
from scalex.model.trained_on import TrainedOn
from scalex.preprocess import RnaRecipe


def test_the_bar_shows_all_steps_with_loss_and_speed(demo_in_memory: InMemoryCells, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()

    def show_on_screen(*_: Any, **kwargs: Any) -> Any:
        return tqdm.tqdm(**kwargs | {"disable": False}, file=screen)

    monkeypatch.setattr(progress, "tqdm", show_on_screen)
    fitted = RnaRecipe(min_features=0).fit(demo_in_memory)
    data = ScalexDataModule(demo_in_memory, fitted)
    module = ScalexModule(n_hidden=4)
    module.set_trained_on(TrainedOn(fitted.preprocessor, len(fitted.rows), "0"))
    trainer = Trainer(
        accelerator="cpu",
        max_steps=12,
        callbacks=[Progress(every_seconds=0)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
    )
    trainer.fit(module, datamodule=data)
    assert "12/12" in screen.getvalue()
    assert "loss" in screen.getvalue()
    assert "cells/s" in screen.getvalue()
