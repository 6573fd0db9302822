"""A search for good settings by Optuna: its study, and the trials that processes claim, run and tell it.

The study is one file in the folder of the sweep. Its locks are files, too, which end with their process even if it is killed. A trial
that was claimed by a process that has ended is claimed again, so that its runs go on.
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, cast

from scalex.runs.owner import own_file
from scalex.runs.search_space import Space

if TYPE_CHECKING:
    from optuna import Study
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial, Trial

__all__ = ["JOURNAL", "Found", "Sampler", "TrialFailedError", "TrialResult", "lock_study", "read_trials", "search"]

JOURNAL = "optuna.journal"
NAME = "scalex"
# Number of trials that fail with one message before any is completed, after which the reason is not in their settings.
ALIKE = 3
# Seconds between two attempts to get a lock.
WAIT = 0.02

Sampler: TypeAlias = Literal["tpe", "random"]
# Runs the trial of a number with some settings, and returns each score of each of its runs.
RunTrial: TypeAlias = Callable[[int, Mapping[str, Any]], Mapping[str, Sequence[float]]]


class TrialFailedError(Exception):
    """A trial cannot be completed, because of its settings. The search goes on with others."""


class TrialResult(NamedTuple):
    """A completed trial.

    Attributes
    ----------
    number
        Its number.
    settings
        The values that it gave the settings.
    mean, spread
        The mean and the standard deviation over its runs, for each score. The standard deviation of one run is 0.
    n_runs
        Number of its runs.
    """

    number: int
    settings: Mapping[str, Any]
    mean: Mapping[str, float]
    spread: Mapping[str, float]
    n_runs: int


class Found(NamedTuple):
    """What a study has found until now.

    Attributes
    ----------
    best
        The best trial; of a search by several scores, all trials of which no other is better by every score.
    n_completed, n_failed, n_unfinished
        Numbers of trials.
    """

    best: Sequence[TrialResult]
    n_completed: int
    n_failed: int
    n_unfinished: int


def search(
    folder: Path,
    space: Space,
    run: RunTrial,
    *,
    scores: Sequence[str],
    n_trials: int = 20,
    hours: float | None = None,
    sampler: Sampler = "tpe",
    seed: int = 124,
    first: Mapping[str, Any] | None = None,
) -> None:
    """Run trials until the study in `folder` has enough. Other processes may do the same at the same time.

    Parameters
    ----------
    folder
        The folder of the sweep.
    space
        The settings to search.
    run
        Function that runs a trial.
    scores
        Names of the scores to maximise.
    n_trials
        Number of trials, over all processes, with those of earlier calls. Trials that had failed before this call do not count.
    hours
        After this time, no new trial is begun.
    sampler
        How settings are chosen: "tpe" by what the earlier trials have found, or "random".
    seed
        Seed of the choice. With one process, equal trials before lead to an equal trial.
    first
        Settings of the first trial, as far as they lie within the space.

    Raises
    ------
    OSError, ValueError
        Errors of `run` other than `TrialFailedError` end the search, and leave the trial to be run again.
    """
    begun = time.monotonic()
    with lock_study(folder):
        study = _open(folder, scores)
        if not study.trials:
            encoded = {name: space[name].encode(value) for name, value in (first or {}).items() if name in space}
            study.enqueue_trial({name: value for name, value in encoded.items() if value is not None})
        n_failed = _count(study, "FAIL")
    messages: list[str] = []
    while hours is None or time.monotonic() - begun < 3600 * hours:
        with _claim(study, folder, space, limit=n_trials + n_failed, make_sampler=lambda n: _make_sampler(sampler, seed + n)) as claimed:
            if claimed is None:
                return
            try:
                _run(study, *claimed, run, scores)
            except TrialFailedError as error:
                messages.append(str(error))
        if len(messages) >= ALIKE and len(set(messages)) == 1 and not _count(study, "COMPLETE"):
            raise ValueError(f"The first {ALIKE} trials failed alike, so the search stops: {messages[0]}")


def read_trials(folder: Path, space: Space, scores: Sequence[str]) -> Found:
    """Return what the study in `folder` has found. The parameters are those of `search`."""
    from optuna.trial import TrialState

    with lock_study(folder):
        study = _open(folder, scores)
        trials = study.trials
        best = study.best_trials if any(one.state is TrialState.COMPLETE for one in trials) else []
    return Found(
        [_read(one, space) for one in (best if len(scores) > 1 else best[:1])],
        *(sum(one.state is state for one in trials) for state in (TrialState.COMPLETE, TrialState.FAIL, TrialState.RUNNING)),
    )


@contextmanager
def lock_study(folder: Path) -> Iterator[None]:
    """Wait for the lock of the study in a folder, and hold it for the duration of the context."""
    with _wait_for(folder / ".study"):
        yield


@contextmanager
def _wait_for(path: Path) -> Iterator[None]:
    while True:
        with own_file(path) as is_own:
            if is_own:
                yield
                return
        time.sleep(WAIT)


def _open(folder: Path, scores: Sequence[str]) -> Study:
    """Open the study, or create it. Only one process may do this at a time."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    path = folder / JOURNAL
    lock = _JournalLock(folder)
    if path.exists():
        lock.acquire()
        _remove_half_line(path)
        lock.release()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = JournalStorage(JournalFileBackend(str(path), lock_obj=cast("Any", lock)))
    study = optuna.create_study(storage=storage, study_name=NAME, directions=["maximize"] * len(scores), load_if_exists=True)
    with warnings.catch_warnings():
        # Names for Optuna's own page, which it calls experimental.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if study.metric_names is None:
            study.set_metric_names(list(scores))
    return study


