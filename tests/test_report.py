"""Reports: what stands on the page, that nothing is loaded, and that no text of others becomes markup or script."""

import base64
import functools
import hashlib
import html
import json
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from synthetic import DECAY, curve, runs, write_manifest

import fmjax
from fmjax import report
from fmjax.cli.commands import run
from fmjax.laws import LAWS, LRAnnealing
from fmjax.laws.base import Law
from fmjax.planning.recommendation import Choice, Recommendation
from fmjax.plotting import COLORS
from fmjax.report import assumptions, curve_charts, drawing, loss_charts, markup
from fmjax.report.formulas import description, formula
from fmjax.schedules.kinds import WSD
from fmjax.searching.results import Cell, SearchResult

LAW = LRAnnealing(decay=DECAY)
RATIOS = np.linspace(0.05, 0.95, 19)
HOSTILE = (
    "</script><script>alert(1)</script><img src=x onerror=alert(1)>",
    '"><b>bold</b><a href="https://example.org">go</a>',
    "${x} %{y} {{z}} &lt;i&gt;",
    "<!--<script>",
)
MOST_BYTES = 6_000_000
PLAN = {"total_steps": 400, "peak_lr": (1e-3, 2e-3), "anneal_ratio": RATIOS}


class Page(HTMLParser):
    """Elements with their attributes, the text inside each kind, and all text outside scripts."""

    def __init__(self, page):
        super().__init__()
        self.elements, self.inside, self.scripts, self.styles, self.text = [], [], [], [], ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self.inside.append(tag)
            (self.scripts if tag == "script" else self.styles).append("")

    def handle_endtag(self, tag):
        if tag in ("script", "style"):
            self.inside.pop()

    def handle_data(self, data):
        if self.inside:
            (self.scripts if self.inside[-1] == "script" else self.styles)[-1] += data
        else:
            self.text += data

    def named(self, tag):
        return [attributes for found, attributes in self.elements if found == tag]

    @property
    def charts(self):
        return json.loads(self.scripts[0])


@functools.cache
def fitted():
    return fmjax.fit(LAW, runs(noise=1e-4))


@functools.cache
def losses():
    return fmjax.search(fitted(), keep_losses=True, warmup_steps=20, **PLAN)


def planned(curves):
    """What ``recommend`` might say of these runs, without its bootstrap."""
    named = [run._replace(name=curve.name) for run, curve in zip(fitted().runs, curves, strict=True)]
    fit, notes = fitted().with_runs(named, fitted().reach), ("fitted jointly", "no run has this peak rate")
    choices = []
    for i, (cell, row) in enumerate(zip(losses().cells, losses().losses, strict=True)):
        ends = (cell.best_ratio - 0.05, cell.best_ratio + 0.1), (cell.loss - 0.01, cell.loss + 0.02)
        cell = cell._replace(ratio_interval=ends[0], loss_interval=ends[1])
        held_out = tuple(run._replace(mape_percent=run.mape_percent + 0.5) for run in named)
        said = (cell, row, 0.4, 1e-3, cell.schedule(20), fit, False, i == 0, held_out, 5, notes[: i + 1])
        choices.append(Choice(*said))
    return Recommendation(PLAN["total_steps"], losses().anneal_ratio, tuple(choices))


def hostile_page():
    """A page all of whose names are meant to harm."""
    curves = [replace(run, name=name) for run, name in zip(runs(noise=1e-4), HOSTILE, strict=True)]
    found = planned(curves)
    return report.recommendation_page(found, curves, command=f"fmjax report '{HOSTILE[0]}'")


@pytest.fixture(scope="module")
def curves():
    return runs(noise=1e-4)


@pytest.fixture(scope="module")
def found(curves):
    return planned(curves)


@pytest.fixture(scope="module")
def text(found, curves):
    return report.recommendation_page(found, curves, command="fmjax report 'my runs' --total-steps 400")


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


@pytest.fixture(scope="module")
def fit():
    return fitted()


# ------------------------------------------------------------------------------------------------ the page


