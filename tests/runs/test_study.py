"""Searches whose runs are functions. `tests/test_tune.py` searches by training."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
from commands import Child

from scalex.runs.search_space import Choice, Range
from scalex.runs.study import JOURNAL, Found, TrialFailedError, read_trials, search

SPACE = {"x": Range(0, 1), "kind": Choice((None, "a", [1, 2]))}


class Runs:
    """A function that runs trials, and what it was called with."""

    def __init__(self, run: Callable[[int, Any], Mapping[str, Sequence[float]]] = lambda _, x: {"total": [x]}) -> None:
        self.called: list[tuple[int, Mapping[str, Any]]] = []
        self.run = run

    def __call__(self, number: int, settings: Mapping[str, Any]) -> Mapping[str, Sequence[float]]:
        self.called.append((number, settings))
        return self.run(number, settings["x"])


def find(folder: Path, runs: Callable[..., Any], n_trials: int = 4, scores: Sequence[str] = ("total",), **options: Any) -> Found:
    search(folder, SPACE, runs, scores=scores, n_trials=n_trials, **options)
    return read_trials(folder, SPACE, scores)


def read_states(folder: Path) -> list[str]:
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(folder / JOURNAL)))
    return [trial.state.name for trial in optuna.load_study(study_name=None, storage=storage).trials]


def test_the_first_trial_has_the_present_settings_and_the_best_is_found(tmp_path: Path) -> None:
    runs = Runs()
    found = find(tmp_path, runs, first={"x": 0.5, "kind": [1, 2], "other": 3})
    assert [number for number, _ in runs.called] == [0, 1, 2, 3]
    assert runs.called[0][1] == {"x": 0.5, "kind": [1, 2]}
    best = max(runs.called, key=lambda call: call[1]["x"])
    assert found == Found(found.best, 4, 0, 0)
    assert [(one.number, one.settings) for one in found.best] == [best]
    assert {path.name for path in tmp_path.iterdir()} == {JOURNAL}


def test_a_search_in_two_parts_is_the_search_in_one(tmp_path: Path) -> None:
    whole, first, second = Runs(), Runs(), Runs()
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    find(tmp_path / "whole", whole, 13)
    find(tmp_path / "parts", first, 5)
    find(tmp_path / "parts", second, 13)
    assert first.called + second.called == whole.called
    # Nothing is left to do.
    assert find(tmp_path / "parts", Runs(), 13).n_completed == 13


def test_the_samplers_differ_and_the_seed_counts(tmp_path: Path) -> None:
    called = []
    for name, options in (("a", {}), ("b", {"sampler": "random"}), ("c", {"seed": 5})):
        (tmp_path / name).mkdir()
        runs = Runs()
        find(tmp_path / name, runs, 13, **options)
        called.append(runs.called)
    # The sampler learns from ten trials.
    assert called[0][:10] == called[1][:10]
    assert called[0] != called[1]
    assert called[0][0] != called[2][0]


def test_a_trial_is_the_mean_of_its_runs(tmp_path: Path) -> None:
    found = find(tmp_path, Runs(lambda _, x: {"total": [x, x + 0.2, x + 0.4], "ari": [1.0, 1.0, 1.0]}), 2)
    best = found.best[0]
    assert best.mean == pytest.approx({"total": best.settings["x"] + 0.2, "ari": 1}, abs=1e-3)
    assert best.spread == pytest.approx({"total": 0.2, "ari": 0})
    assert best.n_runs == 3


def test_several_scores_have_several_best_trials(tmp_path: Path) -> None:
    found = find(tmp_path, Runs(lambda number, x: {"ari": [x], "mixed": [1 - x] if number else [-1.0]}), scores=("ari", "mixed"))
    assert sorted(one.number for one in found.best if one.number) == [1, 2, 3]


def fail_in(*numbers: int) -> Callable[[int, float], Mapping[str, Sequence[float]]]:
    def run(number: int, x: float) -> Mapping[str, Sequence[float]]:
        if number in numbers:
            raise TrialFailedError(f"x={x} is too much")
        return {"total": [x]}

    return run


def test_a_failed_trial_is_recorded_and_another_command_replaces_it(tmp_path: Path) -> None:
    found = find(tmp_path, Runs(fail_in(1)))
    assert found[1:] == (3, 1, 0)
    assert read_states(tmp_path) == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    runs = Runs()
    assert find(tmp_path, runs)[1:] == (4, 1, 0)
    assert [number for number, _ in runs.called] == [4]


def test_trials_that_all_fail_alike_end_the_search(tmp_path: Path) -> None:
    def fail(number: int, x: float) -> Mapping[str, Sequence[float]]:
        raise TrialFailedError("no such file")

    runs = Runs(fail)
    with pytest.raises(ValueError, match="The first 3 trials failed alike, so the search stops: no such file"):
        find(tmp_path, runs, 20)
    assert len(runs.called) == 3


def test_a_score_that_cannot_be_computed_ends_the_search_unless_others_have_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"score=ari cannot be computed for these cells\. Available: total, kept\."):
        find(tmp_path, Runs(lambda _, x: {"total": [x], "kept": [x]}), scores=("ari",))
    assert read_states(tmp_path) == ["RUNNING"]
    (tmp_path / "other").mkdir()
    assert find(tmp_path / "other", Runs(lambda number, x: {"a" if number == 1 else "total": [x]}))[1:] == (3, 1, 0)


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt(), SystemExit(1)])
def test_a_trial_that_is_stopped_is_run_again(tmp_path: Path, error: BaseException) -> None:
    def stop(number: int, x: float) -> Mapping[str, Sequence[float]]:
        if number == 1:
            raise error
        return {"total": [x]}

    stopped, again = Runs(stop), Runs()
    with pytest.raises(type(error)):
        find(tmp_path, stopped)
    assert find(tmp_path, again)[1:] == (4, 0, 0)
    # With the same settings.
    assert again.called[0] == stopped.called[1]
    assert [number for number, _ in again.called] == [1, 2, 3]


def test_no_trial_begins_after_the_time(tmp_path: Path) -> None:
    runs = Runs()
    assert find(tmp_path, runs, hours=1e-9)[1:] == (0, 0, 0)
    assert find(tmp_path, runs, hours=1).n_completed == 4


CODE = """
import sys, time
from pathlib import Path
from scalex.runs.search_space import Choice, Range
from scalex.runs.study import search
space = {"x": Range(0, 1), "kind": Choice((None, "a", [1, 2]))}
def run(number, settings):
    print("trial", number, flush=True)
    %s
    return {"total": [settings["x"]]}
