"""The order of the rooms of `scalex`: an import points down, never up, and never sideways to another room of the same floor."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "scalex"
# From the top down. A room is a folder, or a file of the root.
FLOORS = (
    {"commands"},
    {"api"},
    {"training"},
    {"projection", "callbacks"},
    {"reference"},
    {"model", "data"},
    {"preprocess", "demo"},
    {"cells"},
    {"h5ad", "runs"},
    {"system", "features", "formats", "metrics", "nn"},
)
HEIGHT = {room: -floor for floor, rooms in enumerate(FLOORS) for room in rooms}
# Hydra ends at the command line, which is the one room that knows it.
COMMAND_LINE = "commands"
FORBIDDEN = {"hydra", "omegaconf"}


def imported(path: Path) -> Iterator[str]:
    """Modules that a file imports, at any depth of its code, for types alone or not."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports by a relative name"
            assert node.module is not None
            yield node.module
            # `from scalex.nn import dsbn` names a module, too.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def files() -> Iterator[tuple[str, Path]]:
    """The files of each room."""
    for path in sorted(PACKAGE.rglob("*.py")):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if room != "__init__":
            yield room, path


def test_every_room_has_a_floor() -> None:
    assert {room for room, _ in files()} == set(HEIGHT)


def test_imports_point_down() -> None:
    up = set()
    for room, path in files():
        for module in imported(path):
            other = module.split(".")[1] if module.startswith("scalex.") else None
            if other in HEIGHT and other != room and HEIGHT[other] >= HEIGHT[room]:
                up.add(f"{path.relative_to(PACKAGE)} imports scalex.{other}")
    assert up == set()


def test_files_of_a_room_do_not_import_each_other_in_a_circle() -> None:
    names = {".".join(("scalex", *path.relative_to(PACKAGE).with_suffix("").parts)): path for _, path in files()}
    below = {name: {module for module in imported(path) if module in names and module != name} for name, path in names.items()}
    while below:
        free = {name for name, others in below.items() if not others & set(below)}
        assert free, f"they import each other: {sorted(below)}"
        below = {name: others for name, others in below.items() if name not in free}


def test_nothing_below_the_command_line_knows_the_config_framework() -> None:
    found = {
        f"{path.relative_to(PACKAGE)} imports {module}"
        for room, path in files()
        for module in imported(path)
        if room != COMMAND_LINE and module.split(".")[0] in FORBIDDEN
    }
    assert found == set()
