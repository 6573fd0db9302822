"""The store of what `run.py` has run: embeddings and their scores."""

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

__all__ = ["MAX_SCORED", "Figures", "Method", "Store", "plain", "scored"]

# Of larger sets, a sample of as many cells is scored.
MAX_SCORED = 4000
SAMPLE_SEED = 0

Figures = dict[str, float]


class Method(Protocol):
    """What makes an embedding of cells."""

    @property
    def name(self) -> str:
        """In tables."""
        ...

    @property
    def seeds(self) -> Sequence[int]:
        """Those it is run with."""
        ...

    def key(self, cells: LabelledCells, seed: int) -> str:
        """Names what an embedding depends on, besides our code; fit for a name of a file."""
        ...

    def run(self, cells: LabelledCells, seed: int) -> Embedding | None:
        """The embedding; None if it can not be computed here."""
        ...


class Store:
    """Embeddings and their scores; what has been run is not run again.

    Parameters
    ----------
    folder
        Where they are kept.
    bench
        Folder of embeddings that somebody else stored; see `Peer.stored`.
    keep_old_code
        Take embeddings of our models although the code has changed since.
    kept_only
        Run nothing: what is not there is left out.
    fresh
        Run in any case.
    score
        Scores a latent space by domains and labels.
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
        self._scores = scoring.Remembered(folder / "scores.json")

    def embedding(self, cells: LabelledCells, method: Method, seed: int) -> Embedding | None:
        """What `method` makes of the cells; None if that is not there and cannot be computed."""
        if isinstance(method, Peer):
            stored = self._bench / method.stored[0] / f"{cells.name}.npz"
            if stored.exists():
                return Embedding.of_bench(stored, method.stored[1])
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
            _say(f"{cells.name}: {method.name}, seed {seed}: {perf_counter() - start:.0f} s")
        return found

    def figures(self, cells: LabelledCells, method: Method, seed: int, judged: pd.DataFrame | None = None) -> Figures | None:
        """Scores and times; None if there is no embedding.

        Parameters
        ----------
        cells, method, seed
            See `embedding`.
        judged
            The obs by whose "batch" and "cell_type" the embedding is scored, for the same cells; None: their own.
        """
        found = self.embedding(cells, method, seed)
        if found is None:
            return None
        obs = scored(cells.adata.obs if judged is None else judged)
        latent = found.of(obs.index.to_numpy(str))
        digest = hashlib.sha256(np.ascontiguousarray(latent).tobytes())
        digest.update("\n".join([*obs["batch"].astype(str), *obs["cell_type"].astype(str), _source_of_scores()]).encode())
        key = f"{cells.name}/{method.name}/{seed}/{digest.hexdigest()[:12]}"
        scores = self._scores.get(key)
        if scores is None:
            start = perf_counter()
            scores = self._score(latent, obs["batch"], obs["cell_type"])
            self._scores.put(key, scores)
            _say(f"{cells.name}: {method.name}, seed {seed}: scored in {perf_counter() - start:.0f} s, total {scores['total']:.3f}")
        return scores | {"training": found.training_seconds, "whole": found.whole_seconds}

    def all_figures(self, cells: LabelledCells, method: Method, judged: pd.DataFrame | None = None) -> list[Figures]:
        """`figures` of each seed of the method, of those for which there are any."""
        found = [self.figures(cells, method, seed, judged) for seed in method.seeds]
        return [one for one in found if one is not None]

    def kept_array(self, kind: str, title: str, latent: NDArray[np.float32], make: Callable[[], NDArray[Any]]) -> NDArray[np.float32]:
        """What `make` gives, made once.

        Parameters
        ----------
        kind
            Name of a folder in the store.
        title
            What to say that is made.
        latent
            All that it depends on.
        make
            Makes it.
        """
        path = self.folder / kind / f"{hashlib.sha256(np.ascontiguousarray(latent).tobytes()).hexdigest()[:16]}.npy"
        if not path.exists():
            _say(title)
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, make())
        kept: NDArray[np.float32] = np.load(path)
        return kept

    def _path(self, cells: LabelledCells, method: Method, seed: int) -> Path:
        folder, key = self.folder / "embeddings" / plain(cells.name), method.key(cells, seed)
        if isinstance(method, Peer):
            return folder / f"{key}.npz"
        path = folder / f"{key}-{source_hash()}.npz"
        if self._keep_old_code and not path.exists():
            return max(folder.glob(f"{key}-*.npz"), key=lambda old: old.stat().st_mtime, default=path)
        return path


def scored(obs: pd.DataFrame) -> pd.DataFrame:
    """The cells that are scored: all, or a sample that is the same for all embeddings."""
    return obs.iloc[sample(obs, MAX_SCORED, SAMPLE_SEED)]


def plain(name: str) -> str:
    """As a file may be called."""
    return re.sub(r"[^\w.=]+", "_", name)


@cache
def _source_of_scores() -> str:
    return "".join(inspect.getsource(module) for module in (scoring, over_correction))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
