"""The command `scalex tune`, also as `python train.py tune=...`. `tests/runs/test_study.py` tests the search itself."""

from __future__ import annotations

import json
import re
import shlex
import signal
from functools import partial
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import optuna
import pandas as pd
import pytest
import scanpy
from commands import run_command, run_program, start_child

from scalex import demo_cells
from scalex.commands.search_arguments import choose_space, restore_space
from scalex.runs.study import JOURNAL

SEARCH = [
    "dataset.n_cells=80", "dataset.n_features=400", "preprocess.min_features=0", "model.max_steps=2", "model.n_hidden=16", "trainer=cpu",
    "callbacks=[checkpoint,latent_export,scores]", "output=search", "tune.n_trials=3",
]  # fmt: skip
# Compiling the search of neighbours takes half a minute in each process.
FAST = """
from functools import partial
import scanpy
scanpy.pp.neighbors = partial(scanpy.pp.neighbors, method="gauss")
"""
# Ends the process before a file gets its final name.
KILL = """
from pathlib import Path
replace = Path.replace
Path.replace = lambda self, target: die() if str(target).endswith({name!r}) else replace(self, target)
"""


@pytest.fixture(autouse=True)
def _find_neighbours_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scanpy.pp, "neighbors", partial(scanpy.pp.neighbors, method="gauss"))


def read_trials(folder: Path) -> list[optuna.trial.FrozenTrial]:
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(folder / JOURNAL)))
    return optuna.load_study(study_name=None, storage=storage).trials


def list_runs(folder: Path) -> list[str]:
    return sorted(path.parent.name for path in folder.glob("*/adata.h5ad"))


def read_latents(folder: Path) -> np.ndarray:
    return np.asarray(ad.read_h5ad(folder / "adata.h5ad").obsm["latent"])