class _JournalLock:
    """The lock of the journal, as Optuna uses it. Optuna's own locks outlive a killed process."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / ".journal"
        self._stack = ExitStack()

    def acquire(self) -> bool:
        self._stack.enter_context(_wait_for(self._path))
        return True

    def release(self) -> None:
        self._stack.close()


def _remove_half_line(path: Path) -> None:
    """Remove what a process that was killed, or met a full disk, has written of its last line."""
    with path.open("r+b") as file:
        content = file.read()
        file.truncate(content.rfind(b"\n") + 1)


def _make_sampler(name: Sampler, seed: int) -> BaseSampler:
    from optuna.samplers import RandomSampler, TPESampler

    return RandomSampler(seed=seed) if name == "random" else TPESampler(seed=seed)


@contextmanager
def _claim(
    study: Study, folder: Path, space: Space, *, limit: int, make_sampler: Callable[[int], BaseSampler]
) -> Iterator[tuple[Trial, Mapping[str, Any]] | None]:
    """Claim a trial for the duration of the context, and yield it with its settings; yield None if there are enough trials.

    Trials that have been begun and that no process works on come first.
    """
    from optuna.trial import Trial, TrialState

    with ExitStack() as stack:
        with lock_study(folder):
            trials = [one for one in study.get_trials(deepcopy=False) if one.state is not TrialState.WAITING]
            # A trial that ends meanwhile is free, too.
            left = (one for one in trials if one.state is TrialState.RUNNING and stack.enter_context(own_file(_name_claim(folder, one))))
            frozen = next((one for one in left if study.get_trials(deepcopy=False)[one.number].state is TrialState.RUNNING), None)
            if frozen is None and len(trials) >= limit:
                trial = None
            else:
                # A sampler of its own for each trial: which process runs it makes no difference.
                study.sampler = make_sampler(len(trials) if frozen is None else frozen.number)
                trial = study.ask() if frozen is None else Trial(study, frozen._trial_id)
                settings = {name: one.suggest(trial, name) for name, one in space.items()}
                if frozen is None:
                    stack.enter_context(own_file(_name_claim(folder, trial)))
        yield None if trial is None else (trial, settings)


def _name_claim(folder: Path, trial: Trial | FrozenTrial) -> Path:
    return folder / f".trial-{trial.number}"


def _run(study: Study, trial: Trial, settings: Mapping[str, Any], run: RunTrial, scores: Sequence[str]) -> None:
    from optuna.trial import TrialState

    try:
        found = run(trial.number, settings)
        missing = [name for name in scores if name not in found]
        if missing and _count(study, "COMPLETE"):
            # Others could be scored, so these settings are the reason.
            raise TrialFailedError(f"{', '.join(missing)} cannot be computed.")  # noqa: TRY301 -- as if the run had failed
    except TrialFailedError as error:
        trial.set_user_attr("message", str(error))
        study.tell(trial, state=TrialState.FAIL)
        raise
    if missing:
        raise ValueError(f"score={missing[0]} cannot be computed for these cells. Available: {', '.join(found)}.")
    trial.set_user_attr("mean", {name: statistics.fmean(values) for name, values in found.items()})
    trial.set_user_attr("spread", {name: statistics.stdev(values) if len(values) > 1 else 0.0 for name, values in found.items()})
    trial.set_user_attr("n_runs", max(map(len, found.values())))
    study.tell(trial, [statistics.fmean(found[name]) for name in scores])


def _count(study: Study, state: str) -> int:
    return sum(one.state.name == state for one in study.get_trials(deepcopy=False))


def _read(trial: FrozenTrial, space: Space) -> TrialResult:
    settings = {name: space[name].decode(stored) for name, stored in trial.params.items()}
    attributes = trial.user_attrs
    return TrialResult(trial.number, settings, attributes["mean"], attributes["spread"], attributes["n_runs"])