def test_the_answer_stands_first(found, page):
    cell = found.best.cell
    start = page.text[page.text.index("Recommendation") : page.text.index("Charts", 300)]
    assert f"Anneal over the last {100 * cell.best_ratio:.3g} % of 400 updates" in start
    ends = (f"{x:.2f}" for x in cell.ratio_interval), (f"{x:.4f}" for x in cell.loss_interval)
    near = " … ".join(f"{x:.3g}" for x in cell.interval)
    assert all(number in start for number in (f"{cell.loss:.4f}", near, *ends[0], *ends[1]))
    assert f"{found.best.held_out_mape_percent:.3f} %" in start
    assert "All peak rates" in start


def test_several_fits_and_shapes(found, curves, fit):
    first, second = found.choices
    second = second._replace(cell=second.cell._replace(decay="1-sqrt"), fit=fit, notes=("a note of its own",))
    page = Page(report.recommendation_page(replace(found, choices=(first, second)), curves))
    assert "Also fitted: lr-annealing for peak rate" in page.text
    assert "peak rate 0.002: a note of its own" in page.text
    assert {"peak 0.001, linear", "peak 0.002, 1-sqrt"} == {trace["name"] for trace in page.charts["ratios"]["data"]}
    assert "map" not in page.charts


def test_every_run_and_parameter_is_told(found, curves, page):
    assert all(page.text.count(run.name) for run in curves)
    for fit in {id(choice.fit): choice.fit for choice in found.choices}.values():
        assert all(f"{fit.params[name]:.6g}" in page.text for name in fit.law.parameter_names)
        assert all(f"{run.final_loss:.4f}" in page.text for run in fit.runs)
    assert all(f"{run.mape_percent:.3f}" in page.text for run in found.best.held_out)


def test_notes_are_told(page):
    notes = page.text[page.text.index("Of this answer") :]
    assert "fitted jointly" in notes
    assert "peak rate 0.002: no run has this peak rate" in notes
    assert "5 bootstrap samples" in page.text


def test_without_samples_there_are_no_intervals(found, curves):
    choice = found.best._replace(regret=float("nan"), samples=0)
    choice = choice._replace(cell=choice.cell._replace(ratio_interval=None, loss_interval=None))
    found = replace(found, choices=(choice,))
    page = Page(report.recommendation_page(found, curves))
    assert "no intervals" in page.text
    assert "nan" not in page.text
    assert "map" not in page.charts
    assert not any(trace.get("error_x", {}).get("visible", True) for trace in page.charts["ratios"]["data"][2:])


def test_how_it_was_made(found, curves, tmp_path):
    file = tmp_path / "runs <1>.toml"
    file.write_bytes(b"abc")
    page = Page(report.recommendation_page(found, curves, command="fmjax report x", inputs=[file]))
    assert hashlib.sha256(b"abc").hexdigest() in page.text
    for said in (str(file), "fmjax report x", fmjax.__version__, sys.version.split()[0], "optax.join_schedules"):
        assert said in page.text


def test_a_file_that_cannot_be_read(found, curves, tmp_path):
    with pytest.raises(ValueError, match=r"none\.toml: cannot be read"):
        report.recommendation_page(found, curves, inputs=[tmp_path / "none.toml"])


# ------------------------------------------------------------------------------------------------ nothing is loaded


def test_nothing_is_loaded(page):
    for tag, attributes in page.elements:
        for key in ("src", "href", "action", "data", "poster", "srcset", "background"):
            assert attributes.get(key, "#").startswith(("#", "data:")), tag
        assert not [key for key in attributes if key.startswith("on")]
    assert not page.named("link")[1:]
    assert "@import" not in page.styles[0]
    assert "url(" not in page.styles[0]


def test_one_script_draws_under_a_policy_that_names_it(page):
    assert sum("plotly.js v" in script for script in page.scripts) == 1
    assert [attributes.get("type") for attributes in page.named("script")] == ["application/json", None, None]
    [policy] = [meta["content"] for meta in page.named("meta") if "http-equiv" in meta]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in page.scripts[1:]]
    assert rules["script-src"] == " ".join(f"'sha256-{digest}'" for digest in digests)
    assert not {"http", "unsafe-eval"} & set(policy.replace(":", " ").split())


def test_charts_are_never_sent_away(page):
    assert "showSendToCloud: false" in page.scripts[-1]
    assert 'plotlyServerURL: ""' in page.scripts[-1]


