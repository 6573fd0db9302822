from __future__ import annotations

from pathlib import Path

import pandas as pd

from scalex.runs.epoch_table import EpochTable


def losses(epoch: int) -> dict[str, float]:
    return {"epoch": epoch, "train/loss": 10.0 - epoch, "train/kl": 1.0}


def test_the_table_has_a_row_per_epoch_and_no_scores(tmp_path: Path) -> None:
    table = EpochTable(tmp_path)
    for epoch in range(3):
        table.log_metrics(losses(epoch), step=10 * epoch + 9)
        table.save()
    table.log_metrics({"score/total": 1.0}, step=29)
    table.save()
    expected = pd.DataFrame({"epoch": [0, 1, 2], "step": [9, 19, 29], "loss": [10.0, 9.0, 8.0], "kl": [1.0] * 3})
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "metrics.csv"), expected)


def test_a_resumed_run_continues_the_table_and_replaces_repeated_epochs(tmp_path: Path) -> None:
    before = EpochTable(tmp_path)
    for epoch in range(4):
        before.log_metrics(losses(epoch), step=epoch)
        before.save()
    resumed = EpochTable(tmp_path)
    resumed.log_metrics(losses(2), step=2)
    resumed.save()
    assert pd.read_csv(tmp_path / "metrics.csv")["epoch"].tolist() == [0, 1, 2]


def test_nothing_is_written_before_the_first_epoch(tmp_path: Path) -> None:
    EpochTable(tmp_path).save()
    assert list(tmp_path.iterdir()) == []
