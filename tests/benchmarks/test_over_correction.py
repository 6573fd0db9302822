from __future__ import annotations

import numpy as np
import pytest

from benchmarks.quality.over_correction import over_correction


def test_separate_types_score_zero_and_mixed_types_score_one() -> None:
    rng = np.random.default_rng(1)
    label = np.repeat(["a", "b", "rare"], [700, 780, 20])
    noise = rng.normal(size=(1500, 4))
    separate = over_correction(noise + 50 * np.unique(label, return_inverse=True)[1][:, None], label)
    assert separate["wrong"] == separate["wrong, rare"] == 0
    mixed = over_correction(noise, label)
    assert mixed["wrong"] == pytest.approx(1, abs=0.05)
    assert mixed["wrong: rare"] == mixed["wrong, rare types"] == pytest.approx(1, abs=0.2)
