"""The command line: what each verb prints and writes, and the one line that bad input is answered with."""

import json
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from synthetic import DECAY, TRUTH, cells, constant_runs, final_losses, five_runs, two_rates, write_manifest

import fmjax
from fmjax.cli.commands import app, run
from fmjax.cli.parameters import GEOMETRIC, NUMBERS
from fmjax.fitting.records import FitResult

LAW = ("--law", "lr-annealing", "--law-option", f"decay={DECAY}")
TARGET = ("--total-steps", "400", "--peak-lr", "1e-3")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Manifests ``runs``, ``rates`` and ``constants``, and a fit of ``runs``."""
    folder = tmp_path_factory.mktemp("cli")
    for name, curves in {"runs": five_runs(), "rates": two_rates(), "constants": constant_runs()}.items():
        (folder / name).mkdir()
        write_manifest(folder / name, curves)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_COMPILATION_CACHE_DIR", "unchanged")
        assert run(["fit", str(folder / "runs"), *LAW, "--train", "split:train", "-o", str(folder / "fit.json")]) == 0
    return folder


@pytest.fixture
def fmjax_(folder, command_line, monkeypatch):
    """Runs a command line in ``folder``: (exit code, stdout, stderr)."""
    monkeypatch.chdir(folder)
    return command_line


@pytest.fixture
def answer(fmjax_):
    """The JSON that a command line ends with, checked to be all of stdout."""

    def call(*arguments):
        code, out, err = fmjax_(*arguments, "--json")
        assert (code, err) == (0, "")
        return json.loads(out, parse_constant=pytest.fail)

    return call


def files(folder):
    return sorted(path.relative_to(folder) for path in folder.rglob("*"))


# ------------------------------------------------------------------------------------------------ verbs


def test_fit(fmjax_):
    code, out, err = fmjax_("fit", "runs", *LAW, "--train", "split:train")
    assert (code, err) == (0, "")
    assert out.startswith("lr-annealing: converged; 120 rows, objective ")
    assert "C = 4" in out
    assert all(name in out for name in ("constant", "cosine", "wsd-0.2", "wsd-0.5"))
    assert "unseen" not in out


def test_fit_as_json(answer):
    record = answer("fit", "runs/runs.toml", *LAW, "--train", "split:train")
    assert (record["law"], record["status"], record["options"]["decay"]) == ("lr-annealing", "converged", DECAY)
    assert record["params"] == pytest.approx(TRUTH["lr-annealing"], rel=1e-3)


def test_the_file_is_the_json(folder, answer, tmp_path):
    printed = answer("fit", "runs", *LAW, "--train", "split:train", "-o", tmp_path / "again.json")
    assert json.loads((tmp_path / "again.json").read_text()) == printed
    assert files(tmp_path) == [(tmp_path / "again.json").relative_to(tmp_path)]
    assert FitResult.from_json((tmp_path / "again.json").read_text()).ok


def test_the_file_is_replaced(answer, tmp_path):
    (tmp_path / "fit.json").write_text("old")
    answer("fit", "runs", *LAW, "--train", "split:train", "-o", tmp_path / "fit.json")
    assert (tmp_path / "fit.json").read_text().startswith("{")


def test_the_file_can_be_read_by_others(folder):
    (folder / "usual").write_text("")
    assert (folder / "fit.json").stat().st_mode == (folder / "usual").stat().st_mode


def test_evaluate(fmjax_):
    code, out, err = fmjax_("evaluate", "runs", *LAW, "--train", "split:train")
    assert (code, err) == (0, "")
    assert out.index("Fitted runs") < out.index("wsd-0.5") < out.index("Unseen runs") < out.index("unseen ")
    assert re.search(r"mean error: fitted 0\.000 %, unseen 0\.000 %", out)


def test_evaluate_as_json(answer):
    record = answer("evaluate", "runs", *LAW, "--train", "constant,cosine,wsd-*")
    assert {"law", "objective", "params", "status", "runs", "train_mape_percent"} <= set(record)
    assert [run["name"] for run in record["runs"]][-1] == "unseen"
    assert record["runs"][-1]["mape_percent"] == record["test_mape_percent"] < 1e-3


@pytest.fixture
def two_laws(monkeypatch):
    """Two laws as if they were all, to compile less."""
    laws = {name: fmjax.laws.LAWS[name] for name in ("forward-only", "lr-annealing")}
    monkeypatch.setattr("fmjax.cli.fitting.LAWS", laws)
    return laws


def test_evaluate_all_laws(fmjax_, folder, two_laws):
    code, out, err = fmjax_("evaluate", "runs", "--law", "all", "--train", "split:train", "--plot", "laws.png")
    assert (code, err) == (0, "")
    assert all(re.search(rf"^{law} +\d", out, re.MULTILINE) for law in two_laws)
    assert (folder / "laws.png").stat().st_size > 10_000


def test_evaluate_all_laws_as_json(answer, two_laws):
    laws = answer("evaluate", "runs", "--law", "all", "--train", "split:train")["laws"]
    assert {law["law"] for law in laws} == set(two_laws)
    assert laws[0]["test_mape_percent"] < laws[1]["test_mape_percent"]


def test_evaluate_agrees_with_python(answer):
    curves = five_runs()
    found = fmjax.evaluate(fmjax.LRAnnealing(decay=DECAY), curves, train=curves[:4])
    record = answer("evaluate", "runs", *LAW, "--train", "split:train")
    assert record["params"] == pytest.approx(found.fit.params, rel=1e-9)


def test_search(fmjax_):
    code, out, err = fmjax_("search", "fit.json", *TARGET, "--warmup-steps", 20)
    assert (code, err) == (0, "")
    assert "99 candidates" in out
    assert "400" in out


def test_search_as_json(answer):
    record = answer("search", "fit.json", *TARGET, "--warmup-steps", 20, "--anneal-ratio", "0.01:0.99:99")
    ratios = np.linspace(0.01, 0.99, 99)
    truth = final_losses(ratios, peak_lr=1e-3, total_steps=400)
    (cell,) = record["cells"]
    assert record["candidates"] == 99
    assert {"total_steps", "peak_lr", "best_ratio", "loss", "interval"} <= set(cell)
    assert cell["best_ratio"] == pytest.approx(ratios[truth.argmin()], abs=0.011)
    assert cell["loss"] == pytest.approx(truth.min(), rel=1e-5)


def test_search_over_ranges_and_lists(answer):
    grid = ("--total-steps", "300:400:3", "--peak-lr", "2.5e-4:1e-3:3", "--anneal-ratio", "0.2,0.5")
    cells = answer("search", "fit.json", *grid)["cells"]
    assert sorted({cell["total_steps"] for cell in cells}) == [300, 350, 400]
    assert sorted({cell["peak_lr"] for cell in cells}) == [2.5e-4, 5e-4, 1e-3]
    assert {cell["best_ratio"] for cell in cells} <= {0.2, 0.5}


def test_recommend(fmjax_, tmp_path):
    out_files = ("--plot", tmp_path / "plan.png", "-o", tmp_path / "plan.json")
    code, out, err = fmjax_(
        "recommend", "rates", *LAW, "--total-steps", 600, "--peak-lr", "1e-3,2e-3,1.5e-3", *out_files
    )
    assert (code, err) == (0, "")
    assert re.match(r"Anneal over the last \d+ % of 600 updates", out)
    assert "note: peak rate 0.0015: no run has this peak rate" in out.replace("\n", " ")
    assert "import optax" in out
    assert (tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG")
    assert len(json.loads((tmp_path / "plan.json").read_text())["choices"]) == 3


def test_recommend_as_json(answer):
    record = answer("recommend", "rates", *LAW, *TARGET)
    truth = final_losses(np.linspace(0.01, 0.99, 99), peak_lr=1e-3, total_steps=400)
    assert record["choices"][record["best"]]["best_ratio"] == pytest.approx((truth.argmin() + 1) / 100, abs=0.011)


@pytest.mark.slow
def test_transfer(fmjax_, tmp_path):
    write_manifest(
        (folder := tmp_path / "cells") and (folder.mkdir() or folder), cells(peak_lrs=(1e-3,), lengths=(300, 400))
    )
    files = ("--plot", tmp_path / "t.png", "-o", tmp_path / "t.json", "--against", folder)
    code, out, err = fmjax_("transfer", folder, *LAW, "--samples", 0, *files)
    assert (code, err) == (0, "")
    for title in ("Optimal annealing ratio of each cell", "Chosen from shorter runs", "Power laws"):
        assert title in out
    assert "log of there over here 0.000" in out
    assert (tmp_path / "t.png").read_bytes().startswith(b"\x89PNG")
    assert len(json.loads((tmp_path / "t.json").read_text())["cells"]) == 2


def test_optimize(fmjax_, answer, tmp_path):
    files = ("--plot", tmp_path / "o.png", "--csv", tmp_path / "o.csv")
    code, out, err = fmjax_("optimize", "fit.json", *TARGET, "--warmup-steps", 20, *files)
    assert (code, err) == (0, "")
    assert "def schedule(count)" in out
    rows = (tmp_path / "o.csv").read_text().splitlines()
    assert (rows[0], len(rows)) == ("step,lr", 401)
    assert (tmp_path / "o.png").read_bytes().startswith(b"\x89PNG")
    (design,) = answer("optimize", "fit.json", *TARGET, "--warmup-steps", 20)["designs"]
    assert design["loss"] <= design["wsd"]["loss"]


def test_forecast(fmjax_, answer, tmp_path):
    *others, run = five_runs()
    write_manifest(tmp_path, [*others, run.until(250)])
    code, out, err = fmjax_("forecast", tmp_path, "--run", run.name, "--prior", "fit.json")
    assert (code, err) == (0, "")
    assert out.startswith("unseen ends at ")
    assert "anneal now (R = 0.3" in out
    found = answer("forecast", tmp_path, "--run", run.name, "--prior", "fit.json", "-o", tmp_path / "f.json")
    assert found == json.loads((tmp_path / "f.json").read_text())
    assert found["planned"]["loss"] == pytest.approx(run.loss[-1], rel=1e-3)
    assert answer("forecast", tmp_path, "--run", run.name, "--law", "forward-momentum")["law"] == "forward-momentum"


def test_forecast_of_no_run_or_many(fmjax_):
    assert fmjax_("forecast", "runs", "--run", "wsd-*", "--prior", "fit.json") == (
        2,
        "",
        "fmjax: --run: expected one run, found 2 that match 'wsd-*'\n",
    )
    code, _, err = fmjax_("forecast", "runs", "--run", "nothing")
    assert (code, err.count("\n")) == (2, 1)


@pytest.mark.slow
def test_demo_uses_the_shipped_runs(fmjax_, monkeypatch, tmp_path):
    curves = tuple(replace(run, split="train" if "low" in run.name else "test") for run in two_rates())
    monkeypatch.setattr(fmjax.datasets, "demo_runs", lambda: curves)
    code, out, err = fmjax_("demo", "--plot", tmp_path / "demo.png")
    assert (code, err) == (0, "")
    assert out.index("1. Fit low-constant, low-cosine") < out.index("2. Plan a run of 800 updates from all 8 runs")
    assert (tmp_path / "demo.png").exists()


def test_a_fit_that_failed_is_written_and_says_so(answer, fmjax_, tmp_path):
    record = answer("fit", "constants", *LAW, "-o", tmp_path / "open.json")
    assert (record["status"], record["params"]["C"]) == ("undetermined", None)
    code, out, err = fmjax_("search", tmp_path / "open.json", *TARGET)
    assert (code, out) == (2, "")
    assert err == "fmjax: the fit cannot predict: the data do not determine every parameter: C\n"


# ------------------------------------------------------------------------------------------------ help


@pytest.mark.parametrize("verb", sorted(app.commands))
def test_help_has_an_example(fmjax_, verb):
    code, out, err = fmjax_(verb, "--help")
    assert (code, err) == (0, "")
    assert re.search(rf"Example:\n +fmjax {verb}\b", out)


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",)], ids=["none", "long", "short"])
def test_help_names_every_verb(fmjax_, arguments):
    code, out, _ = fmjax_(*arguments)
    assert code == 0
    assert all(f"\n  {verb} " in out for verb in app.commands)


def test_version(fmjax_):
    assert fmjax_("--version") == (0, f"fmjax, version {fmjax.__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "code", "err"),
    [
        (["fit", "none"], 2, r"fmjax: none/runs.toml: cannot be read: .*\n|fmjax: none: cannot be read: .*\n"),
        (["--version"], 0, ""),
    ],
    ids=["bad-input", "version"],
)
def test_as_a_process(tmp_path, arguments, code, err):
    main = [sys.executable, "-c", "from fmjax.cli import main; main()", *arguments]
    done = subprocess.run(main, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == code
    assert re.fullmatch(err, done.stderr)
    assert (done.stdout == "") == (code == 2)


# ------------------------------------------------------------------------------------------------ parameters


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        (GEOMETRIC, "1e-4:1e-2:3", (1e-4, 1e-3, 1e-2)),
        (GEOMETRIC, "1e-2:1e-4:3", (1e-2, 1e-3, 1e-4)),
        (NUMBERS, "0.1:0.9:5", (0.1, 0.3, 0.5, 0.7, 0.9)),
        (NUMBERS, "0:1:2", (0.0, 1.0)),
        (NUMBERS, "5:9:1", (5.0,)),
        (GEOMETRIC, "3e-4,1e-4", (3e-4, 1e-4)),
        (NUMBERS, " 1 , 2", (1.0, 2.0)),
        (NUMBERS, "7", (7.0,)),
    ],
    ids=["geometric", "falling", "linear", "from-zero", "one", "list", "spaces", "single"],
)
def test_ranges_and_lists(kind, text, expected):
    assert kind.convert(text, None, None) == expected


# ------------------------------------------------------------------------------------------------ bad input


BAD = {
    "missing-runs": (("fit", "none"), "cannot be read: No such file"),
    "unknown-law": (("fit", "runs", "--law", "lr-aneal"), "unknown law 'lr-aneal'; did you mean 'lr-annealing'"),
    "unknown-option-of-law": (("fit", "runs", "--law-option", "decy=1"), "unknown option of lr-annealing 'decy'"),
    "name-as-option": (("fit", "runs", "--law-option", "name=x"), "unknown option of lr-annealing 'name'"),
    "no-value": (("fit", "runs", "--law-option", "decay"), "expected NAME=VALUE, got 'decay'"),
    "warmup-mode": (("fit", "runs", "--law-option", "warmup=peak"), "unknown warmup mode 'peak'"),
    "residual": (("fit", "runs", "--residual", "lg"), "unknown residual 'lg'"),
    "selection": (("fit", "runs", "--train", "split:trian"), "did you mean 'train'"),
    "options-of-all-laws": (
        ("evaluate", "runs", "--law", "all", "--law-option", "rho=1"),
        "--law-option: needs one law, found --law all",
    ),
    "selection-of-nothing": (("evaluate", "runs", "--train", "zz*"), "'zz*' matches no run"),
    "unknown-verb": (("fti", "runs"), "No such command 'fti'"),
    "unknown-flag": (("fit", "runs", "--jsn"), "No such option"),
    "no-runs": (("fit",), "Missing argument 'RUNS'"),
    "output-folder": (("fit", "runs", *LAW, "--train", "split:train", "-o", "none/a.json"), "none/a.json: cannot be"),
    "missing-fit": (("search", "none.json", *TARGET), "none.json: cannot be read: No such file"),
    "not-a-fit": (("search", "runs/runs.toml", *TARGET), "runs/runs.toml: not a fit file"),
    "fit-is-a-folder": (("search", "runs", *TARGET), "runs: cannot be read: Is a directory"),
    "half-a-range": (("search", "fit.json", "--total-steps", "400", "--peak-lr", "1e-4:1e-3"), "range LO:HI:N"),
    "range-of-none": (("search", "fit.json", "--total-steps", "400", "--peak-lr", "1e-4:1e-3:0"), "range LO:HI:N"),
    "rates-from-zero": (("search", "fit.json", "--total-steps", "400", "--peak-lr", "0:1e-3:4"), "range LO:HI:N"),
    "text-for-a-rate": (("search", "fit.json", "--total-steps", "400", "--peak-lr", "high"), "got 'high'"),
    "no-target": (("search", "fit.json"), "Missing option '--"),
    "ratio-zero": (("search", "fit.json", *TARGET, "--anneal-ratio", "0:1:5"), "must lie in (0, 1], got 0"),
    "ratio-percent": (("search", "fit.json", *TARGET, "--anneal-ratio", "20"), "must lie in (0, 1], got 20"),
    "decay": (("search", "fit.json", *TARGET, "--decay", "linear,cosin"), "unknown decay 'cosin'"),
    "exponential-to-zero": (("search", "fit.json", *TARGET, "--decay", "exponential"), "final_lr above zero"),
    "steps-fraction": (("search", "fit.json", "--total-steps", "4.5", "--peak-lr", "1e-3"), "got 4.5"),
    "long-warmup": (("search", "fit.json", *TARGET, "--warmup-steps", "500"), "warmup of 500 steps is longer"),
    "top": (("search", "fit.json", *TARGET, "--top", "-1"), "top: expected a whole number >= 0"),
    "dtype": (("search", "fit.json", *TARGET, "--dtype", "float16"), "unknown dtype 'float16'"),
    "table": (("search", "fit.json", *TARGET, "--table"), "a table of every candidate needs a folder"),
    "recommend-decay": (("recommend", "rates", *LAW, *TARGET, "--decay", "liner"), "unknown decay 'liner'"),
    "recommend-ratio": (("recommend", "rates", *LAW, *TARGET, "--anneal-ratio", "2"), "must lie in (0, 1], got 2"),
    "recommend-steps": (("recommend", "rates", "--total-steps", "0", "--peak-lr", "1e-3"), "total_steps: expected"),
    "recommend-open": (("recommend", "constants", *LAW, *TARGET), "no fit can predict peak_lr 0.001"),
    "plot-folder": (("recommend", "rates", *LAW, *TARGET, "--plot", "none/a.png"), "none/a.png: cannot be"),
    "plot-format": (("recommend", "rates", *LAW, *TARGET, "--plot", "a.xyz"), "a.xyz: Format 'xyz' is not supported"),
}  # fmt: skip


def assert_refused(fmjax_, folder, arguments, message):
    before = files(folder)
    code, out, err = fmjax_(*arguments, *(() if "-o" in arguments else ("-o", "written.json")))
    assert (code, out) == (2, "")
    assert (err.startswith("fmjax: "), err.count("\n"), err[-1]) == (True, 1, "\n"), err
    assert message in err
    assert files(folder) == before


@pytest.mark.parametrize(("arguments", "message"), BAD.values(), ids=BAD)
def test_bad_input(fmjax_, folder, arguments, message):
    assert_refused(fmjax_, folder, arguments, message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 9}, "fit file has format 9, this fmjax reads format 1; fit again"),
        ({"law": "other"}, "unknown law 'other'"),
        ({"params": {}}, "lr-annealing has parameters"),
        ({"options": None}, "damaged fit file"),
    ],
    ids=["version", "law", "params", "options"],
)
def test_other_fit_files(fmjax_, folder, tmp_path, changes, message):
    record = json.loads((folder / "fit.json").read_text())
    (tmp_path / "other.json").write_text(json.dumps({**record, **changes}))
    assert_refused(fmjax_, folder, ("search", tmp_path / "other.json", *TARGET), message)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fit", "runs", "--train", "split:train", "--law-option", "decay=fast"), "decay"),
        (("search", "fit.json", "--total-steps", "400", "--peak-lr", "inf:1:3"), "inf"),
    ],
    ids=["text-for-an-option", "infinite-range"],
)
def test_bad_values_are_refused(fmjax_, folder, arguments, message):
    assert_refused(fmjax_, folder, arguments, message)


def test_an_output_that_is_a_folder(fmjax_, folder, tmp_path):
    (tmp_path / "taken").mkdir()
    code, out, err = fmjax_("fit", "runs", *LAW, "--train", "split:train", "-o", tmp_path / "taken")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_an_output_that_cannot_be_written(fmjax_):
    assert "cannot be written" in fmjax_("fit", "runs", *LAW, "--train", "split:train", "-o", "none/fit.json")[2]


def test_the_caller_of_jax_decides_on_the_cache(fmjax_, monkeypatch):
    changed = []
    monkeypatch.setattr("jax.config.update", lambda name, value: changed.append(name))
    fmjax_("--version")
    assert changed == []
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    fmjax_("--version")
    assert "jax_compilation_cache_dir" in changed
