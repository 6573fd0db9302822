"""Loading a trained model from its checkpoint. No code in the file is run."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning import LightningModule

from scalex.model.trained_on import TrainedOn

__all__ = ["load_checkpoint"]

Model = TypeVar("Model", bound=LightningModule)


def load_checkpoint(path: str | Path, classes: Mapping[str, type[Model]]) -> Model:
    """Load the model of a checkpoint, in eval mode.

    Parameters
    ----------
    path
        A file that `Checkpoint` wrote.
    classes
        Classes by the names that a checkpoint may hold.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is no scalex checkpoint, or its weights do not fit the model.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"No such checkpoint: {path}.")
    try:
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        TrainedOn.check_format(checkpoint["trained_on"])
        # Older checkpoints do not name the class.
        name = checkpoint.get("model", "ScalexModule")
        if name not in classes:
            raise ValueError(  # noqa: TRY301 -- told with the path, as the errors of its parts
                f"It holds a model {name!r}, and this installation has {', '.join(classes)}: install one that has it."
            )
        module = classes[name](**checkpoint["hyper_parameters"])
        module.on_load_checkpoint(checkpoint)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    except (KeyError, IndexError, TypeError, AttributeError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        # torch's text for a file that it refuses to unpickle advises to load it nevertheless.
        reason = type(error).__name__ if isinstance(error, pickle.UnpicklingError) else f"{type(error).__name__}: {error}"
        raise ValueError(
            f"{path} is not a checkpoint of scalex ({reason}). It may be truncated or damaged: copy it again from its origin."
        ) from error
    try:
        module.load_state_dict(checkpoint["state_dict"])
    except RuntimeError as error:
        raise ValueError(f"The weights in {path} do not fit the model that it describes: {error}") from error
    broken = [name for name, value in module.state_dict().items() if value.is_floating_point() and not value.isfinite().all()]
    if broken:
        raise ValueError(f"{path}: the weights {', '.join(broken[:3])} are not finite. Train the model again.")
    return module.eval()
