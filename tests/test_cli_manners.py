"""What holds for every verb: help, --json, --quiet, plain text, completion, and how it ends when interrupted."""

import inspect
import json
import os
import pty
import re
import select
import shlex
import subprocess
import sys
import types
import warnings

import click
import pytest
from click.shell_completion import ShellComplete
from synthetic import five_runs, write_manifest

import fmjax
from fmjax import cli
from fmjax.cli import output
from fmjax.cli.commands import app
from fmjax.cli.manners import VERBS
from fmjax.laws import LAWS

ESCAPE = "\x1b"
TARGET = ("--total-steps", "400", "--peak-lr", "1e-3")
SCHEDULE = ("--schedule", "kind = 'constant', total_steps = 9, peak_lr = 1.0")
NO_JSON = {"completion"}


class Found:
    """What any function of the library is made to find."""

    law, fit = fmjax.LRAnnealing(), None

    def to_dict(self):
        return {"found": 1}

    def to_json(self):
        return json.dumps(self.to_dict())


@pytest.fixture
def fmjax_(command_line, monkeypatch, tmp_path):
    """Runs a command line in a folder with ``runs``: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    write_manifest(tmp_path / "runs", five_runs())
    return command_line


@pytest.fixture
def stubs(monkeypatch):
    """The library's functions find ``Found``, and say something while at it."""

    def find(*_, **__):
        warnings.simplefilter("always")
        warnings.warn("look out", stacklevel=1)
        return Found()

    def printed(found):
        output.console().print("[bold]a table[/bold]")

    verbs = ("fit", "evaluate", "search", "select", "bootstrap", "recommend", "transfer", "optimize", "forecast")
    for name in (*verbs, "learn_prior"):
        monkeypatch.setattr(fmjax, name, find)
    monkeypatch.setattr("fmjax.benchmarking.benchmark", find)
    monkeypatch.setattr("jax.config.update", lambda *_: None)
    for module in ("fitting", "planning"):
        monkeypatch.setattr(f"fmjax.cli.{module}.read_fit", lambda path: Found())
    for name in ("print_fit", "print_evaluation", "print_search", "print_benchmark", "print_bootstrap", "print_prior"):
        monkeypatch.setattr(f"fmjax.cli.fitting.{name}", printed)
    monkeypatch.setattr("fmjax.cli.planning.print_evaluation", printed)


# ------------------------------------------------------------------------------------------------ help


@pytest.mark.parametrize("verb", app.commands)
def test_every_verb_has_the_common_options(fmjax_, verb):
    _, out, _ = fmjax_(verb, "--help")
    for option in ("-q, --quiet", "-h, --help") if verb in NO_JSON else ("--json", "-q, --quiet", "-h, --help"):
        assert out[out.index("\nOutput:\n") :].count(f"\n  {option} ") == out.count(f"\n  {option} ") == 1


def examples(verb):
    text = inspect.cleandoc(app.commands[verb].help)
    assert "\nExample:\n" in text
    return [line for line in text.splitlines() if line.startswith("  fmjax ") and " ... " not in line]


