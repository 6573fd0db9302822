from __future__ import annotations

from pathlib import Path

import pandas as pd

from scalex.runs.epoch_table import EpochTable


def losses(epoch: int) -> dict[str, float]:
    # Pandas reads this number with an error in the last digit unless it is told otherwise.
    return {"epoch": epoch, "train/loss": 10.0 - epoch, "train/kl": 0.00016978607330969675}


def read_table(folder: Path) -> pd.DataFrame:
    """Read the table with all bits of its numbers, by Python."""
    table = pd.read_csv(folder / "metrics.csv", dtype=str)
    return pd.DataFrame({name: [(int if name in ("epoch", "step") else float)(value) for value in table[name]] for name in table})


def test_the_table_has_a_row_per_epoch_and_no_scores(tmp_path: Path) -> None:
    table = EpochTable(tmp_path)
    for epoch in range(3):
        table.log_metrics(losses(epoch), step=10 * epoch + 9)
        table.save()
    table.log_metrics({"score/total": 1.0}, step=29)
    table.save()
    expected = pd.DataFrame({"epoch": [0, 1, 2], "step": [9, 19, 29], "loss": [10.0, 9.0, 8.0], "kl": [0.00016978607330969675] * 3})
    pd.testing.assert_frame_equal(read_table(tmp_path), expected, check_exact=True)


def test_a_resumed_run_continues_the_table_and_replaces_repeated_epochs(tmp_path: Path) -> None:
    before = EpochTable(tmp_path)
    for epoch in range(4):
        before.log_metrics(losses(epoch), step=epoch)
        before.save()
    resumed = EpochTable(tmp_path)
    resumed.log_metrics(losses(2), step=2)
    resumed.save()
    table = read_table(tmp_path)
    assert table["epoch"].tolist() == [0, 1, 2]
    assert table["kl"].tolist() == [0.00016978607330969675] * 3


def test_nothing_is_written_before_the_first_epoch(tmp_path: Path) -> None:
    EpochTable(tmp_path).save()
    assert list(tmp_path.iterdir()) == []