def test_head_and_headings(page):
    metas = page.named("meta")
    assert {"charset": "utf-8"} in metas
    assert any(meta.get("name") == "viewport" for meta in metas)
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert max(np.diff(levels)) == 1
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {link["href"].removeprefix("#") for link in page.named("a")} <= set(ids)


def test_every_box_has_its_chart(page):
    boxes = [box["data-chart"] for box in page.named("div") if "data-chart" in box]
    assert boxes == ["curves", "residuals", "ratios", "map", "rates"]
    assert set(page.charts) == set(boxes)


def test_charts_are_what_plotly_takes(page):
    graph_objects = pytest.importorskip("plotly.graph_objects")
    for chart in page.charts.values():
        graph_objects.Figure(chart)  # raises for an unknown or wrong property


# ------------------------------------------------------------------------------------------------ texts of others


@pytest.fixture(scope="module")
def hostile():
    return hostile_page()


def test_names_become_no_markup(hostile, page):
    found = Page(hostile)
    assert len(found.scripts) == len(page.scripts)
    assert not found.named("img") + found.named("i")
    assert [link["href"] for link in found.named("a")] == [link["href"] for link in page.named("a")]
    assert all(name in found.text for name in HOSTILE)
    assert found.scripts[1:] == page.scripts[1:]


def strings(value):
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from strings(item)


def test_names_are_escaped_in_charts(hostile):
    charts = Page(hostile).charts
    told = {trace["meta"] for trace in charts["curves"]["data"] if "meta" in trace}
    assert {html.unescape(name) for name in told} == {markup.shortened(name, 60) for name in HOSTILE}
    for text in strings(charts):
        assert not re.search(r"<(?!/?b>|br>|extra>|/extra>)", text), text
    for trace in charts["curves"]["data"] + charts["residuals"]["data"]:
        assert not any(name[:4] in trace.get("hovertemplate", "") for name in HOSTILE)


def test_chart_data_cannot_end_its_script(hostile):
    data = re.search(r'id="chart-data">(.*?)</script>', hostile, re.S)[1]
    assert not set("<>&") & set(data)


def test_text_that_is_no_unicode(found, curves):
    page = report.recommendation_page(found, curves, command="fmjax report \udcff")
    assert "fmjax report ?" in page.encode().decode()


# ------------------------------------------------------------------------------------------------ sizes


