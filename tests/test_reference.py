"""The reference: every public name says what it is, every verb shows an example, and the pages can be made."""

import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import fmjax

SCRIPT = Path(__file__).parents[1] / ".ci" / "reference.py"
ROOMS = ("schedules", "effects", "curves", "laws", "datasets", "plotting", "importers", "exporters")
MODULES = {room: importlib.import_module(f"fmjax.{room}") for room in ROOMS}


def public(module):
    """Names and values of a module's public functions and classes."""
    own = (name for name, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__)
    names = getattr(module, "__all__", None) or [name for name in own if not name.startswith("_")]
    found = ((name, getattr(module, name)) for name in names)
    return [(name, value) for name, value in found if inspect.isfunction(value) or inspect.isclass(value)]


NAMES = {f"{module.__name__}.{name}": value for module in (fmjax, *MODULES.values()) for name, value in public(module)}
VERBS = [name for name, value in public(fmjax) if inspect.isfunction(value)]


@pytest.mark.parametrize("name", NAMES)
def test_first_line_is_a_sentence(name):
    first, *_ = (inspect.getdoc(NAMES[name]) or "").splitlines() or [""]
    assert first.endswith(".")


@pytest.mark.parametrize("name", VERBS)
def test_verb_shows_an_example(name):
    assert ">>>" in inspect.getdoc(getattr(fmjax, name))


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The folder of the reference."""
    if not SCRIPT.is_file():
        pytest.skip("the script that makes the reference is not installed")
    for package in ("pdoc", "latex2mathml"):
        pytest.importorskip(package)
    folder = tmp_path_factory.mktemp("reference")
    command = [sys.executable, "-W", "error::UserWarning", str(SCRIPT), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return folder


def test_a_page_for_every_room(pages):
    assert (pages / "fmjax.html").is_file()
    assert sorted(page.stem for page in (pages / "fmjax").iterdir()) == sorted(ROOMS)


def test_public_names_are_on_the_pages(pages):
    for name in NAMES:
        module, _, own = name.rpartition(".")
        page = pages / f"{module.replace('.', '/')}.html"
        assert f'id="{own}"' in page.read_text(encoding="utf-8"), name


def test_pages_need_no_network(pages):
    for page in pages.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert 'src="http' not in text
        assert '<link rel="stylesheet" href="http' not in text


def test_formulas_are_drawn(pages):
    text = (pages / "fmjax.html").read_text(encoding="utf-8")
    assert "<math" in text
    assert "$\\" not in text


def test_every_verb_of_the_command_line_has_its_help(pages):
    from fmjax.cli.commands import app

    text = (pages / "command_line.html").read_text(encoding="utf-8")
    for verb in app.commands:
        assert f'id="fmjax-{verb}"' in text
