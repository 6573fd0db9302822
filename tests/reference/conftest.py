"""A reference that is packed for others, and the run that it was made of."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from scalex.projection.reference import Reference


@pytest.fixture(scope="session")
def scored(trained: Any, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """Return the run with scores, which the command line computes."""
    folder = Path(shutil.copytree(trained.folder, tmp_path_factory.mktemp("scored") / "run"))
    (folder / "metrics.json").write_text(json.dumps({"total": 0.7, "kept": 0.6543, "mixed": 0.5, "wrong": 0.0321}))
    return Reference.load(folder)


@pytest.fixture(scope="session")
def packed(scored: Reference, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    path = tmp_path_factory.mktemp("packed") / "atlas.zip"
    scored.pack(path, title="Demo cells", contact="lab@example.org")
    return Reference.load(path)