@pytest.mark.parametrize("verb", app.commands)
def test_examples_parse(verb, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = examples(verb)
    assert lines
    for line in lines:
        name, *arguments = shlex.split(line.split(">")[0])[1:]
        assert name == verb or verb == "completion"
        app.commands[verb].make_context(verb, arguments)


def test_an_example_with_an_unknown_option_would_be_found():
    with pytest.raises(click.NoSuchOption):
        app.commands["fit"].make_context("fit", ["runs.toml", "--jsn"])


@pytest.mark.parametrize("verb", app.commands)
def test_every_option_is_explained(verb):
    options = [param for param in app.commands[verb].params if isinstance(param, click.Option)]
    assert [param.name for param in options if not re.search(r"\w.*[.;]$", param.help or "")] == []


def test_help_lists_every_verb_once_below_its_purpose(fmjax_):
    _, out, _ = fmjax_("--help")
    assert {name for names in VERBS.values() for name in names} >= set(app.commands)
    for purpose, names in VERBS.items():
        section = out[out.index(f"\n{purpose}:\n") :].split("\n\n")[0]
        found = re.findall(r"^  (\w+) ", section, re.MULTILINE)
        assert found == [name for name in names if name in app.commands]
    assert "..." not in out[out.index("\nFit:\n") :]
    assert "Exit codes" in out


# ------------------------------------------------------------------------------------------------ --json

VERB = {
    "fit": ("runs",),
    "evaluate": ("runs",),
    "select": ("runs",),
    "bootstrap": ("runs",),
    "prior": ("runs",),
    "recommend": ("runs", *TARGET),
    "forecast": ("runs", "--run", "unseen"),
    "search": ("fit.json", *TARGET),
    "optimize": ("fit.json", *TARGET),
    "transfer": ("runs",),
    "import": ("logged.csv", "-o", "imported"),
    "export": (*SCHEDULE, "--to", "optax"),
    "demo": (),
    "bench": (),
}
"""Arguments of every verb but those with tests of their own."""


def test_every_verb_is_here():
    assert set(VERB) | {"report"} | NO_JSON == set(app.commands) | {"report"}


@pytest.mark.parametrize("verb", VERB)
def test_json_is_all_of_standard_output(fmjax_, stubs, tmp_path, verb):
    (tmp_path / "logged.csv").write_text("step,loss,lr\n" + "".join(f"{i},{4 - i / 99},1e-3\n" for i in range(99)))
    code, out, err = fmjax_("-q", verb, *VERB[verb], "--json")
    assert (code, err) == (0, "")
    assert isinstance(json.loads(out, parse_constant=pytest.fail), dict)


# ------------------------------------------------------------------------------------------------ --quiet


def test_without_quiet_there_are_warnings(fmjax_, stubs):
    assert fmjax_("fit", "runs", "-o", "f.json") == (0, "a table\n", "fmjax: warning: look out\n")


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("flag", ["-q", "--quiet"])
def test_quiet(fmjax_, stubs, tmp_path, before, flag):
    line = (flag, "fit", "runs") if before else ("fit", "runs", flag)
    assert fmjax_(*line) == (0, "a table\n", "")
    assert fmjax_(*line, "-o", "f.json") == (0, "", "")
    assert json.loads((tmp_path / "f.json").read_text()) == {"found": 1}
    assert json.loads(fmjax_(*line, "-o", "f.json", "--json")[1]) == {"found": 1}


def test_quiet_does_not_hide_errors(fmjax_):
    code, out, err = fmjax_("-q", "fit", "none")
    assert (code, out, err.count("\n")) == (2, "", 1)


def test_quiet_ends_with_its_command(fmjax_, stubs):
    fmjax_("-q", "fit", "runs")
    assert fmjax_("fit", "runs")[2] == "fmjax: warning: look out\n"


# ------------------------------------------------------------------------------------------------ terminals


@pytest.fixture
def on_terminal(monkeypatch):
    """Calls a function with a terminal as stdout and stderr, and returns what it wrote."""
    monkeypatch.setenv("TERM", "xterm-256color")
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)

    def written(write):
        reader, writer = pty.openpty()
        with os.fdopen(writer, "w") as stream, monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", stream)
            patch.setattr(sys, "stderr", stream)
            write()
            print("END", flush=True)
            text = ""
            while "END" not in text:
                assert select.select([reader], [], [], 5)[0], text
                text += os.read(reader, 4096).decode()
        os.close(reader)
        return text.split("END")[0]

    return written


def show():
    output.console().print("[bold]a table[/bold]")
    with output.progress("working") as report:
        report(1, 2)


