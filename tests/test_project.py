"""The commands `python project.py` and `python train.py reference=...`.

A new process takes ten seconds for its imports, so most tests run the commands in this process.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import anndata as ad
import numpy as np
import pytest
import yaml
from commands import run_command
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict

from scalex.projection.reference import Reference

ROOT = Path(__file__).parents[1]


def run_and_list_imports(script: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a command in a new process that finally prints which slow modules it imported."""
    code = (
        "import atexit, runpy, sys\n"
        "heavy = ('torch', 'lightning', 'scanpy', 'anndata', 'pandas', 'numpy', 'matplotlib', 'sklearn', 'h5py')\n"
        "atexit.register(lambda: print('IMPORTED', [name for name in heavy if name in sys.modules]))\n"
        f"sys.argv[0] = {str(ROOT / script)!r}\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    return subprocess.run([sys.executable, "-c", code, *arguments], cwd=cwd, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture
def query(trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a file with new cells in the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(ROOT))
    trained.query.write_h5ad(tmp_path / "query.h5ad")
    return tmp_path / "query.h5ad"


def run(command: str, *arguments: str) -> None:
    """Run a command in this process."""
    import importlib

    from scalex.commands.errors import exit_on_errors

    main: ModuleType = importlib.import_module(f"scalex.commands.{command}")
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg: DictConfig = compose(command, overrides=[*arguments, "trainer=cpu", "output=out"], return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    with open_dict(cfg):
        cfg.pop("hydra")
    exit_on_errors(getattr(main, command), cfg)


def list_names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_append_writes_a_new_reference(trained: Any, query: Path, tmp_path: Path) -> None:
    arguments = [f"reference={trained.folder}", "dataset=h5ad", "dataset.path=query.h5ad", "trainer=cpu", "output=out"]
    done = run_command("project.py", *arguments, "append=true", "impute=domain0", "chunk_size=100", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "Warning" not in done.stderr
    folder = tmp_path / "out"
    assert list_names(folder) == {
        "adata.h5ad", "report.html", "report.json", "projection.pdf", "projection.png", "config.yaml", "log.txt", "lineage.json",
        "checkpoint",
    }  # fmt: skip
    assert list_names(folder / "checkpoint") == {"best.ckpt"}
    assert list_names(tmp_path) == {"out", "query.h5ad"}

    adata, reference = ad.read_h5ad(folder / "adata.h5ad"), Reference.load(trained.folder)
    n = reference.cells.n_obs
    assert adata.n_obs == n + trained.query.n_obs
    np.testing.assert_array_equal(adata.obsm["latent"][:n], reference.latent)
    np.testing.assert_array_equal(adata.obsm["latent"][n:], reference.embed(trained.query))
    assert adata.layers["impute"].shape == adata.shape
    assert {"cell_type_label", "distance", "outside", "filtered", "projection"} <= set(adata.obs)
    assert adata.uns["scalex"]["parameters"]["chunk_size"] == 100

    report = json.loads((folder / "report.json").read_text())
    assert report["query"]["n_cells"] == trained.query.n_obs
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert (config["impute"], config["append"], config["dataset"]["backed"]) == ("domain0", True, True)
    log = (folder / "log.txt").read_text()
    for message in ("it stays on disk", "Features: 200 of the 200", "All cells (domain2): ", "The reference has grown from"):
        assert message in log
        assert message in done.stderr
    assert "Results: out" in done.stderr
    assert Reference.load(folder).cells.n_obs == adata.n_obs


def test_repeat_writes_only_the_query(trained: Any, query: Path, tmp_path: Path) -> None:
    arguments = [f"reference={trained.folder}", f"dataset.path={query}", "repeat=true", "dataset.n_obs=50"]
    run("project", *arguments)
    adata = ad.read_h5ad(tmp_path / "out" / "adata.h5ad")
    assert adata.obs_names.isin(trained.query.obs_names).all()
    assert adata.X.shape == (50, 200)
    assert adata.raw.shape == (50, trained.exported.raw.shape[1])
    assert list_names(tmp_path / "out") == {
        "adata.h5ad",
        "report.html",
        "report.json",
        "projection.pdf",
        "projection.png",
        "config.yaml",
        "log.txt",
    }
    assert list_names(tmp_path) == {"out", "query.h5ad"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["reference=no", "dataset.path=query.h5ad"], "FileNotFoundError: reference=no: no such folder."),
        (
            ["reference=.", "dataset.path=query.h5ad"],
            "FileNotFoundError: . is not a reference: it lacks checkpoint/best.ckpt and",
        ),
        (["reference=REFERENCE", "dataset.path=no.h5ad"], "FileNotFoundError: No such file: no.h5ad"),
        (["reference=REFERENCE", "dataset.path=query.h5ad", "impute=domain9"], "It knows: domain0, domain1"),
        (["reference=REFERENCE", "dataset.path=query.h5ad", "impute=7"], "It knows: domain0, domain1"),
        (
            ["reference=REFERENCE", "dataset.path=query.h5ad", "statistics=batch"],
            "statistics=batch: one of running, domain or null is n",
        ),
        (["reference=REFERENCE", "dataset.path=query.h5ad", "append=true", "repeat=true"], "use only one of them"),
        (["reference=REFERENCE", "dataset.path=query.h5ad", "dataset.batch_key=donor"], "KeyError: batch_key='donor' is not in obs."),
        (["reference=REFERENCE", "dataset.path=query.h5ad", "chunk_size=0"], "chunk_size=0: a whole number of at least 1 is needed"),
    ],
)
@pytest.mark.usefixtures("query")
def test_an_error_of_the_user_is_one_line(trained: Any, tmp_path: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit) as caught:
        run("project", *(argument.replace("REFERENCE", str(trained.folder)) for argument in arguments))
    # Python prints an exit code that is text, and exits with 1.
    assert isinstance(caught.value.code, str)
    assert message in caught.value.code
    assert "\n" not in caught.value.code.strip()
    # What settings alone can tell is told before the folder is made.
    assert list_names(tmp_path) == ({"query.h5ad"} if "=batch: " in message or "chunk_size=0" in message else {"out", "query.h5ad"})
    if (tmp_path / "out").exists():
        assert list_names(tmp_path / "out") == {"config.yaml", "log.txt"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["output=new"], "ValueError: Missing settings: dataset.path, reference. Set them on the command line: dataset.path=..."),
        (["dataset.path=query.h5ad", "output=new"], "ValueError: Missing settings: reference. Set them on the command line: reference=..."),
        (
            ["reference=run", "dataset.path=query.h5ad", "output=used"],
            "FileExistsError: The output folder used holds another run's",
        ),
        (["apend=true"], "apend"),
    ],
)
def test_wrong_settings_are_refused_before_slow_imports(tmp_path: Path, arguments: list[str], message: str) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "report.json").write_text("precious")
    done = run_and_list_imports("project.py", *arguments, cwd=tmp_path)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert "IMPORTED []" in done.stdout
    assert list_names(tmp_path) == {"used"}
    assert (tmp_path / "used" / "report.json").read_text() == "precious"


