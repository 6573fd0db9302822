from __future__ import annotations

import sys
from pathlib import Path

import pytest
from commands import run_command

from scalex.commands.sweep import move_multirun_first


@pytest.mark.parametrize("flag", ["-m", "--multirun"])
def test_the_flag_of_a_sweep_may_stand_anywhere(monkeypatch: pytest.MonkeyPatch, flag: str) -> None:
    for arguments in ([flag, "a=1", "b=2"], ["a=1", flag, "b=2"], ["a=1", "b=2", flag], ["a=1", flag, "b=2", flag]):
        monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
        move_multirun_first()
        assert sys.argv == ["train.py", flag, "a=1", "b=2"]
    monkeypatch.setattr(sys, "argv", ["train.py", "a=1"])
    move_multirun_first()
    assert sys.argv == ["train.py", "a=1"]


def test_settings_may_stand_on_both_sides_of_the_flag(tmp_path: Path) -> None:
    quick = ["model=small", "model.max_steps=1", "dataset.n_cells=60", "dataset.n_features=400", "preprocess.min_features=0", "trainer=cpu"]
    done = run_command("train.py", *quick, "callbacks=[latent_export]", "output=run", "-m", "seed=1,2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.rglob("adata.h5ad"))) == 2