def test_a_terminal_gets_styles_and_progress(on_terminal):
    found = on_terminal(show)
    assert f"{ESCAPE}[1ma table" in found
    assert "working" in found


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb"), ("TERM", "unknown")])
def test_a_terminal_that_wants_plain_text_gets_it(on_terminal, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    assert on_terminal(show) == "a table\r\n"


def test_no_progress_on_a_quiet_terminal(on_terminal):
    with click.Context(app).scope() as ctx:
        ctx.meta["fmjax.quiet"] = True
        found = on_terminal(show)
    assert "a table" in found
    assert "working" not in found


def test_no_escape_codes_outside_a_terminal(fmjax_, stubs, monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    assert fmjax_("fit", "runs")[1] == "a table\n"


@pytest.mark.parametrize(("columns", "width"), [(None, 140), ("60", 140), ("200", 200)])
def test_width_outside_a_terminal(capsys, monkeypatch, columns, width):
    monkeypatch.delenv("COLUMNS", raising=False)
    if columns:
        monkeypatch.setenv("COLUMNS", columns)
    assert output.console().width == width


# ------------------------------------------------------------------------------------------------ completion


def completed(*words):
    *before, incomplete = words
    return {
        item.value for item in ShellComplete(app, {}, "fmjax", "_FMJAX_COMPLETE").get_completions(before, incomplete)
    }


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("",), set(app.commands)),
        (("fo",), {"forecast"}),
        (("fit", "runs", "--res"), {"--residual"}),
        (("fit", "runs", "--law", ""), set(LAWS)),
        (("evaluate", "runs", "--law", "a"), {"all"}),
        (("recommend", "runs", "--decay", "linear,co"), {"linear,cosine"}),
        (("export", "plan.json", "--to", "m"), {"maxtext", "megatron", "megatron-bridge"}),
        (("bootstrap", "runs", "--method", "r"), {"runs"}),
        (("completion", "z"), {"zsh"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_completes(words, expected):
    assert completed(*words) == expected


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(fmjax_, shell):
    code, out, _ = fmjax_("completion", shell)
    assert code == 0
    assert f"_FMJAX_COMPLETE={shell}_complete" in out


def test_the_shell_is_answered(fmjax_, monkeypatch, capsys):
    monkeypatch.setenv("_FMJAX_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", "fmjax expo")
    monkeypatch.setenv("COMP_CWORD", "1")
    with pytest.raises(SystemExit) as ended:
        fmjax_()
    assert (ended.value.code, capsys.readouterr().out) == (0, "plain,export\n")


# ------------------------------------------------------------------------------------------------ endings


def interrupted(*_, **__):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("more", "said"),
    [((), "nothing was kept"), (("--folder", "kept"), "the same command goes on from kept")],
    ids=["search", "folder"],
)
def test_an_interrupted_search(fmjax_, stubs, monkeypatch, more, said):
    monkeypatch.setattr(fmjax, "search", interrupted)
    assert fmjax_("search", "fit.json", *TARGET, *more) == (130, "", f"fmjax: interrupted; {said}\n")


def test_interrupted(fmjax_, stubs, monkeypatch, tmp_path):
    monkeypatch.setattr(fmjax, "fit", interrupted)
    code, out, err = fmjax_("fit", "runs", "-o", "f.json")
    assert (code, out, err.strip()) == (130, "", "fmjax: interrupted; nothing was written")
    assert not (tmp_path / "f.json").exists()


def test_interrupted_while_importing(monkeypatch):
    module = types.ModuleType("fmjax.cli.commands")
    module.__getattr__ = interrupted
    monkeypatch.setitem(sys.modules, "fmjax.cli.commands", module)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 130


CLOSED = """
import sys
from fmjax.cli import main
sys.argv = ["fmjax", *{arguments!r}]
{before}
main()
"""


@pytest.mark.parametrize(
    ("before", "arguments"),
    [
        ("", ["export", *SCHEDULE, "--to", "optax"]),
        ("from fmjax.cli import output; output.console().print('a table')", ["--help"]),
    ],
    ids=["text", "table"],
)
def test_a_reader_that_has_gone(before, arguments):
    """As in ``fmjax ... | head -1``."""
    reader, writer = os.pipe()
    os.close(reader)
    code = CLOSED.format(arguments=arguments, before=before)
    done = subprocess.run([sys.executable, "-c", code], stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")


# ------------------------------------------------------------------------------------------------ --plot


@pytest.mark.parametrize(
    ("verb", "function"),
    [
        ("fit", "save_fit"),
        ("evaluate", "save_evaluations"),
        ("search", "save_search"),
        ("bootstrap", "save_bootstrap"),
        ("recommend", "save_recommendation"),
        ("forecast", "save_forecast"),
        ("optimize", "save_designs"),
        ("transfer", "save_transfer"),
        ("demo", "save_recommendation"),
    ],
)
def test_plots(fmjax_, stubs, monkeypatch, tmp_path, verb, function):
    drawn = []
    monkeypatch.setattr(f"fmjax.plotting.{function}", lambda *given: drawn.append(given) or given[-1].write_text("x"))
    assert fmjax_("-q", verb, *VERB[verb], "--plot", "p.png", "--json")[0] == 0
    assert (tmp_path / "p.png").read_text() == "x"
    assert len(drawn) == 1
