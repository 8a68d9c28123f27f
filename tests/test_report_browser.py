"""Reports in a headless Chromium: drawn without a network, legible on a phone, and harmless whatever names say."""

import shutil

import pytest
from test_report import HOSTILE, hostile_page

from fmjax import report

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
CHARTS = {"curves", "residuals", "ratios", "map", "rates"}

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the path")]

DESKTOP = {"viewport": {"width": 1280, "height": 900}}
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True, "device_scale_factor": 2}
SCREENS = {"desktop": DESKTOP, "phone": PHONE, "dark": {**DESKTOP, "color_scheme": "dark"}}

SMALLEST_TEXT = """() => {
  const sizes = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walk.nextNode(); node; node = walk.nextNode()) {
    const box = node.parentElement;
    if (node.textContent.trim() && box.closest("script, noscript, math") === null && box.checkVisibility()) {
      sizes.push(parseFloat(getComputedStyle(box).fontSize));
    }
  }
  return Math.min(...sizes);
}"""


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "page.html"
    report.write_report(hostile_page(), path)
    return path.as_uri()


@pytest.fixture(params=SCREENS)
def opened(request, browser, address):
    """The page on a screen, with what it asked for and what went wrong."""
    context = browser.new_context(**SCREENS[request.param])
    page = context.new_page()
    page.wrong, page.asked, page.screen = [], [], request.param
    page.on("console", lambda message: page.wrong.append(message.text))
    page.on("pageerror", lambda error: page.wrong.append(str(error)))
    page.on("dialog", lambda dialog: (page.wrong.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda asked: page.asked.append(asked.url))
    page.goto(address, timeout=120_000)
    page.wait_for_function(f"document.querySelectorAll('.chart .main-svg .trace, .chart .hm').length >= {len(CHARTS)}")
    yield page
    context.close()


def test_it_loads_nothing_and_nothing_goes_wrong(opened, address):
    opened.wait_for_timeout(500)
    opened.set_viewport_size({"width": 800, "height": 700})
    opened.wait_for_timeout(500)
    assert opened.asked == [address]
    assert opened.wrong == []
    assert opened.title() == "Annealing ratio for 400 updates"


def test_all_charts_are_drawn_as_wide_as_the_page(opened):
    room = opened.evaluate("document.querySelector('main').clientWidth")
    for key in CHARTS:
        box = opened.locator(f"[data-chart={key}]")
        assert box.locator("svg .trace, svg .hm").count() > 0, key
        assert abs(box.locator("svg.main-svg").first.bounding_box()["width"] - room) < 2, key


def test_nothing_overflows_and_text_is_legible(opened):
    assert opened.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert opened.evaluate("document.documentElement.scrollWidth") == SCREENS[opened.screen]["viewport"]["width"]
    assert opened.evaluate(SMALLEST_TEXT) >= 12


def test_names_are_shown_and_do_nothing(opened):
    for key in ("curves", "residuals"):
        legend = opened.locator(f"[data-chart={key}] .legend").text_content()
        assert all(part in legend for part in ("</script>", "%{y}", "&lt;i&gt;", "<!--<script>"))
    assert opened.locator("img, .chart svg b, .chart svg a[href*='example.org']").count() == 0
    assert all(name in opened.locator("#fit").text_content() for name in HOSTILE)
    assert opened.wrong == []


def test_a_dot_tells_of_its_run(opened):
    if opened.screen == "phone":
        pytest.skip("a phone has no pointer to hover with")
    dot = opened.locator("[data-chart=curves] .trace.scatter .points path").nth(20)
    dot.scroll_into_view_if_needed()
    box = dot.bounding_box()
    opened.mouse.move(box["x"] + box["width"] / 2 - 3, box["y"] + box["height"] / 2)
    opened.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    label = opened.locator("[data-chart=curves] .hoverlayer .hovertext")
    label.first.wait_for()
    said = label.first.text_content()
    assert all(word in said for word in ("update", "loss", "predicted", "error"))
    assert any(name[:8] in said for name in HOSTILE)


def test_no_button_sends_charts_away(opened):
    titles = set(opened.locator(".modebar-btn").evaluate_all("all => all.map(one => one.dataset.title)"))
    assert titles <= {"Download plot as a PNG", "Download plot as a png", "Zoom", "Pan", "Reset axes"}
    assert opened.locator(".modebar a[href], .chart a[href]").count() == 0


def test_colours_follow_the_scheme(opened):
    style = "getComputedStyle(document.querySelector('[data-chart=rates] .xtick text')).fill"
    dark = opened.screen == "dark"
    assert (sum(map(int, opened.evaluate(style)[4:-1].split(","))) > 384) is dark
    opened.emulate_media(color_scheme="light" if dark else "dark")
    opened.wait_for_timeout(500)
    assert (sum(map(int, opened.evaluate(style)[4:-1].split(","))) > 384) is not dark


def test_it_prints(opened):
    assert opened.pdf(format="A4").startswith(b"%PDF")
    assert opened.wrong == []
