from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.quality.scoring import BATCH_METRICS, BIO_METRICS, ScoreFile, score, stand_in


def make_embedding() -> tuple[np.ndarray, pd.Series, pd.Series]:
    rng = np.random.default_rng(0)
    label = np.repeat(["a", "b"], 100)
    latent = rng.normal(size=(200, 3)) + 20 * (label == "b")[:, None]
    return latent.astype(np.float32), pd.Series(rng.choice(["x", "y"], 200)), pd.Series(label)


def test_the_stand_in_rewards_separate_types_and_mixed_domains() -> None:
    latent, domain, label = make_embedding()
    found = stand_in(latent, domain, label)
    assert found["bio"] > 0.9
    assert found["batch"] > 0.9
    assert found["total"] == pytest.approx(0.6 * found["bio"] + 0.4 * found["batch"])
    assert found["wrong"] == 0
    assert stand_in(latent, label, domain)["total"] < 0.5


def test_the_stand_in_has_the_names_of_the_scores() -> None:
    # This takes a minute or two, since jax compiles.
    pytest.importorskip("scib_metrics")
    found = score(*make_embedding())
    assert set(found) == set(stand_in(*make_embedding()))
    assert found["bio"] == pytest.approx(np.mean([found[name] for name in BIO_METRICS.values()]))
    assert found["batch"] == pytest.approx(np.mean([found[name] for name in BATCH_METRICS.values()]))


def test_score_files_share_their_figures(tmp_path: Path) -> None:
    one, other = (ScoreFile(tmp_path / "folder" / "scores.json") for _ in range(2))
    assert one.get("a") is None
    one.put("a", {"total": 0.5})
    other.put("b", {"total": 0.7})
    assert ScoreFile(tmp_path / "folder" / "scores.json").get("a") == {"total": 0.5}
    assert other.get("a") == {"total": 0.5}
