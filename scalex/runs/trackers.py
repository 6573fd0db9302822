"""What trackers record of a run besides its losses: settings, tags, scores, the report and, on request, the model."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from scalex.system.atomic_files import atomic_write

__all__ = ["log_results", "log_settings", "open_mlflow", "open_wandb"]

# The identifiers of a run in trackers, so that a resumed run goes on in them.
IDENTIFIERS = ".trackers.json"
# Settings of where and how a run works, and not of what it computes.
PLUMBING = re.compile(
    r"^(allow|callbacks|epoch_table|log_model|logger|output|resume|run_name|tags|tracking)\b"
    r"|^trainer\.(enable_\w+|log_every_n_steps|num_sanity_val_steps|use_distributed_sampler)$"
)
# Dashboards show the first settings first.
ORDER = ("model", "seed", "preprocess", "dataset")
# Files of a run folder that are recorded as artifacts.
FILES = ("report.html", "config.yaml", "metrics.json", "umap.png", "scores.png")
MODEL = "checkpoint/best.ckpt"


def open_mlflow(
    folder: str | Path,
    *,
    experiment_name: str = "scalex",
    tracking_uri: str | None = None,
    artifact_location: str | None = None,
    run_name: str | None = None,
    tags: Mapping[str, Any] | None = None,
) -> MLFlowLogger:
    """Return a tracker of MLflow, which goes on in the run that a folder began.

    Parameters
    ----------
    folder
        The run folder.
    experiment_name
        Experiment of MLflow that the run belongs to.
    tracking_uri
        Database or server. None: a folder "mlruns" here.
    artifact_location
        Folder or address of the artifacts of a new experiment. None: as the server has it.
    run_name
        Name of the run. None: one that MLflow makes up.
    tags
        Tags of the run.
    """
    location = artifact_location
    if location is not None and "://" not in location:
        # MLflow writes a relative path into its database, where it means another folder for a server started elsewhere.
        location = Path(location).resolve().as_uri()
    return MLFlowLogger(
        experiment_name=experiment_name,
        tracking_uri=tracking_uri,
        artifact_location=location,
        run_name=run_name,
        tags={name: str(value) for name, value in (tags or {}).items()},
        run_id=_read_identifiers(Path(folder)).get("mlflow"),
    )


def open_wandb(
    folder: str | Path,
    *,
    save_dir: str | Path = ".",
    project: str = "scalex",
    name: str | None = None,
    group: str | None = None,
    tags: Mapping[str, Any] | None = None,
    offline: bool = True,
) -> WandbLogger:
    """Return a tracker of Weights & Biases, which goes on in the run that a folder began.

    Parameters
    ----------
    folder
        The run folder.
    save_dir
        Folder of the files of Weights & Biases, in its subfolder "wandb".
    project
        Project that the run belongs to.
    name
        Name of the run. None: one that Weights & Biases makes up.
    group
        Group of the run. None: the sweep among the tags, if there is one.
    tags
        Tags of the run, shown as "name: value".
    offline
        Keep the run in files, which ``wandb sync`` uploads later.
    """
    known = dict(tags or {})
    identifier = _read_identifiers(Path(folder)).get("wandb")
    return WandbLogger(
        name=name,
        # The folder of a sweep is given as "run/..".
        save_dir=os.path.normpath(save_dir),
        project=project,
        offline=offline,
        group=group if group is not None else known.get("sweep"),
        # A tag of Weights & Biases has at most 64 letters.
        tags=[f"{key}: {value}"[:64] for key, value in known.items()],
        id=identifier,
        resume=None if identifier is None else "allow",
    )


@rank_zero_only
def log_settings(trackers: Sequence[Logger], settings: Mapping[str, Any], folder: Path | None) -> None:
    """Record the settings of a run at its start, and how it goes on in the trackers when it is resumed.

    Parameters
    ----------
    trackers
        The trackers.
    settings
        All settings.
    folder
        The run folder, or None.
    """
    shown = dict(_list_settings(settings))
    found = {} if folder is None else _read_identifiers(folder)
    for tracker in trackers:
        if isinstance(tracker, TensorBoardLogger):
            # Its table of settings and scores is written at once, at the end.
            continue
        if isinstance(tracker, MLFlowLogger):
            run_id = str(tracker.run_id)
            if found.get("mlflow") == run_id:
                tracker.experiment.update_run(run_id, status="RUNNING")
            found["mlflow"] = run_id
        if isinstance(tracker, WandbLogger):
            found["wandb"] = tracker.experiment.id
        tracker.log_hyperparams(shown)
    if folder is not None and found:
        with atomic_write(folder / IDENTIFIERS) as path:
            path.write_text(json.dumps(found))


@rank_zero_only
def log_results(trackers: Sequence[Logger], settings: Mapping[str, Any], scores: Mapping[str, float], folder: Path | None) -> None:
    """Record scores, report and pictures, and the model if ``log_model`` is among the settings, and end the run in the trackers.

    Parameters
    ----------
    trackers, settings, folder
        As for `log_settings`.
    scores
        The final scores.
    """
    names = [*FILES, *([MODEL] if settings.get("log_model") else [])]
    paths = [] if folder is None else [folder / name for name in names if (folder / name).exists()]
    for tracker in trackers:
        if isinstance(tracker, TensorBoardLogger):
            metrics = {f"score/{name}": value for name, value in scores.items()}
            tracker.log_hyperparams(dict(_list_settings(settings)), metrics or None)
            tracker.save()
        elif isinstance(tracker, MLFlowLogger):
            for path in paths:
                tracker.experiment.log_artifact(tracker.run_id, str(path))
            # Lightning has ended the run when the training ended.
            tracker.finalize("success")
        elif isinstance(tracker, WandbLogger) and paths:
            _log_wandb_files(tracker, paths)


def _log_wandb_files(tracker: WandbLogger, paths: Sequence[Path]) -> None:
    import wandb

    artifact = wandb.Artifact(f"run-{tracker.experiment.id}", type="results")
    for path in paths:
        artifact.add_file(str(path))
    tracker.experiment.log_artifact(artifact)


def _list_settings(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each setting of what a run computes by its full name, the model's first. The class of an object is that of its group."""
    for name, value in sorted(settings.items(), key=lambda pair: ORDER.index(pair[0]) if pair[0] in ORDER else len(ORDER)):
        full = f"{prefix}{name}"
        if PLUMBING.search(full):
            continue
        if isinstance(value, Mapping):
            yield from _list_settings(value, f"{full}.")
        elif name == "_target_":
            yield prefix.removesuffix("."), str(value).rpartition(".")[2]
        elif value is not None and not isinstance(value, bool | int | float | str):
            yield full, str(value)
        else:
            yield full, value


def _read_identifiers(folder: Path) -> dict[str, str]:
    path = folder / IDENTIFIERS
    if not path.exists():
        return {}
    found: dict[str, str] = json.loads(path.read_text())
    return found