def test_each_trial_is_a_run_and_the_best_one_is_named(tmp_path: Path) -> None:
    done = run_program("tune", *SEARCH, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "search"
    assert list_runs(folder) == ["0", "1", "2"]
    assert {path.name for path in folder.iterdir()} == {"0", "1", "2", JOURNAL, "sweep.csv", "sweep.html", "tune.yaml"}
    table = pd.read_csv(folder / "sweep.csv", index_col="run")
    trials = read_trials(folder)
    assert [trial.values for trial in trials] == [pytest.approx([total]) for total in table["total"]]
    # The first one has the settings of a run.
    assert table["model.lr"][0] == 0.003
    assert set(table.columns[:5]) == {f"model.{name}" for name in ("lr", "n_latent", "kl_weight", "weight_decay", "correction_weight")}
    best = table["total"].idxmax()
    assert f"Best: trial {best}: total {table['total'][best]:.4f}\n" in done.stderr
    assert f"Its folder, a reference for new cells: search/{best}\n" in done.stderr
    # The command trains the best trial again, and another would go on.
    line = next(line for line in done.stderr.splitlines() if "To train with these settings: " in line)
    command = shlex.split(line.partition(": ")[2])
    assert command[:2] == ["scalex", "train"]
    assert run_program(*command[1:], "output=again", cwd=tmp_path).returncode == 0
    np.testing.assert_array_equal(read_latents(tmp_path / "again"), read_latents(folder / str(best)))
    again = run_program("tune", *SEARCH[:-1], "tune.n_trials=4", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert list_runs(folder) == ["0", "1", "2", "3"]
    assert len(pd.read_csv(folder / "sweep.csv")) == 4


def test_a_search_through_the_script_with_a_space_of_the_user(tmp_path: Path) -> None:
    (tmp_path / "conf" / "tune").mkdir(parents=True)
    text = "# Our own.\ndefaults: [base]\nn_trials: 2\nspace:\n  preprocess: [none, rna]\n  model:\n    n_latent: {low: 3, high: 5}\n"
    (tmp_path / "conf" / "tune" / "own.yaml").write_text(text)
    settings = [one for one in SEARCH if not one.startswith(("tune.", "preprocess."))]
    done = run_command("train.py", "--config-dir", "conf", "tune=own", *settings, "preprocess=none", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    # The command line gives this one.
    assert "Not searched, since the command line gives a value: preprocess\n" in done.stderr
    assert [set(trial.params) for trial in read_trials(tmp_path / "search")] == [{"model.n_latent"}] * 2
    assert "To train with these settings: python train.py --config-dir conf dataset.n_cells=80" in done.stderr
    assert "tune" not in (tmp_path / "search" / "0" / "config.yaml").read_text()
    shown = run_program("tune", "--config-dir=conf", "--help", cwd=tmp_path).stdout
    assert re.search("own +Our own.", shown)
    assert "  model.n_latent: {low: 10, high: 50}" in shown


def test_options_of_groups_and_lists_are_choices(tmp_path: Path) -> None:
    space = "tune.space={preprocess: [none], model.correct_at: [[0.5, 0.8], null]}"
    done = run_program("tune", *SEARCH[:2], *SEARCH[3:-1], space, "tune.n_trials=2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {trial.params["preprocess"] for trial in read_trials(tmp_path / "search")} == {"none"}
    found = {line for line in done.stderr.splitlines() if line.startswith("Trial ") and "model.correct_at=" in line}
    assert all(line.endswith(("preprocess=none model.correct_at=[0.5, 0.8]", "preprocess=none model.correct_at=null")) for line in found)


@pytest.mark.slow
def test_a_killed_search_goes_on(tmp_path: Path) -> None:
    """It is killed before the study knows the score of the first trial, and again while the second one trains."""
    for name, states in (("search/sweep.csv", ["RUNNING"]), ("1/checkpoint/best.ckpt", ["COMPLETE", "RUNNING"])):
        before = f"{FAST}{KILL.format(name=name)}"
        child = start_child("train.py", "tune=scalex", *SEARCH, cwd=tmp_path, before=before)
        child.end(-signal.SIGKILL)
        assert [trial.state.name for trial in read_trials(tmp_path / "search")] == states
    done = run_command("train.py", "tune=scalex", *SEARCH, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [trial.state.name for trial in read_trials(tmp_path / "search")] == ["COMPLETE"] * 3
    assert list_runs(tmp_path / "search") == ["0", "1", "2"]
    whole = run_command("train.py", "tune=scalex", *SEARCH[:-2], "output=whole", "tune.n_trials=3", cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    for name in ("0", "1", "2"):
        np.testing.assert_array_equal(*(read_latents(tmp_path / folder / name) for folder in ("search", "whole")))


def test_a_trial_that_is_resumed_by_itself_is_on_the_page(tmp_path: Path) -> None:
    before = f"{FAST}{KILL.format(name='1/adata.h5ad')}"
    settings = [*SEARCH, "tune.scores=[ari,kept]"]
    start_child("train.py", "tune=scalex", *settings, cwd=tmp_path, before=before).end(-signal.SIGKILL)
    assert run_command("train.py", "resume=search/1", cwd=tmp_path).returncode == 0
    assert re.search("2 finished runs. Run [01] has the best ari", (tmp_path / "search" / "sweep.html").read_text())
    done = run_command("train.py", "tune=scalex", *settings, cwd=tmp_path)
    assert "Finished before: search/1\n" in done.stderr
    assert [trial.state.name for trial in read_trials(tmp_path / "search")] == ["COMPLETE"] * 3


def test_without_known_types_the_log_says_what_the_score_is_worth(tmp_path: Path) -> None:
    cells = demo_cells(80, 400, 2, seed=1)
    del cells.obs["cell_type"]
    cells.write_h5ad(tmp_path / "cells.h5ad")
    settings = ["dataset.path=cells.h5ad", "dataset.batch_key=batch", *SEARCH[2:-1], "tune.n_trials=1"]
    done = run_program("tune", *settings, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "No types are known: total tells bad settings from good ones, but hardly good ones from each other" in done.stderr


@pytest.mark.slow
def test_two_processes_search_together(tmp_path: Path) -> None:
    settings = [*SEARCH[:-1], "tune.n_trials=4"]
    # Each waits for the other.
    waits = """
from pathlib import Path
import os, time, scalex.commands.tune as tune
run = tune._run_trial
def wait(*arguments, **options):
    Path(f"here-{os.getpid()}").touch()
    while len(list(Path(".").glob("here-*"))) < 2:
        time.sleep(0.01)
    return run(*arguments, **options)
tune._run_trial = wait
"""
    children = [start_child("train.py", "tune=scalex", *settings, cwd=tmp_path, before=FAST + waits) for _ in range(2)]
    outputs = [child.end() for child in children]
    assert [trial.state.name for trial in read_trials(tmp_path / "search")] == ["COMPLETE"] * 4
    assert all("\nTrial " in output for output in outputs)
    assert sum(output.count("Results: search/") for output in outputs) == 4
    assert len(pd.read_csv(tmp_path / "search" / "sweep.csv")) == 4


def test_a_failed_trial_is_one_line_and_the_others_go_on(tmp_path: Path) -> None:
    # No cell has so many features.
    space = "tune.space={preprocess.min_features: [0, 5000]}"
    done = run_program("tune", *SEARCH[:2], *SEARCH[3:-1], space, "tune.n_trials=6", "tune.sampler=random", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    trials = read_trials(tmp_path / "search")
    states = {trial.params["preprocess.min_features"]: trial.state.name for trial in trials}
    assert states == {0: "COMPLETE", 5000: "FAIL"}
    failed = [trial.number for trial in trials if trial.state.name == "FAIL"]
    assert f"Run {failed[0]} failed: ValueError: " in done.stderr
    assert f"Trials: {6 - len(failed)} completed, {len(failed)} failed\nFor 6 completed trials: scalex tune " in done.stderr
    assert "Traceback" not in done.stderr
    assert trials[failed[0]].user_attrs["message"] in (tmp_path / "search" / "sweep.html").read_text().replace("&gt;", ">")


def test_a_trial_that_shows_a_defect_is_recorded_with_its_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr("scalex.commands.train._train_and_embed", fail)
    done = run_program("tune", *SEARCH, cwd=tmp_path)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "The first 3 trials failed alike, so the search stops: RuntimeError: out of memory" in done.stderr


def test_several_seeds_and_scores(tmp_path: Path) -> None:
    done = run_program("tune", *SEARCH[:-1], "tune.n_trials=2", "tune.seeds=[1,2]", "tune.scores=[ari,kept]", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert list_runs(tmp_path / "search") == ["0-seed1", "0-seed2", "1-seed1", "1-seed2"]
    scores = [json.loads((tmp_path / "search" / f"0-seed{seed}" / "metrics.json").read_text()) for seed in (1, 2)]
    trial = read_trials(tmp_path / "search")[0]
    assert trial.values == pytest.approx([np.mean([one[name] for one in scores]) for name in ("ari", "kept")])
    assert trial.user_attrs["spread"]["ari"] == pytest.approx(np.std([one["ari"] for one in scores], ddof=1))
    assert "Best trials (no other is better by all of ari, kept):" in done.stderr
    text = f"ari {trial.values[0]:.4f} ± {trial.user_attrs['spread']['ari']:.4f}, kept {trial.values[1]:.4f} ±"
    assert text in done.stderr or trial.values[0] < read_trials(tmp_path / "search")[1].values[0]
    assert "(mean and standard deviation of 2 seeds)" in done.stderr
    assert "Means over the seeds" in (tmp_path / "search" / "sweep.html").read_text()


def test_a_score_that_the_cells_do_not_have_ends_the_search(tmp_path: Path) -> None:
    done = run_program("tune", *SEARCH, "score=umap_silhouette", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("ValueError: score=umap_silhouette cannot be computed for these cells. Available: ")
    assert "The search stops. To go on when the cause is removed: scalex tune dataset.n_cells=80" in done.stderr


def test_ctrl_c_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import scalex.commands.tune as module

    def stop(cfg: Any, *arguments: Any, **options: Any) -> Any:
        if cfg.output.endswith("/1"):
            raise KeyboardInterrupt
        return run(cfg, *arguments, **options)

    run = module.run
    settings = [*SEARCH, "tune.space.model.lr=0.1,0.2"]
    with monkeypatch.context() as patch:
        patch.setattr(module, "run", stop)
        done = run_program("tune", *settings, cwd=tmp_path)
    assert done.returncode == 1
    # The program itself ends with the signal, and this line is its last but one.
    line = next(line for line in done.stderr.splitlines() if line.startswith("Stopped with 1 of 3 trials completed. To go on: scalex tune"))
    assert run_program(*shlex.split(line.partition("To go on: ")[2])[1:], cwd=tmp_path).returncode == 0
    assert [trial.state.name for trial in read_trials(tmp_path / "search")] == ["COMPLETE"] * 3


def test_a_folder_with_something_else_is_refused(tmp_path: Path) -> None:
    run_program("tune", *SEARCH[:-1], "tune.n_trials=1", cwd=tmp_path)
    done = run_program("tune", *SEARCH, "model.n_hidden=17", "dataset.n_cells=81", cwd=tmp_path)
    assert done.returncode == 1
    assert "search holds a search with other settings (" in done.stderr
    assert "model.n_hidden was 16 and is 17" in done.stderr
    done = run_program("tune", *SEARCH[:-2], "output=search/0", cwd=tmp_path)
    assert "holds another run's results" in done.stderr
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "multirun.yaml").touch()
    done = run_program("tune", *SEARCH[:-2], "output=sweep", cwd=tmp_path)
    assert "The folder sweep holds another sweep. Choose another with output=." in done.stderr
    (tmp_path / "file").touch()
    done = run_program("tune", *SEARCH[:-2], "output=file/search", cwd=tmp_path)
    assert "Cannot write to the output folder file/search (Not a directory). Choose another with output=." in done.stderr


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["tune.n_trials=0"], "tune.n_trials=0: a whole number of at least 1 is needed"),
        (["tune.n_trals=3"], "tune.n_trals: there is no such setting; did you mean tune.n_trials?"),
        (["tune.hours=0"], "tune.hours=0: a number above 0 or null is needed"),
        (["tune.seeds=[1,1]"], "tune.seeds=[1,1]: a list of different values is needed"),
        (["tune.scores=[ari,totl]"], "tune.scores=['ari', 'totl']: a list of one of total, "),
        (["tune.sampler=cma"], "tune.sampler=cma: one of tpe, random is needed"),
        (["tune.space.model.lrr=[1,2]"], "ValueError: model.lrr: there is no such setting; did you mean model.lr?"),
        (["tune.space.model.lr={low: 1, high: 0.1}"], "ValueError: tune.space.model.lr: low=1 is above high=0.1. Swap them."),
        (["tune.space.model.lr={low: -1, high: 1}"], "model.lr=-1.0: a number above 0 is needed"),
        (["tune.space.model.lr=0.1,x"], "model.lr=x: a number above 0 is needed"),
        (["tune.space.preprocess=[rna,atacc]"], "ValueError: preprocess=atacc: there is no such option; did you mean atac?"),
        (["tune.space={}"], "ValueError: tune.space is empty: name settings to search"),
        (["tune.space=3"], "tune.space=3: settings with ranges or lists of values is needed"),
        (["tune.space.output=[a,b]"], "ValueError: tune.space.output: a search cannot try output: it is not part of what a run does."),
        (["tune.space.seed=[1,2]", "tune.seeds=[1,2]"], "tune.space.seed: a search cannot try seed: tune.seeds averages over it."),
        (["callbacks=[latent_export]"], "callbacks=[latent_export]: a search needs scores. Add scores: callbacks=[scores,...]."),
        (["trainer=ddp", "trainer.accelerator=cpu"], "Each trial trains in one process: use trainer=auto"),
        (["resume=run"], "resume= continues one run. A search goes on when it is typed again with the same output=."),
        (["-m", "seed=1,2"], "scalex tune: a search has no -m. To search several values of a setting: tune.space.NAME=[...]."),
        (["model.n_latent=10,20"], "for a search among the values: 'tune.space.model.n_latent=[10,20]'."),
        (["dataset=files"], "ValueError: Missing settings: dataset.path. Set them on the command line: dataset.path=..."),
    ],
)
def test_an_error_of_the_user_is_one_line_before_the_work_starts(tmp_path: Path, settings: list[str], message: str) -> None:
    done = run_program("tune", *settings, cwd=tmp_path)
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_search_is_no_sweep(tmp_path: Path) -> None:
    done = run_command("train.py", "-m", "tune=scalex", "seed=1,2", "output=search", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("ValueError: a search has no -m. To search several values of a setting: tune.space.NAME=[...].") == 2


def test_optuna_is_an_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scalex.commands.tune.find_spec", lambda _: None)
    done = run_program("tune", cwd=tmp_path)
    assert done.stderr == "ValueError: tune needs optuna, which is not installed: pip install 'scalex[tune]'.\n"


def test_the_space_on_the_command_line_is_shown_as_it_was_typed() -> None:
    typed = ["seed=1", "tune.space={a: [1, 2]}", "tune.space.b={low: 1, high: 2}", "tune.space.c=null", "tune.space.d=[a]", "tune.hours=2"]
    assert restore_space(choose_space(typed)) == typed
    assert restore_space(choose_space(["tune.space.a=1,2", "tune.space.a='b,c'"])) == ["tune.space.a=[1,2]", "tune.space.a='b,c'"]
