"""The store of the embeddings that `run.py` has computed, and of their scores."""

from __future__ import annotations

import hashlib
import inspect
import re
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.provenance import source_hash
from benchmarks.quality import over_correction, scoring
from benchmarks.quality.peers import Embedding, Peer
from benchmarks.quality.sets import LabelledCells, sample

__all__ = ["MAX_SCORED", "Figures", "Method", "Store", "select_scored", "to_file_name"]

# The number of cells that are scored; larger sets are sampled.
MAX_SCORED = 4000
SAMPLE_SEED = 0

Figures = dict[str, float]


class Method(Protocol):
    """A method of integration, which embeds cells."""

    @property
    def name(self) -> str:
        """Return the name in tables."""
        ...

    @property
    def seeds(self) -> Sequence[int]:
        """Return the seeds of its runs."""
        ...

    @property
    def is_ours(self) -> bool:
        """Return whether its embeddings depend on the code of scalex."""
        ...

    def key(self, cells: LabelledCells, seed: int) -> str:
        """Return a name, fit for a file, of what an embedding depends on besides the code of scalex."""
        ...

    def run(self, cells: LabelledCells, seed: int) -> Embedding | None:
        """Return the embedding, or None if it cannot be computed here."""
        ...


class Store:
    """Embeddings and their scores, each of which is computed once.

    Parameters
    ----------
    folder
        Folder of the store.
    bench
        Folder of embeddings from elsewhere; see `Peer.stored`.
    keep_old_code
        Whether to use embeddings of our models by earlier code.
    kept_only
        Whether to use only stored embeddings and run nothing.
    fresh
        Whether to run all methods again.
    score
        Function that scores latents by domains and labels.
    """

    def __init__(
        self,
        folder: Path,
        bench: Path,
        *,
        keep_old_code: bool = False,
        kept_only: bool = False,
        fresh: bool = False,
        score: Callable[[NDArray[np.float32], pd.Series, pd.Series], Figures] = scoring.score,
    ) -> None:
        self.folder = folder
        self._bench = bench
        self._keep_old_code = keep_old_code
        self._kept_only = kept_only
        self._fresh = fresh
        self._score = score
        self._ran: set[Path] = set()
        self._scores = scoring.ScoreFile(folder / "scores.json")

    def embedding(self, cells: LabelledCells, method: Method, seed: int) -> Embedding | None:
        """Return the embedding of the cells by `method`, or None if it is not stored and cannot be computed."""
        if isinstance(method, Peer):
            stored = self._bench / method.stored[0] / f"{cells.name}.npz"
            if stored.exists():
                return Embedding.load_bench(stored, method.stored[1])
        path = self._path(cells, method, seed)
        if path.exists() and not (self._fresh and path not in self._ran):
            return Embedding.load(path)
        if self._kept_only:
            return None
        start = perf_counter()
        found = method.run(cells, seed)
        if found is not None:
            found.save(path)
            self._ran.add(path)
            _print_progress(f"{cells.name}: {method.name}, seed {seed}: {perf_counter() - start:.0f} s")
        return found

    def figures(self, cells: LabelledCells, method: Method, seed: int, judged: pd.DataFrame | None = None) -> Figures | None:
        """Return scores and times, or None if there is no embedding.

        Parameters
        ----------
        cells, method, seed
            See `embedding`.
        judged
            The obs of the same cells with the "batch" and "cell_type" for the scores. If None, their own obs.
        """
        found = self.embedding(cells, method, seed)
        if found is None:
            return None
        obs = cells.adata.obs if judged is None else judged
        scores = self.score(f"{cells.name}/{method.name}/{seed}", found.select(obs.index.to_numpy(str)), obs)
        return scores | {"training": found.training_seconds, "whole": found.whole_seconds}

    def score(self, title: str, latent: NDArray[np.float32], obs: pd.DataFrame) -> Figures:
        """Return the scores of an embedding, of a sample if there are many cells.

        Parameters
        ----------
        title
            Name of the embedding in the file of the scores.
        latent
            (n_cells, n_latent).
        obs
            "batch" and "cell_type" of each cell.
        """
        rows = sample(obs, MAX_SCORED, SAMPLE_SEED)
        latent, obs = latent[rows], obs.iloc[rows]
        digest = hashlib.sha256(np.ascontiguousarray(latent).tobytes())
        digest.update("\n".join([*obs["batch"].astype(str), *obs["cell_type"].astype(str), _source_of_scores()]).encode())
        key = f"{title}/{digest.hexdigest()[:12]}"
        scores = self._scores.get(key)
        if scores is None:
            start = perf_counter()
            scores = self._score(latent, obs["batch"], obs["cell_type"])
            self._scores.put(key, scores)
            _print_progress(f"{title}: scored in {perf_counter() - start:.0f} s, total {scores['total']:.3f}")
        return scores

    def all_figures(self, cells: LabelledCells, method: Method, judged: pd.DataFrame | None = None) -> list[Figures]:
        """Return `figures` of each seed of the method that has any."""
        found = [self.figures(cells, method, seed, judged) for seed in method.seeds]
        return [one for one in found if one is not None]

    def load_or_make(self, kind: str, title: str, latent: NDArray[np.float32], make: Callable[[], NDArray[Any]]) -> NDArray[np.float32]:
        """Return the array that `make` returns, which is computed once and stored.

        Parameters
        ----------
        kind
            Name of a folder in the store.
        title
            Text to print when the array is computed.
        latent
            Latents that determine the array.
        make
            Function that computes the array.
        """
        path = self.folder / kind / f"{hashlib.sha256(np.ascontiguousarray(latent).tobytes()).hexdigest()[:16]}.npy"
        if not path.exists():
            _print_progress(title)
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, make())
        array: NDArray[np.float32] = np.load(path)
        return array

    def _path(self, cells: LabelledCells, method: Method, seed: int) -> Path:
        folder, key = self.folder / "embeddings" / to_file_name(cells.name), method.key(cells, seed)
        if not method.is_ours:
            return folder / f"{key}.npz"
        path = folder / f"{key}-{source_hash()}.npz"
        if self._keep_old_code and not path.exists():
            return max(folder.glob(f"{key}-*.npz"), key=lambda old: old.stat().st_mtime, default=path)
        return path


def select_scored(obs: pd.DataFrame) -> pd.DataFrame:
    """Return the obs of the scored cells: all, or a sample that is the same for all embeddings."""
    return obs.iloc[sample(obs, MAX_SCORED, SAMPLE_SEED)]


def to_file_name(name: str) -> str:
    """Return a name that is fit for a file."""
    return re.sub(r"[^\w.=]+", "_", name)


@cache
def _source_of_scores() -> str:
    return "".join(inspect.getsource(module) for module in (scoring, over_correction))


def _print_progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
