from __future__ import annotations

import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from lightning import Trainer
from matplotlib.figure import Figure

from scalex.callbacks import Scores
from scalex.callbacks.result import Result
from scalex.pl.domains import draw_scores


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


def make_result(n_domains: int) -> Result:
    """Return cells of many domains with coordinates before and after, of which the last domain is not mixed."""
    rng = np.random.default_rng(0)
    domain = np.arange(40 * n_domains) % n_domains
    latent = rng.normal(size=(len(domain), 4)).astype(np.float32)
    latent[domain == n_domains - 1] += 20
    obs = pd.DataFrame({"domain": pd.Categorical([f"$d{code:02d}" for code in domain])}, index=[f"c{i}" for i in range(len(domain))])
    adata = AnnData(obs=obs, obsm={"latent": latent}, uns={"scalex": {}})
    label = pd.Categorical(np.where(rng.random(len(domain)) < 0.5, "T", "B"))
    return Result(adata, label, latent + 30 * domain[:, None].astype(np.float32))


def test_the_figure_shows_the_least_mixed_domains_and_all_types(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(plt, "close", figures.append)
    result = make_result(30)
    Scores(tmp_path).on_result(result, Trainer(logger=False, accelerator="cpu", enable_checkpointing=False))
    assert {path.name for path in tmp_path.iterdir()} == {"metrics.json", "scores.pdf", "scores.png"}
    mixing, kept, types = figures[-1].axes
    names = [text.get_text() for text in mixing.get_yticklabels()]
    assert len(names) == 25
    assert names[-1] == "$d29 (40)"
    assert names == [text.get_text() for text in kept.get_yticklabels()]
    assert {text.get_text() for text in types.get_yticklabels()} == {"T", "B"}
    assert "25 least mixed of 30" in figures[-1].get_supxlabel()
    values = json.loads((tmp_path / "metrics.json").read_text())
    assert values["entropy_mixing_inputs"] < 0.4 < values["entropy_mixing"] < values["entropy_mixing_permuted"] < 1
    assert values == result.adata.uns["scalex"]["scores"]


def test_without_types_their_panel_is_omitted() -> None:
    table = pd.DataFrame({"cells": [5, 50], "inputs": 0.1, "latents": 0.5, "permuted": 0.9, "kept": [np.nan, -0.1]}, index=["a", "b"])
    figure = draw_scores(table, None)
    assert [axis.get_title() for axis in figure.axes] == ["Are the domains mixed?", "Is their structure kept?"]
    # A kept share below chance is inside the panel.
    assert figure.axes[1].get_xlim()[0] < -0.1
    plt.close(figure)


def test_a_sample_that_lacks_all_domains_but_one_has_no_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scalex.callbacks.scores.choose_some", lambda n_cells: np.arange(n_cells)[::2])
    # Two domains alternate, so that one has all cells of the sample.
    result = make_result(2)
    Scores(tmp_path).on_result(result, Trainer(logger=False, accelerator="cpu", enable_checkpointing=False))
    assert {path.name for path in tmp_path.iterdir()} == {"metrics.json"}
    assert "entropy_mixing_inputs" not in result.adata.uns["scalex"]["scores"]


def test_types_that_cannot_be_compared_leave_their_panel_empty() -> None:
    table = pd.DataFrame({"cells": [5, 50], "inputs": 0.1, "latents": 0.5, "permuted": 0.9, "kept": 0.5}, index=["a", "b"])
    figure = draw_scores(table, pd.DataFrame({"wrong": [], "among": []}))
    assert len(figure.axes) == 3
    plt.close(figure)