def test_help_lists_choices_and_settings(tmp_path: Path) -> None:
    done = run_and_list_imports("project.py", "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "IMPORTED []" in done.stdout
    for message in (
        "python project.py reference=run",
        "dataset     demo            Simulated cells",
        "least_found=0.3",
        "append=false",
        "backed=true",
    ):
        assert message in done.stdout
    assert list_names(tmp_path) == set()


def test_train_continues_a_reference(trained: Any, query: Path, tmp_path: Path) -> None:
    settings = ["model=paper", "model.max_steps=12", "model.lr=0.001", "dataset=h5ad", f"dataset.path={query}", "growth.allowed_fall=2"]
    run("train", f"reference={trained.folder}", *settings, "callbacks=[checkpoint,latent_export,scores]")
    folder = tmp_path / "out"
    assert list_names(folder) == {
        "adata.h5ad", "checkpoint", ".composed.yaml", "config.yaml", "growth.json", "lineage.json", "log.txt", "metrics.csv",
        "metrics.json", "scores.pdf", "scores.png",
    }  # fmt: skip
    grown = Reference.load(folder)
    assert grown.trained_on.domains == ("domain0", "domain1", "domain2")
    assert [version["action"] for version in grown.lineage] == ["trained", "trained on"]
    assert (grown.module.hparams["encoder_lr"], grown.module.hparams["kl_weight"]) == (0.3, 0.5)
    assert "The old cells moved by" in (folder / "log.txt").read_text()
    growth = yaml.safe_load((folder / "config.yaml").read_text())["growth"]
    assert growth == {"encoder_lr": 0.3, "kl_weight": 0.5, "allowed_fall": 2, "label": "cell_type"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["reference=REFERENCE", "model=small"],
            "likelihood=negative_binomial: use model.n_latent=10 model.n_hidden=1024 model.likelihood=bernoulli.",
        ),
        (["reference=no", "model=paper"], "FileNotFoundError: reference=no: no such folder."),
    ],
)
def test_an_error_of_continued_training_is_one_line(trained: Any, query: Path, arguments: list[str], message: str) -> None:
    overrides = [argument.replace("REFERENCE", str(trained.folder)) for argument in arguments]
    with pytest.raises(SystemExit) as caught:
        run("train", *overrides, "dataset=h5ad", f"dataset.path={query}")
    assert isinstance(caught.value.code, str)
    assert message in caught.value.code
