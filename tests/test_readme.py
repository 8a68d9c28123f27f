"""The signposts in the READMEs lead somewhere: links, paths, names in files, verbs of the command line."""

import re
from pathlib import Path

import pytest

import fmjax

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "fmjax/README.md", "benchmarks/README.md")]
HOUSE = Path(fmjax.__file__).parent

if not PAGES[0].is_file():
    pytest.skip("the READMEs are not installed", allow_module_level=True)


def text(page):
    return page.read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files(page):
    links = re.findall(r"\]\(([^)#\s]+)\)", text(page))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_paths_of_the_architecture_exist():
    paths = re.findall(r"`((?:[a-z_]+/)+[a-z_]*(?:\.py)?)`", text(HOUSE / "README.md"))
    assert len(paths) > 20
    assert [
        path
        for path in paths
        if not any((place / name).exists() for name in (path, f"{path}.py") for place in (HOUSE, ROOT))
    ] == []


def test_names_stand_in_the_files_that_are_named_for_them():
    signposts = re.findall(r"`([A-Za-z_.]+)` (?:in|of) `([a-z_/]+\.py)`", text(HOUSE / "README.md"))
    assert len(signposts) > 4
    for name, path in signposts:
        for part in name.split("."):
            assert re.search(rf"(?:def |class )?\b{part}\b", text(HOUSE / path)), f"{name} in {path}"


def test_the_root_is_described():
    rooms = {path.stem for path in HOUSE.iterdir() if path.is_dir() or path.suffix == ".py"}
    rooms -= {"__init__", "__main__", "__pycache__", "_version"}
    named = set(re.findall(r"`([a-z_]+)/?`", text(HOUSE / "README.md").split("## Ten questions")[0]))
    assert rooms - named == set()


def test_every_python_module_of_benchmarks_that_is_named_exists():
    named = re.findall(r"python -m (benchmarks\.\w+)|python (benchmarks/\w+\.py)", text(ROOT / "benchmarks/README.md"))
    files = {dotted.replace(".", "/") + ".py" if dotted else path for dotted, path in named}
    assert files
    assert [file for file in sorted(files) if not (ROOT / file).is_file()] == []


def test_the_front_door_is_short():
    assert len(text(ROOT / "README.md").encode()) < 9_500
