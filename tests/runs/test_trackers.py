"""A sweep with all trackers, seen as their dashboards see it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import yaml
from commands import ROOT

from scalex.runs.trackers import _list_settings

SMALL = [
    "dataset.n_cells=80", "dataset.n_features=400", "preprocess.min_features=0", "preprocess.n_top_features=50", "model.max_steps=4",
    "trainer=cpu", "logger=[tensorboard,mlflow,wandb]",
]  # fmt: skip
pytestmark = pytest.mark.slow
# Seconds that a server may take to start on a very busy machine.
TIMEOUT = 300


def train(*arguments: str, cwd: Path) -> None:
    # mlflow and wandb warn of their own matters.
    environment = os.environ | {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, str(ROOT / "train.py"), *arguments], cwd=cwd, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mlflow", reason="needs mlflow")
    folder = tmp_path_factory.mktemp("trackers")
    train("-m", "model.n_latent=3,4", "seed=1,2", "+tags.project=demo", "log_model=true", *SMALL, "output=sweep", cwd=folder)
    return folder / "sweep"


@contextmanager
def serve(*command: str) -> Iterator[str]:
    """Start a server, and yield its address when it answers."""
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    with subprocess.Popen(
        [sys.executable, "-m", *command, "--host", "127.0.0.1", "--port", str(port)], stderr=subprocess.DEVNULL
    ) as server:
        try:
            for _ in range(TIMEOUT):
                try:
                    urllib.request.urlopen(address)
                    break
                except (URLError, ConnectionError):
                    assert server.poll() is None
                    time.sleep(1)
            yield address
        finally:
            server.terminate()


def get(address: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        return json.loads(answer.read())


NAMES = {f"n_latent={n} seed={seed}" for n in (3, 4) for seed in (1, 2)}


def test_mlflow_compares_the_runs_of_a_sweep(sweep: Path) -> None:
    assert not list(sweep.glob("*/mlflow.db"))
    with serve("mlflow", "server", "--backend-store-uri", f"sqlite:///{sweep}/mlflow.db") as address:
        api = f"{address}/api/2.0/mlflow"
        experiment = get(f"{api}/experiments/get-by-name?experiment_name=scalex")["experiment"]
        runs = get(f"{api}/runs/search", {"experiment_ids": [experiment["experiment_id"]]})["runs"]
        assert {run["info"]["run_name"] for run in runs} == NAMES
        for run in runs:
            assert run["info"]["status"] == "FINISHED"
            tags = {one["key"]: one["value"] for one in run["data"]["tags"]}
            assert (tags["sweep"], tags["model"], tags["preprocess"], tags["project"]) == ("sweep", "scalex", "rna", "demo")
            settings = {one["key"]: one["value"] for one in run["data"]["params"]}
            assert f"n_latent={settings['model.n_latent']} seed={settings['seed']}" == run["info"]["run_name"]
            # Each setting once, and none of where things are.
            assert not {"n_latent", "output", "logger.mlflow", "callbacks.progress"} & set(settings)
            measured = {one["key"] for one in run["data"]["metrics"]}
            assert {"train/loss", "integration/domain_entropy", "optimizer/lr", "score/total"} <= measured
            files = get(f"{api}/artifacts/list?run_id={run['info']['run_id']}")["files"]
            assert {"report.html", "config.yaml", "umap.png", "best.ckpt"} <= {one["path"] for one in files}


def test_tensorboard_compares_the_runs_of_a_sweep(sweep: Path) -> None:
    with serve("tensorboard.main", "--logdir", str(sweep / "tensorboard"), "--load_fast", "false") as address:
        for _ in range(TIMEOUT):
            scalars = get(f"{address}/data/plugin/scalars/tags")
            if set(scalars) >= NAMES:
                break
            time.sleep(1)
        for name in NAMES:
            assert {"train/loss", "score/total", "optimizer/lr"} <= set(scalars[name])
        images = get(f"{address}/data/plugin/images/tags")
        assert all("umap" in images[name] for name in NAMES)
        table = get(f"{address}/data/plugin/hparams/experiment", {"experimentName": ""})
        assert {"model.n_latent", "seed"} <= {one["name"] for one in table["hparamInfos"]}
        assert "score/total" in {one["name"]["tag"] for one in table["metricInfos"]}


def test_weights_and_biases_has_a_run_for_each(sweep: Path) -> None:
    folders = sorted((sweep / "wandb").glob("offline-run-*"))
    identifiers = {json.loads(path.read_text())["wandb"] for path in sweep.glob("*/.trackers.json")}
    assert {path.name.rpartition("-")[2] for path in folders} == identifiers
    assert len(identifiers) == 4


def test_a_resumed_run_goes_on_in_the_same_tracked_run(sweep: Path) -> None:
    before = json.loads((sweep / "0" / ".trackers.json").read_text())
    (sweep / "0" / "adata.h5ad").unlink()
    train(f"resume={sweep / '0'}", cwd=sweep.parent)
    assert json.loads((sweep / "0" / ".trackers.json").read_text()) == before
    with serve("mlflow", "server", "--backend-store-uri", f"sqlite:///{sweep}/mlflow.db") as address:
        experiment = get(f"{address}/api/2.0/mlflow/experiments/get-by-name?experiment_name=scalex")["experiment"]
        runs = get(f"{address}/api/2.0/mlflow/runs/search", {"experiment_ids": [experiment["experiment_id"]]})["runs"]
    assert [run["info"]["status"] for run in runs] == ["FINISHED"] * 4


def test_settings_of_the_model_come_first_and_plumbing_is_left_out() -> None:
    settings = {
        "output": "run", "seed": 1, "trainer": {"_target_": "lightning.Trainer", "devices": 1, "enable_progress_bar": False},
        "callbacks": {"progress": {"every_seconds": 1}}, "model": {"_target_": "scalex.ScalexModule", "correct_at": [0.5], "lr": None},
    }  # fmt: skip
    expected = {
        "model": "ScalexModule",
        "model.correct_at": "[0.5]",
        "model.lr": None,
        "seed": 1,
        "trainer": "Trainer",
        "trainer.devices": 1,
    }
    assert list(dict(_list_settings(settings)).items()) == list(expected.items())


def test_a_run_alone_keeps_its_trackers_in_its_folder(tmp_path: Path) -> None:
    train(*SMALL[:-1], "logger=tensorboard", "callbacks=[checkpoint,latent_export]", "output=alone", cwd=tmp_path)
    assert (tmp_path / "alone" / "tensorboard" / "alone").is_dir()
    stored = yaml.safe_load((tmp_path / "alone" / "config.yaml").read_text())
    assert (stored["run_name"], stored["tags"]["dataset"]) == ("alone", "DemoSource")
