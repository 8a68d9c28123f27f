"""The plan of the house: imports between folders and between files only go down, none is hidden, files stay short."""

import ast
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path

import pytest

import fmjax

HOUSE = Path(fmjax.__file__).parent
FILES = sorted(HOUSE.rglob("*.py"))
MAX_LINES = 400
FOLDERS = (
    *("_version", "_names", "_types", "_checks", "_files", "_json", "_devices", "_workers", "_dask"),
    *("schedules", "effects", "laws", "curves", "fitting", "searching", "exporters", "planning", "scaling"),
    *("importers", "datasets", "benchmarking", "plotting", "report", "cli"),
)
"""What stands at the root, from the lowest to the highest: a folder imports only from those before it."""
DOORS = ("__init__", "__main__")
"""Files that hand out what others hold; nothing inside the house goes through them."""


def name_of(path):
    return path.relative_to(HOUSE).as_posix()


def module_of(path):
    """Dotted name below fmjax: ``laws.base``; that of a package's ``__init__`` is the package's."""
    return ".".join(path.relative_to(HOUSE).with_suffix("").parts).removesuffix("__init__").rstrip(".")


MODULES = {module_of(path): path for path in FILES}


def imported(node):
    """Modules of fmjax that an import statement names, dotted below fmjax; "" is the package itself."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, f"relative import in line {node.lineno}"
        names = [f"{node.module}.{alias.name}" for alias in node.names]
    else:
        return []
    return [_longest_module(name.removeprefix("fmjax").lstrip(".")) for name in names if name.split(".")[0] == "fmjax"]


def _longest_module(name):
    while name and name not in MODULES:
        name = name.rpartition(".")[0]
    return name


def arrows(path):
    """(statement, module imported) of a file."""
    return [(node, module) for node in ast.walk(ast.parse(path.read_text())) for module in imported(node)]


def graph(level):
    """Imports between the names that ``level`` gives modules: {importer: {imported: "file:line"}}."""
    found = {}
    for path in FILES:
        if path.stem in DOORS:
            continue
        here = level(module_of(path))
        for node, module in arrows(path):
            there = level(module)
            if here and there and here != there:
                found.setdefault(here, {}).setdefault(there, f"{name_of(path)}:{node.lineno} imports fmjax.{module}")
    return found


def in_order(arrows):
    """The names from the lowest to the highest; a circle fails with the imports that make it."""
    try:
        return tuple(TopologicalSorter({here: set(there) for here, there in arrows.items()}).static_order())
    except CycleError as error:
        circle = error.args[1]
        imports = [arrows.get(b, {}).get(a) or arrows.get(a, {}).get(b) for a, b in pairwise(circle)]
        pytest.fail("a circle of imports: " + "; ".join(map(str, imports)))


def folder(module):
    """The room at the root of the house that a module lies in."""
    return module.split(".")[0]


def test_folders_import_from_lower_ones_only():
    arrows = graph(folder)
    in_order(arrows)
    upward = [place for here, found in arrows.items() for there, place in found.items() if above(there, here)]
    assert not upward, upward


def above(there, here):
    return FOLDERS.index(there) > FOLDERS.index(here)


def test_the_plan_lists_what_stands_at_the_root():
    assert {folder(module) for module in MODULES} - {"", "__main__"} == set(FOLDERS)


def test_files_import_in_one_direction():
    in_order(graph(lambda module: module if module not in ("", "cli") else ""))


@pytest.mark.parametrize("path", [path for path in FILES if path.stem not in DOORS], ids=name_of)
def test_no_import_is_hidden_or_goes_through_a_door_of_its_own(path):
    for node, module in arrows(path):
        place = f"{name_of(path)}:{node.lineno} imports fmjax.{module}"
        if module == "":
            assert folder(module_of(path)) == "cli", place
            continue
        assert node.col_offset == 0, f"{place} below module level"
        assert not module_of(path).startswith(f"{module}."), f"{place}, the door of its own folder"


def test_upward_imports_and_circles_would_be_found():
    assert imported(ast.parse("from fmjax.laws.base import Row").body[0]) == ["laws.base"]
    assert imported(ast.parse("import fmjax.laws.base, fmjax, jax").body[0]) == ["laws.base", ""]
    with pytest.raises(pytest.fail.Exception, match=r"low\.py:3 imports fmjax\.high"):
        in_order({"high": {"low": "high.py:1 imports fmjax.low"}, "low": {"high": "low.py:3 imports fmjax.high"}})


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_are_short(path):
    assert len(path.read_text().splitlines()) < MAX_LINES


def test_no_module_shares_a_name_with_an_exported_function():
    exported = {name for name in fmjax.__all__ if not hasattr(getattr(fmjax, name), "__path__")}
    assert not exported & {folder(module) for module in MODULES}


def test_everything_exported_is_there():
    assert [name for name in fmjax.__all__ if not hasattr(fmjax, name)] == []
    assert len(set(fmjax.__all__)) == len(fmjax.__all__)


SHARED_NAMES = {
    "text": "the interface of an exporter",
    "SOURCE": "the interface of an importer",
    "load": "the interface of an importer of public data",
    **dict.fromkeys(
        ("bootstrap", "evaluate", "fit", "forecast", "optimize", "recommend", "search", "transfer"),
        "a verb of the command line bears the name of the function that it calls",
    ),
    **dict.fromkeys(
        ("bench", "demo", "prior", "export_", "import_", "report_", "select_"),
        "a verb of the command line is declared in one file, and its work done by the function of its name in another",
    ),
}
"""Names that stand in several files, and why they may."""


def defined(tree):
    """Names that a module defines at its top: public ones, and every class."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names = [node.name]
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)]
        else:
            continue
        yield from (name for name in names if isinstance(node, ast.ClassDef) or not name.startswith("_"))


def test_no_two_things_share_a_name():
    places = {}
    for path in FILES:
        for name in set(defined(ast.parse(path.read_text()))):
            places.setdefault(name, []).append(name_of(path))
    shared = {name: files for name, files in places.items() if len(files) > 1}
    assert {name: files for name, files in shared.items() if name not in SHARED_NAMES} == {}
    assert set(SHARED_NAMES) - set(shared) == set(), "an exception that nothing needs"


def test_names_are_found_wherever_they_are_defined():
    tree = ast.parse("class _A: pass\nB, (C, _D) = 1, (2, 3)\nE: int = 1\ndef f(): pass\ndef _g(): pass")
    assert list(defined(tree)) == ["_A", "B", "C", "E", "f"]
