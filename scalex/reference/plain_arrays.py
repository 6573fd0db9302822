"""The preprocessing and the encoder of a reference as plain arrays, which a few lines in any language turn into latents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from scalex.model.module import ScalexModule
from scalex.reference.finished_run import FinishedRun
from scalex.system.atomic_files import atomic_write

__all__ = ["write_plain_arrays"]


def write_plain_arrays(run: FinishedRun, path: Path) -> None:
    """Write the arrays to a .npz file. See `scalex.Reference.to_numpy` for errors, and docs/sharing.md for a reader."""
    if path.suffix != ".npz":
        raise ValueError(f"{path}: arrays are written as .npz. Let the name of the file end so.")
    if path.exists():
        raise FileExistsError(f"{path} exists, and is not overwritten. Choose another name, or remove it.")
    if not isinstance(run.module, ScalexModule):
        kind = type(run.module).__name__
        raise ValueError(  # noqa: TRY004 -- the reference is unfit, not the type of an argument
            f"{run.given} holds a {kind}, and only the encoder of a ScalexModule is written as arrays."
        )
    with atomic_write(path) as unfinished:
        np.savez(unfinished, **_describe_preprocessing(run), **_describe_encoder(run.module))


def _describe_preprocessing(run: FinishedRun) -> dict[str, Any]:
    """Return the preprocessing of cells of a new domain. Names are text of fixed width, which opens without pickle."""
    made = run.trained_on.preprocessor
    counted = made.kept_features if made.total_features is None else made.total_features
    maximum = made.maximum.max(0)
    weight = np.ones(len(made.kept_features), np.float32) if made.weight is None else made.weight
    return {
        "features": np.asarray(made.features, str),
        "counted": np.asarray(counted, str),
        "normalization": np.asarray(made.normalization),
        "target": np.asarray(made.target_sum, np.float64),
        "binarize": np.asarray(made.binarize),
        "weight": weight[made.input_position],
        "maximum": np.where(maximum > 0, maximum, np.float32(1)),
        "mean": made.mean,
    }


def _describe_encoder(module: ScalexModule) -> dict[str, Any]:
    """Return the layers that lead to the mean of the posterior, and the running statistics."""
    vae = module.vae
    norm, n_latent = vae.hidden_norm, module.hparams["n_latent"]
    layers = {
        "hidden": vae.hidden.weight.t(),
        "norm_mean": norm.running_mean[0],
        "norm_variance": norm.running_var[0] + norm.eps,
        "norm_weight": norm.weight[0],
        "norm_bias": norm.bias[0],
        "latent": vae.heads.weight[:n_latent].t(),
        "latent_bias": vae.heads.bias[:n_latent],
    }
    return {name: np.ascontiguousarray(layer.detach().cpu().numpy()) for name, layer in layers.items()}
