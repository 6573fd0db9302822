"""What a training refuses before it reads the cells."""

from __future__ import annotations

from pathlib import Path

import pytest
from lightning import Trainer

import scalex
from scalex.callbacks import LatentExport
from scalex.cells import AnnDataSource
from scalex.model.module import ScalexModule


def test_a_compiled_step_of_several_processes_is_told_before_the_cells_are_read(tmp_path: Path) -> None:
    trainer = Trainer(accelerator="cpu", devices=2, callbacks=[LatentExport(None)], logger=False, enable_checkpointing=False)
    absent = AnnDataSource(path=tmp_path / "absent.h5ad")
    with pytest.raises(ValueError, match=r"model.compile_step=true is for a training by one process, and there are 2: leave it out"):
        scalex.fit(absent, scalex.RnaRecipe(), ScalexModule(compile_step=True), trainer)
