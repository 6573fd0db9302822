from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest
import torch
from anndata import AnnData

from scalex.cells import AnnDataSource
from scalex.data import ScalexDataModule
from scalex.model.module import ScalexModule
from scalex.model.trained_on import TrainedOn
from scalex.preprocess import RnaRecipe
from scalex.training.forecast import log_forecast


@pytest.mark.parametrize(("options", "n_epochs"), [({"max_steps": 30}, 5.0), ({"max_steps": 10**6, "max_epochs": 2}, 2.0)])
def test_the_forecast_counts_the_reads_and_keeps_the_weights(
    demo: AnnData, tmp_path: Path, caplog: pytest.LogCaptureFixture, options: dict[str, int], n_epochs: float
) -> None:
    caplog.set_level(logging.INFO)
    demo.write_h5ad(tmp_path / "cells.h5ad")
    cells = AnnDataSource(path=tmp_path / "cells.h5ad", batch_key="batch", backed=True).open()
    data = ScalexDataModule(cells, RnaRecipe(min_features=0).fit(cells), batch_size=50)
    module = ScalexModule(n_hidden=16, n_latent=3, batch_size=50, correct_at=[0.5], **options)
    module.set_trained_on(TrainedOn(data.preprocessor, len(data.rows), "0"), data)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    log_forecast(module, data, torch.device("cpu"))
    per_cell = demo.X.nnz / 300
    # The correction and the embedding each read all cells once.
    assert f"300 cells with {per_cell:,.0f} values each are read {n_epochs + 2:.1f} times" in caplog.text
    assert f"{n_epochs:.1f} epochs at most" in caplog.text
    assert re.search(r"Estimated time: \d+ (s|min|h) of training and \d+ s of reading", caplog.text)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