search(Path("."), space, run, scores=["total"], n_trials=%d)
"""


def test_a_trial_whose_process_was_killed_is_run_again(tmp_path: Path) -> None:
    Child(CODE % ("if number == 1: die()", 4), cwd=tmp_path).end(-signal.SIGKILL)
    assert read_states(tmp_path) == ["COMPLETE", "RUNNING"]
    again = Runs()
    assert find(tmp_path, again)[1:] == (4, 0, 0)
    assert [number for number, _ in again.called] == [1, 2, 3]


def test_a_killed_process_leaves_no_lock_and_no_half_line(tmp_path: Path) -> None:
    holds = "from scalex.runs.study import lock_study\nfrom pathlib import Path\nwith lock_study(Path('.')): die()"
    Child(holds, cwd=tmp_path).end(-signal.SIGKILL)
    find(tmp_path, Runs(), 2)
    with (tmp_path / JOURNAL).open("ab") as file:
        file.write(b'{"op_code": 4, "wor')
    assert find(tmp_path, Runs(), 3).n_completed == 3


def test_two_processes_share_the_trials(tmp_path: Path) -> None:
    # Each waits for the other, so that both have trials.
    waits = "Path(f'here-{number}').touch()\n    while len(list(Path('.').glob('here-*'))) < 2: time.sleep(0.01)"
    children = [Child(CODE % (waits, 7), cwd=tmp_path) for _ in range(2)]
    outputs = [child.end() for child in children]
    assert all("trial" in output for output in outputs)
    assert sorted(number for output in outputs for number in output.split() if number.isdigit()) == list("0123456")
    assert read_states(tmp_path) == ["COMPLETE"] * 7


def test_a_running_trial_is_left_to_its_process(tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    child = Child(CODE % ("while Path('other').exists(): time.sleep(0.01)", 1), cwd=tmp_path)
    while "RUNNING" not in (read_states(tmp_path) if (tmp_path / ".trial-0").exists() else []):
        pass
    runs = Runs()
    assert find(tmp_path, runs, 3)[1:] == (2, 0, 1)
    (tmp_path / "other").unlink()
    child.end()
    assert [number for number, _ in runs.called] == [1, 2]
    assert read_states(tmp_path) == ["COMPLETE"] * 3
