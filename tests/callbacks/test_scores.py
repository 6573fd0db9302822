from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from lightning import Trainer

from scalex.callbacks import Scores
from scalex.callbacks.result import Result


def test_the_log_names_the_types_that_lie_among_others(caplog: pytest.LogCaptureFixture) -> None:
    rng = np.random.default_rng(0)
    label = np.repeat(["CD4", "CD8", "B"], [90, 40, 70])
    place = {"CD4": 0.0, "CD8": 0.0, "B": 50.0}
    latent = (rng.normal(size=(200, 4)) + np.array([place[one] for one in label])[:, None]).astype(np.float32)
    obs = pd.DataFrame({"domain": pd.Categorical(rng.choice(["a", "b"], 200))}, index=[f"c{i}" for i in range(200)])
    # Some cells have no label.
    known = pd.Categorical(np.where(np.arange(200) % 9 == 0, None, label))
    adata = AnnData(obs=obs, obsm={"latent": latent}, uns={"scalex": {}})
    with caplog.at_level("INFO"):
        Scores(None).on_result(Result(adata, known), Trainer(logger=False, accelerator="cpu", enable_checkpointing=False))
    line = next(message for message in caplog.messages if message.startswith("Types that lie among others"))
    assert "CD8 among CD4 (0." in line
    assert "CD4 among CD8 (0." in line
    assert "B" not in line.partition(":")[2]
    assert adata.uns["scalex"]["scores"]["wrong"] > 0.3
    # Without coordinates before the integration, nothing can be told of what was kept.
    assert "kept" not in adata.uns["scalex"]["scores"]
