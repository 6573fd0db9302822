from __future__ import annotations

from pathlib import Path

import pytest
import torch

from scalex.model.models import MODELS, load_model
from scalex.model.module import ScalexModule
from scalex.nn.likelihood import LIKELIHOODS

STORED = Path(__file__).parents[1] / "reference" / "stored" / "run" / "checkpoint" / "best.ckpt"


def rewritten(folder: Path, **changes: object) -> Path:
    checkpoint = torch.load(STORED, weights_only=True)
    torch.save(checkpoint | changes, folder / "best.ckpt")
    return folder / "best.ckpt"


def test_a_checkpoint_without_a_name_is_that_of_the_first_model() -> None:
    module = load_model(STORED)
    assert type(module) is ScalexModule
    assert module.hparams["likelihood"] == "bernoulli"


def test_the_class_is_looked_up_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Mine(ScalexModule):
        pass

    path = rewritten(tmp_path, model="Mine")
    with pytest.raises(ValueError, match="holds a model 'Mine', and this installation has ScalexModule: install one that has it"):
        load_model(path)
    monkeypatch.setitem(MODELS, "Mine", Mine)
    loaded = load_model(path)
    assert type(loaded) is Mine
    saved: dict[str, object] = {}
    loaded.on_save_checkpoint(saved)
    assert saved["model"] == "Mine"
    assert type(Mine.from_checkpoint(path)) is Mine


def test_a_likelihood_is_chosen_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="likelihood='poisson': allowed are bernoulli"):
        ScalexModule(likelihood="poisson")
    monkeypatch.setitem(LIKELIHOODS, "squared", lambda logits, x: (torch.sigmoid(logits) - x).square().sum())
    assert ScalexModule(likelihood="squared").hparams["likelihood"] == "squared"
