from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import anndata as ad
import pytest
from anndata import AnnData

from benchmarks.resampled import peak_memory, peak_memory_here, write_resampled


@pytest.mark.parametrize("compression", [None, "gzip"])
def test_drawn_cells_are_copies_under_new_names(demo: AnnData, tmp_path: Path, compression: None) -> None:
    write_resampled(demo, 350, tmp_path / "drawn.h5ad", first=7, compression=compression)
    drawn = ad.read_h5ad(tmp_path / "drawn.h5ad")
    assert drawn.obs_names.tolist() == [f"cell-{i}" for i in range(7, 357)]
    assert drawn.var_names.equals(demo.var_names)
    known = {(tuple(row), domain) for row, domain in zip(demo.X.toarray(), demo.obs["batch"], strict=True)}
    assert all((tuple(row), domain) in known for row, domain in zip(drawn.X.toarray(), drawn.obs["batch"], strict=True))


def test_peak_memory_is_that_of_the_command() -> None:
    small = peak_memory([sys.executable, "-c", "pass"])
    large = peak_memory([sys.executable, "-c", "bytearray(200_000_000)"])
    assert large - small == pytest.approx(200, abs=30)


def test_a_failed_command_raises_with_its_output() -> None:
    with pytest.raises(subprocess.CalledProcessError) as error:
        peak_memory([sys.executable, "-c", "raise ValueError('why')"])
    assert "ValueError: why" in error.value.stderr


def test_a_script_runs_in_this_process_with_its_arguments(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(f"import sys, pathlib\npathlib.Path({str(tmp_path / 'written')!r}).write_text(' '.join(sys.argv[1:]) + __name__)\n")
    assert peak_memory_here(script, ["a", "b"]) > 10
    assert (tmp_path / "written").read_text() == "a b__main__"
