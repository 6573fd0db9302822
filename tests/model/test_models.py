from __future__ import annotations

from pathlib import Path

import pytest
import torch

from scalex.model.models import MODELS, load_model
from scalex.model.module import ScalexModule
from scalex.nn.likelihood import LIKELIHOODS, Bernoulli

STORED = Path(__file__).parents[1] / "reference" / "stored" / "run" / "checkpoint" / "best.ckpt"


def change_checkpoint(folder: Path, **changes: object) -> Path:
    """Write the stored checkpoint with changed entries; return the file."""
    checkpoint = torch.load(STORED, weights_only=True)
    torch.save(checkpoint | changes, folder / "best.ckpt")
    return folder / "best.ckpt"


def test_a_checkpoint_without_a_name_holds_the_first_model() -> None:
    module = load_model(STORED)
    assert type(module) is ScalexModule
    assert module.hparams["likelihood"] == "bernoulli"


def test_a_checkpoint_is_loaded_as_the_class_it_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class OwnModel(ScalexModule):
        pass

    path = change_checkpoint(tmp_path, model="OwnModel")
    with pytest.raises(ValueError, match="holds a model 'OwnModel', and this installation has ScalexModule: install one that has it"):
        load_model(path)
    monkeypatch.setitem(MODELS, "OwnModel", OwnModel)
    loaded = load_model(path)
    assert type(loaded) is OwnModel
    saved: dict[str, object] = {}
    loaded.on_save_checkpoint(saved)
    assert saved["model"] == "OwnModel"
    assert type(OwnModel.from_checkpoint(path)) is OwnModel


def test_a_registered_likelihood_can_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="likelihood='poisson': allowed are bernoulli, negative_binomial"):
        ScalexModule(likelihood="poisson")
    monkeypatch.setitem(LIKELIHOODS, "squared", Bernoulli)
    assert ScalexModule(likelihood="squared").hparams["likelihood"] == "squared"
