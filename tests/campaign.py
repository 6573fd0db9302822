"""Kill commands at every change of a file, and check that they can be typed again or resumed: make campaign.

It is not part of the test suite, because it takes about twenty minutes. One part: python tests/campaign.py --part train
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import anndata as ad
import numpy as np
import torch
from commands import ROOT, Child

from scalex.demo import demo_cells

# Notes each change of a file below the working directory before it is made, and ends the process before the change of a number.
HOOK = """
import builtins, h5py, io, os, sys
FOLDER, LOG, STOP = os.getcwd() + os.sep, {log!r}, {stop}
log = os.open(LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
changes = []
def change(name, path):
    if isinstance(path, int) or not os.path.abspath(os.fsdecode(path)).startswith(FOLDER):
        return
    # Nothing changes.
    if (name == "mkdir" and os.path.exists(path)) or (name in ("unlink", "remove") and not os.path.lexists(path)):
        return
    os.write(log, f"{{name}} {{os.path.relpath(os.fsdecode(path))}}\\n".encode())
    changes.append(path)
    if len(changes) == STOP:
        die()
def watch(module, name, position=0):
    call = getattr(module, name)
    def watched(*args, **options):
        change(name, args[position])
        return call(*args, **options)
    setattr(module, name, watched)
for name, position in (("replace", 1), ("rename", 1), ("link", 1), ("unlink", 0), ("remove", 0), ("mkdir", 0)):
    watch(os, name, position)
def watch_open(module, name, writes):
    call = getattr(module, name)
    def watched(path, *args, **options):
        if writes(*args, **options):
            change("open", path)
        return call(path, *args, **options)
    setattr(module, name, watched)
to_write = lambda mode="r", *_, **__: any(letter in mode for letter in "wax+")
watch_open(builtins, "open", to_write)
watch_open(io, "open", to_write)
watch_open(os, "open", lambda flags, *_, **__: flags & (os.O_WRONLY | os.O_RDWR))
start = h5py.File.__init__
def watched_start(self, name, mode="r", *args, **options):
    if mode != "r" and isinstance(name, (str, os.PathLike)) and options.get("driver") != "core":
        change("open", name)
    start(self, name, mode, *args, **options)
h5py.File.__init__ = watched_start
"""
# Compiling the search of neighbours takes half a minute in each process.
FAST = """
from functools import partial
import scanpy
scanpy.pp.neighbors = partial(scanpy.pp.neighbors, method="gauss")
"""
RUN = "import runpy, sys\nsys.argv = {argv}\nsys.path.insert(0, {root!r})\nrunpy.run_path(sys.argv[0], run_name='__main__')"
SMALL = [
    "model=small", "model.n_hidden=16", "model.n_latent=4", "model.max_epochs=2", "trainer=cpu", "model.correct_at=[]",
    "callbacks=[checkpoint,latent_export,scores]",
]  # fmt: skip
FILES = ["dataset=h5ad", "dataset.path=cells.h5ad", "dataset.batch_key=batch", "preprocess.min_features=0"]
BACKED = [*FILES, "dataset.backed=true", "callbacks.latent_export.expression=true"]
QUERY = ["reference=reference", "dataset=h5ad", "dataset.path=query.h5ad", "dataset.batch_key=batch", "trainer=cpu"]


class Part(NamedTuple):
    """A command, and whether it can be resumed in addition to being typed again."""

    script: str
    arguments: list[str]
    can_be_resumed: bool = True


PARTS = {
    "train": Part("train.py", [*SMALL, *FILES, "model.correct_at=[0.5]", "callbacks.checkpoint.every_seconds=0"]),
    "backed": Part("train.py", [*SMALL, *BACKED]),
    "cached": Part("train.py", [*SMALL, *BACKED, "dataset.cache=cache"]),
    "project": Part("project.py", [*QUERY, "repeat=true"], can_be_resumed=False),
    "append": Part("project.py", [*QUERY, "append=true"], can_be_resumed=False),
    "grow": Part("train.py", [*SMALL, *QUERY, "growth.allowed_fall=2"]),
    "sweep": Part("train.py", ["-m", *SMALL, *FILES, "seed=1,2"], can_be_resumed=False),
}


def run(script: str, arguments: Sequence[str], *, cwd: Path, log: Path, stop: int = 0, returncode: int = 0) -> list[str]:
    """Run a command, which is killed before the change number `stop`, and return all changes that it began."""
    log.unlink(missing_ok=True)
    code = FAST + HOOK.format(log=str(log), stop=stop) + RUN.format(argv=[str(ROOT / script), *arguments], root=str(ROOT))
    Child(code, cwd=cwd).end(-signal.SIGKILL if stop else returncode)
    return log.read_text().splitlines()


def read_results(folder: Path) -> dict[str, bytes]:
    """Return a digest of each file: of values where files hold more than these, and of nothing where they may differ."""
    return {str(path.relative_to(folder)): _digest(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def _digest(path: Path) -> bytes:
    digest = hashlib.sha256()
    if path.suffix == ".h5ad":
        adata = ad.read_h5ad(path)
        parts = [adata.obsm[name] for name in sorted(adata.obsm)] + ([] if adata.X is None else [adata.X.toarray()])
        for values in parts:
            digest.update(np.ascontiguousarray(values).tobytes())
        digest.update(adata.obs.to_csv().encode())
    elif path.name == "best.ckpt":
        for name, values in torch.load(path, weights_only=True)["state_dict"].items():
            digest.update(name.encode() + values.numpy().tobytes())
    elif path.suffix in (".csv", ".json"):
        digest.update(path.read_bytes())
    return digest.digest()


def prepare(folder: Path) -> None:
    """Write the cells, a query and a reference that the commands read."""
    cells = demo_cells(240, 400, 3)
    is_query = (cells.obs["batch"] == "domain2").to_numpy()
    cells[~is_query].copy().write_h5ad(folder / "cells.h5ad")
    cells[is_query].copy().write_h5ad(folder / "query.h5ad")
    run("train.py", [*SMALL, *FILES, "output=reference"], cwd=folder, log=folder.parent / "changes.txt")


def check_part(name: str, inputs: Path, scratch: Path, every: int) -> Iterator[tuple[str, str]]:
    """Yield what was tried, and "held" or why it did not hold."""
    part, log = PARTS[name], scratch / "changes.txt"
    command = [*part.arguments, "output=run"]

    def copy(source: Path, to: str) -> Path:
        shutil.rmtree(scratch / to, ignore_errors=True)
        return Path(shutil.copytree(source, scratch / to, copy_function=shutil.copy2))

    # The path of the cells is part of the name of their cache, so that all runs have the same working directory.
    work = copy(inputs, "work")
    changes = run(part.script, command, cwd=work, log=log)
    expected = read_results(work)
    for stop in range(1, len(changes) + 1, every):
        work = copy(inputs, "work")
        run(part.script, command, cwd=work, log=log, stop=stop)
        # A finished run is refused, unless it belongs to a sweep.
        returncode = int((work / "run" / "adata.h5ad").exists())
        # Every second run is resumed.
        is_resumed = part.can_be_resumed and stop % 2 and (work / "run" / ".composed.yaml").exists()
        tried = f"{name}, killed before {changes[stop - 1]!r} ({stop} of {len(changes)}), then {'resumed' if is_resumed else 'typed again'}"
        try:
            run(part.script, ["resume=run"] if is_resumed else command, cwd=work, log=log, returncode=returncode)
            found = read_results(work)
        except AssertionError as error:
            yield tried, f"the command failed: {str(error).strip().splitlines()[-1]}"
            continue
        differing = sorted(path for path in expected.keys() | found.keys() if expected.get(path) != found.get(path))
        yield tried, f"other files: {', '.join(differing)}" if differing else "held"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=PARTS, action="append", help="part to run; all without it")
    parser.add_argument("--every", type=int, default=1, help="kill at every n-th change only")
    options = parser.parse_args()
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        (scratch / "inputs").mkdir()
        prepare(scratch / "inputs")
        for name in options.part or PARTS:
            own: Counter[str] = Counter()
            for tried, outcome in check_part(name, scratch / "inputs", scratch, options.every):
                own["held" if outcome == "held" else "not held"] += 1
                if outcome != "held":
                    print(f"NOT HELD: {tried}: {outcome}", flush=True)
            print(f"{name}: tried {own.total()}, held {own['held']}, not held {own['not held']}", flush=True)
            counts += own
    print(f"All: tried {counts.total()}, held {counts['held']}, not held {counts['not held']}")
    sys.exit(counts["not held"] > 0)


if __name__ == "__main__":
    main()
