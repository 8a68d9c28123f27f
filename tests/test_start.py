"""Start-up: fmjax imports JAX when it is used, not before; what stands in for it until then agrees with it."""

import ast
import inspect
import json
import os
import pickle
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import fmjax
from fmjax import _names
from fmjax.cli.commands import app
from fmjax.cli.fit_verbs import search
from fmjax.exporters import EXPORTERS
from fmjax.fitting.sampling import DRAWS
from fmjax.importers import SOURCES
from fmjax.laws import LAWS
from fmjax.schedules.anneals import DECAYS
from fmjax.searching.sweeps import SEARCHED_RATIOS

HOUSE = Path(fmjax.__file__).parent

HEAVY = ("jax", "numpy", "optax", "rich", "matplotlib")

ANSWERED = """
import contextlib, json, sys
from fmjax.cli.commands import run
with contextlib.suppress(SystemExit):
    for arguments in {lines!r}:
        run(arguments)
print(json.dumps([name for name in {heavy!r} if name in sys.modules]), file=sys.stderr)
"""


def python(code, **environment):
    """Runs code in a process of its own, with this fmjax."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)


def imported_for(*lines, **environment):
    """Which of ``HEAVY`` a process has imported after these command lines, and what they printed."""
    done = python(ANSWERED.format(lines=[list(line) for line in lines], heavy=HEAVY), **environment)
    return json.loads(done.stderr), done.stdout


def test_help_imports_no_jax():
    found, out = imported_for(["--version"], ["--help"], *([verb, "--help"] for verb in app.commands))
    assert found == []
    assert out.count("Usage:") == 1 + len(app.commands)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("fmjax expo", "export"),
        ("fmjax fit runs --law lr-", "lr-annealing"),
        ("fmjax export plan.json --to max", "maxtext"),
        ("fmjax import logs --from wan", "wandb"),
    ],
)
def test_completion_imports_no_jax(words, expected):
    typed = {"_FMJAX_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
    assert imported_for([], **typed) == ([], f"plain,{expected}\n")


def test_what_is_imported_would_be_seen():
    found, _ = imported_for(
        ["export", "--to", "optax", "--schedule", "kind = 'constant', total_steps = 9, peak_lr = 1.0"]
    )
    assert {"jax", "numpy"} <= set(found)


@pytest.mark.parametrize(
    ("names", "registry"),
    [
        (_names.LAW_NAMES, LAWS),
        (_names.DECAY_NAMES, DECAYS),
        (_names.TRAINERS, EXPORTERS),
        (_names.TOOLS, SOURCES),
        (_names.METHODS, DRAWS),
    ],
    ids=["laws", "decays", "trainers", "tools", "bootstrap"],
)
def test_names_are_those_of_what_they_name(names, registry):
    assert names == tuple(registry)


def test_the_ratios_searched_by_default_are_those_of_the_library():
    (option,) = (param for param in search.params if param.name == "anneal_ratio")
    assert option.type.convert(option.default, option, None) == SEARCHED_RATIOS


@pytest.mark.parametrize("verb", sorted(set(app.commands) - {"completion"}))
def test_work_takes_what_its_verb_declares(verb):
    command = app.commands[verb]
    closure = inspect.getclosurevars(command.callback).nonlocals
    work = getattr(import_module(f"fmjax.cli.{closure['module']}"), closure["declared"].__name__)
    named = inspect.signature(work).parameters
    given = {param.name for param in command.params if param.expose_value}
    delivered = {"as_json", "plot", "target"} - set(named)
    inspect.signature(work).bind(**dict.fromkeys(given - delivered))


# ------------------------------------------------------------------------------------------------ the package


def test_importing_the_package_imports_no_jax():
    python("import sys, fmjax; fmjax.__all__, dir(fmjax); assert 'jax' not in sys.modules")
    python("import sys, fmjax; fmjax.fit; assert 'jax' in sys.modules")


def declared_names():
    """{name: module} of the imports that type checkers see."""
    tree = ast.parse((HOUSE / "__init__.py").read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If) and isinstance(node.body[0], ast.ImportFrom))
    return {alias.asname: node.module.removeprefix("fmjax").lstrip(".") for node in block.body for alias in node.names}


def test_type_checkers_see_what_is_there():
    assert declared_names() == {**fmjax._PLACES, "datasets": "", "laws": ""}
    assert set(fmjax.__all__) == {*declared_names(), "__version__"}
    assert set(fmjax.__all__) <= set(dir(fmjax))


@pytest.mark.parametrize("name", fmjax._PLACES)
def test_a_public_name_is_defined_where_the_table_says(name):
    assert getattr(fmjax, name).__module__ == f"fmjax.{fmjax._PLACES[name]}"


def test_rooms_are_attributes():
    there = {path.stem for path in HOUSE.iterdir() if path.stem[0] != "_" and path.suffix in ("", ".py")}
    assert set(fmjax._ROOMS) == there
    python("import fmjax; [fmjax.datasets.demo_runs, fmjax.schedules.WSD, fmjax.plotting.save_fit, fmjax.report]")
    assert [getattr(fmjax, room).__name__ for room in fmjax._ROOMS] == [f"fmjax.{room}" for room in fmjax._ROOMS]


def test_an_unknown_name():
    with pytest.raises(AttributeError, match="module 'fmjax' has no attribute 'serach'"):
        _ = fmjax.serach
    with pytest.raises(ImportError, match="cannot import name 'serach'"):
        from fmjax import serach  # noqa: F401


def test_everything_at_once():
    names = {}
    exec("from fmjax import *", names)
    assert set(fmjax.__all__) <= set(names)


def test_pickling():
    schedule = fmjax.WSD(peak_lr=1e-3, total_steps=100, anneal_ratio=0.25)
    assert pickle.loads(pickle.dumps(schedule)) == schedule
    assert pickle.loads(pickle.dumps(fmjax.fit)) is fmjax.fit