def test_sizes_are_bounded(found, text):
    steps = 12_000
    long = [
        curve(f"run-{i}", WSD(1e-3, steps, 0.1 + 0.05 * i, warmup_steps=20), rows=steps // 4, noise=1e-4)
        for i in range(3)
    ]
    many = [replace(long[i % 3], name=f"copy-{i}") for i in range(15)]
    drawn = curve_charts.drawn_runs(found.best.fit, many)
    assert len(drawn.runs) == curve_charts.MOST_RUNS
    assert {run.rows.size for run in drawn.runs} == {drawing.MOST_ROWS}
    assert all(run.rows[-1] == steps // 4 - 1 for run in drawn.runs)
    chart = json.dumps([curve_charts.curves_chart(drawn.runs), curve_charts.residuals_chart(drawn)])
    assert len(chart) < 2_000_000
    assert len(text) < MOST_BYTES


def test_a_large_search_makes_a_small_page(fit):
    peaks, ratios = np.geomspace(1e-4, 1e-2, 150), np.linspace(0.001, 0.999, 400)
    losses = 3 + (ratios - 0.5) ** 2 + np.abs(np.log(peaks / 1e-3))[:, None]
    cells = tuple(
        Cell(400, peak, "linear", 0.0, ratios[200], row.min(), (0.4, 0.6), False)
        for peak, row in zip(peaks, losses, strict=True)
    )
    slower = tuple(cell._replace(decay="1-sqrt", loss=cell.loss + 1) for cell in cells)
    found = SearchResult(cells + slower, ratios, (), np.concatenate([losses, losses + 1]))
    page = report.search_page(found, fit)
    assert len(page) < MOST_BYTES
    charts = Page(page).charts
    assert set(charts) == {"ratios", "map", "rates"}
    assert np.shape(charts["map"]["data"][0]["z"]) <= (loss_charts.MOST_RATES, loss_charts.CHARTED_RATIOS)
    assert len(charts["ratios"]["data"]) <= 3 * loss_charts.MOST_LINES
    assert any("1-sqrt" in trace["name"] for trace in charts["ratios"]["data"])
    assert "The first 200 of 300 cells." in page


# ------------------------------------------------------------------------------------------------ a search


@pytest.fixture(scope="module")
def searched():
    return losses()


def test_a_search(searched, fit, curves):
    page = Page(report.search_page(searched, fit, curves=curves))
    best = searched.top[0]
    assert f"Anneal over the last {100 * best.anneal_ratio:.3g} % of 400 updates" in page.text
    assert f"{best.loss:.4f}" in page.text
    assert "optax.linear_schedule(0.0" in page.text
    assert set(page.charts) == {"curves", "residuals", "ratios", "map", "rates"}
    star = page.charts["map"]["data"][2]
    assert (star["x"], star["y"]) == ([best.anneal_ratio], [pytest.approx(np.log10(best.peak_lr), abs=1e-4)])


def test_a_search_far_off_that_kept_no_losses(searched, fit):
    far = tuple(cell._replace(total_steps=5000, peak_lr=1e-2, at_edge=True) for cell in searched.cells)
    page = Page(report.search_page(replace(searched, cells=far, losses=None), fit))
    assert set(page.charts) == {"rates"}
    assert "12.5 x the longest fitted run" in page.text
    assert "lies outside those fitted" in page.text
    assert "at the edge of those searched" in page.text


def test_assumptions_of_a_fit_without_reach(searched, fit):
    best = searched.cells[0]._replace(total_steps=5000, at_edge=False)
    assert "Of this answer" not in assumptions.assumed_of_search(replace(fit, reach=None), best)


# ------------------------------------------------------------------------------------------------ pieces


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_every_law_has_its_formula(law: type[Law]):
    said = description(law())
    assert said.startswith("<p>")
    assert "<math>" in said
    assert "arXiv" in said or law.name == "intrinsic-momentum"
    assert not re.search(r"[\\${}`]", said)
    assert Page(said).text


def test_a_formula_with_both_scripts():
    expected = "<msubsup><mi>S</mi><mi>t</mi><mrow><mo>\N{MINUS SIGN}</mo><mi>A</mi></mrow></msubsup>"
    assert formula("S_t^{-A}") == f"<math><mrow>{expected}</mrow></math>"


def test_kinks_are_drawn():
    chart = loss_charts.schedule_chart(WSD(1e-3, 123_457, 0.1, warmup_steps=77))
    assert len(chart["data"][0]["x"]) <= drawing.MOST_ROWS
    assert {0, 77, 111_111, 123_456} <= set(chart["data"][0]["x"])
    assert chart["data"][0]["y"][chart["data"][0]["x"].index(77)] == 1e-3


def test_colours_are_those_of_pictures():
    assert set(drawing.LINE_COLORS) < set(COLORS)
    assert len({drawing.style(i) for i in range(curve_charts.MOST_RUNS)}) == curve_charts.MOST_RUNS


def test_without_plotly(found, curves, monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(ValueError, match=r"needs plotly: pip install 'fmjax\[report\]'"):
        report.recommendation_page(found, curves)


def test_a_page_is_written_whole_or_not_at_all(tmp_path):
    report.write_report("<p>…</p>", tmp_path / "a.html")
    assert (tmp_path / "a.html").read_bytes() == "<p>…</p>".encode()
    with pytest.raises(ValueError, match="cannot be written"):
        report.write_report("<p>", tmp_path / "none" / "a.html")
    assert [path.name for path in tmp_path.iterdir()] == ["a.html"]


# ------------------------------------------------------------------------------------------------ the verb


TARGET = ("--total-steps", "400", "--peak-lr", "1e-3,2e-3", "--anneal-ratio", "0.05:0.95:19")
OPTIONS = ("--law", "lr-annealing", "--law-option", f"decay={DECAY}")


@pytest.fixture
def fmjax_(tmp_path, curves, fit, capsys, monkeypatch):
    """Runs a command line beside a manifest ``runs`` and a fit: (exit code, stdout, stderr)."""
    (tmp_path / "runs").mkdir()
    write_manifest(tmp_path / "runs", curves)
    (tmp_path / "fit.json").write_text(fit.to_json())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "unchanged")

    def call(*arguments):
        code = run(["report", *map(str, arguments)])
        return code, *capsys.readouterr()

    return call


def test_the_verb_recommends(fmjax_, curves, tmp_path, monkeypatch):
    monkeypatch.setattr(fmjax, "recommend", lambda curves, **given: planned(curves))
    code, out, err = fmjax_("runs", *TARGET, *OPTIONS, "-o", "a page.html", "--json")
    assert (code, err) == (0, "")
    record = json.loads(out)
    assert record["file"] == "a page.html"
    best = record["choices"][record["best"]]
    page = Page((tmp_path / "a page.html").read_text(encoding="utf-8"))
    assert f"{100 * best['best_ratio']:.3g} %" in page.text
    assert f"{best['loss']:.4f}" in page.text
    assert f"fmjax report runs {' '.join(TARGET)} {' '.join(OPTIONS)} -o 'a page.html' --json" in page.text
    for name in ("runs.toml", *(f"{one.name}.csv" for one in curves)):
        assert hashlib.sha256((tmp_path / "runs" / name).read_bytes()).hexdigest() in page.text


@pytest.mark.slow
def test_a_recommendation_from_curves_to_page(fmjax_, tmp_path):
    code, out, err = fmjax_("runs", *TARGET, *OPTIONS, "-o", "a.html")
    assert (code, err) == (0, "")
    page = Page((tmp_path / "a.html").read_text(encoding="utf-8"))
    assert re.search(r"Anneal over the last \d+ % of 400 updates", page.text)[0] in out
    assert "200 bootstrap samples" in page.text
    assert set(page.charts) == {"curves", "residuals", "ratios", "map", "rates"}


def test_the_verb_searches(fmjax_, tmp_path):
    code, out, err = fmjax_("fit.json", *TARGET, "--warmup-steps", 20, "-o", "a.html")
    assert (code, err) == (0, "")
    assert "38 candidates" in out
    assert "a.html: " in out.splitlines()[-1]
    page = Page((tmp_path / "a.html").read_text(encoding="utf-8"))
    assert "Best of 38 schedules" in page.text
    assert hashlib.sha256((tmp_path / "fit.json").read_bytes()).hexdigest() in page.text
    assert "rises from 0 over 20 updates" in page.text


def test_the_search_as_json(fmjax_):
    code, out, err = fmjax_("fit.json", *TARGET, "-o", "a.html", "--json")
    assert (code, err) == (0, "")
    record = json.loads(out)
    assert (record["file"], record["candidates"], record["warmup_steps"]) == ("a.html", 38, 20)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("runs", *TARGET, *OPTIONS, "-o", "none/a.html"), "none/a.html: cannot be written"),
        (("runs", *TARGET, *OPTIONS), "-o"),
        (("none", *TARGET, *OPTIONS, "-o", "a.html"), "none: cannot be read|none/runs.toml: cannot be read"),
        (
            ("runs", *TARGET, "--total-tokens", "1e6", "-o", "a.html"),
            "expected one of total_steps, total_tokens and flops",
        ),
        (("runs", *TARGET, "--final-lr", "0,1e-5", "-o", "a.html"), "--final-lr: expected one value"),
        (("fit.json", *TARGET, "--train", "a*", "-o", "a.html"), "--train: fit.json is fitted already"),
        (("fit.json", *TARGET, *OPTIONS, "-o", "a.html"), "--law: fit.json is fitted already"),
        (("fit.json", *TARGET[:2], "--peak-lr", "1e-4:1e-2:300000", "-o", "a.html"), "expected at most 4194304"),
    ],
    ids=["folder", "no-file", "no-runs", "two-lengths", "two-ends", "train", "law", "too-many"],
)
def test_bad_input_is_one_line_and_writes_nothing(fmjax_, tmp_path, arguments, expected):
    before = sorted(tmp_path.rglob("*"))
    code, out, err = fmjax_(*arguments)
    assert (code, out) == (2, "")
    assert re.search(expected, err)
    assert err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_the_verb_without_plotly(fmjax_, monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    code, out, err = fmjax_("runs", *TARGET, "-o", "a.html")
    assert (code, out, err) == (2, "", "fmjax: a report needs plotly: pip install 'fmjax[report]'\n")
