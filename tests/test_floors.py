"""Tests of the order of the rooms of `scalex`: imports point down to a lower floor, never up and never to the same floor."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "scalex"
# The floors, from the top down. A room is a folder, or a file of the root.
FLOORS = (
    {"__main__"},
    {"commands"},
    {"api"},
    {"training"},
    {"projection", "callbacks"},
    {"reference"},
    {"model", "data", "report"},
    {"preprocess", "demo", "genes"},
    {"cells"},
    {"h5ad", "runs"},
    {"formats", "pl", "pages"},
    {"system", "features", "metrics", "nn"},
)
HEIGHT = {room: -floor for floor, rooms in enumerate(FLOORS) for room in rooms}
# Only the command line imports Hydra.
COMMAND_LINE = "commands"
CONFIG_FRAMEWORK = {"hydra", "omegaconf"}


def list_imports(path: Path) -> Iterator[str]:
    """Yield the modules that a file imports, anywhere in its code and also for types."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports by a relative name"
            assert node.module is not None
            yield node.module
            # `from scalex.nn import dsbn` also imports a module.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def list_files() -> Iterator[tuple[str, Path]]:
    """Yield each file with its room."""
    for path in sorted(PACKAGE.rglob("*.py")):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if room != "__init__":
            yield room, path


def test_every_room_has_a_floor() -> None:
    assert {room for room, _ in list_files()} == set(HEIGHT)


def test_imports_point_to_lower_floors() -> None:
    wrong = set()
    for room, path in list_files():
        for module in list_imports(path):
            other = module.split(".")[1] if module.startswith("scalex.") else None
            if other in HEIGHT and other != room and HEIGHT[other] >= HEIGHT[room]:
                wrong.add(f"{path.relative_to(PACKAGE)} imports scalex.{other}")
    assert wrong == set()


def test_files_do_not_import_each_other_in_a_circle() -> None:
    names = {".".join(("scalex", *path.relative_to(PACKAGE).with_suffix("").parts)): path for _, path in list_files()}
    imports = {name: {module for module in list_imports(path) if module in names and module != name} for name, path in names.items()}
    while imports:
        free = {name for name, others in imports.items() if not others & set(imports)}
        assert free, f"they import each other: {sorted(imports)}"
        imports = {name: others for name, others in imports.items() if name not in free}


def test_only_the_command_line_imports_the_config_framework() -> None:
    found = {
        f"{path.relative_to(PACKAGE)} imports {module}"
        for room, path in list_files()
        for module in list_imports(path)
        if room != COMMAND_LINE and module.split(".")[0] in CONFIG_FRAMEWORK
    }
    assert found == set()
