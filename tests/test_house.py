"""The plan of the house: imports go to a strictly lower floor, never hidden in a function; files stay short."""

import ast
from pathlib import Path

import pytest

import fmjax

HOUSE = Path(fmjax.__file__).parent
FLOORS = (
    ("_checks", "_version", "anneals", "updates"),
    ("schedules", "effects", "hosts", "metrics", "newton", "gaussian"),
    ("curves", "laws", "recognition", "grid", "tracking"),
    ("runs", "objective", "rollout", "descent", "folder", "smoothing", "exporters"),
    ("lanes", "datasets", "kernels", "importers", "run_folder", "trades"),
    ("records",),
    ("fitting",),
    ("resampling", "comparison", "batch_size"),
    ("sweep", "progress", "selection", "benchmarking", "optima", "power_laws"),
    ("correction", "forecasts"),
    ("predictor",),
    ("recommendation", "transfers", "design"),
    ("plotting",),
    ("report",),
    ("cli",),
    ("__main__",),
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
FILES = sorted(HOUSE.rglob("*.py"))
ROOMS = sorted({path.relative_to(HOUSE).parts[0].removesuffix(".py") for path in FILES} - {"__init__"})
MAX_LINES = 400


def name_of(path):
    return path.relative_to(HOUSE).as_posix()


def room_of(path):
    return path.relative_to(HOUSE).parts[0].removesuffix(".py")


def imported_rooms(node):
    """Rooms of fmjax that an import statement names; "" is the package itself."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, f"relative import in line {node.lineno}"
        names = [f"{node.module}.{alias.name}" for alias in node.names]
    else:
        return []
    parts = [[*name.split("."), ""] for name in names]
    return [rest[0] for first, *rest in parts if first == "fmjax"]


def test_every_room_has_a_floor():
    assert set(ROOMS) == set(FLOOR)


@pytest.mark.parametrize("path", [p for p in FILES if room_of(p) != "__init__"], ids=name_of)
def test_imports_go_down(path):
    tree, room = ast.parse(path.read_text()), room_of(path)
    for node in ast.walk(tree):
        for imported in imported_rooms(node):
            place = f"{name_of(path)}:{node.lineno} imports fmjax.{imported}"
            if imported == room:
                continue
            assert node in tree.body, f"{place} below module level"
            if imported == "":
                assert room == "cli", place
            else:
                assert FLOOR[imported] < FLOOR[room], place


def test_hidden_and_upward_imports_would_be_found():
    assert imported_rooms(ast.parse("from fmjax.laws.base import Row").body[0]) == ["laws"]
    assert imported_rooms(ast.parse("from fmjax import lanes, metrics").body[0]) == ["lanes", "metrics"]
    assert imported_rooms(ast.parse("import fmjax.sweep, fmjax, jax").body[0]) == ["sweep", ""]


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_are_short(path):
    assert len(path.read_text().splitlines()) < MAX_LINES


def test_no_module_shares_a_name_with_an_exported_function():
    exported = {name for name in fmjax.__all__ if not hasattr(getattr(fmjax, name), "__path__")}
    assert not exported & set(ROOMS)


def test_everything_exported_is_there():
    assert [name for name in fmjax.__all__ if not hasattr(fmjax, name)] == []
    assert len(set(fmjax.__all__)) == len(fmjax.__all__)
