"""A page as one file: sections, charts and the script that draws them, with nothing to load."""

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from string import Template

from fmjax._json import plain
from fmjax._version import __version__
from fmjax.report.drawing import Chart
from fmjax.report.markup import Html, element, in_sequence, safe, section


def chart_script() -> str:
    """The script that draws charts.

    Raises:
      ValueError: plotly is not installed.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        raise ValueError("a report needs plotly: pip install 'fmjax[report]'") from None
    return str(get_plotlyjs()).replace("</script", "<\\/script")


def charts_section(figures: Mapping[str, tuple[str, str]]) -> Html:
    """The section of charts: a title and a caption of each by its key."""
    plain_text = element("p", "The charts need JavaScript; the tables hold what they show.")
    return section("charts", "Charts", element("noscript", plain_text), *(_figure(*one) for one in figures.items()))


def _figure(key: str, said: tuple[str, str]) -> Html:
    title, caption = said
    box = element("div", class_="chart", data_chart=key, role="img", aria_label=title)
    return element("figure", element("h3", title), box, element("figcaption", caption))


def assembled(title: str, sections: Sequence[Html], links: Mapping[str, str], charts: Mapping[str, Chart]) -> str:
    """The page; its policy lets only its own scripts run, by their hashes, and nothing be loaded.

    Args:
      title: of the page.
      sections: in order.
      links: name of each section that the head of the page links to, by its key.
      charts: by the key of the box they are drawn in.

    Raises:
      ValueError: plotly is not installed.
    """
    scripts = {"plotly": f"\n{chart_script()}\n", "drawing": f"\n{_file('page.js')}"}
    return Template(_file("page.html")).substitute(
        scripts,
        policy=safe(_policy(scripts.values())),
        version=safe(__version__),
        title=safe(title),
        style=_file("page.css"),
        links=in_sequence(element("a", name, href=f"#{key}") for key, name in links.items()),
        sections="\n".join(sections),
        charts=_data(charts),
    )


def _file(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _policy(scripts: Iterable[str]) -> str:
    digests = (hashlib.sha256(script.encode()).digest() for script in scripts)
    known = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {known}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def _data(charts: Mapping[str, Chart]) -> str:
    """Charts as JSON that cannot end the script it stands in."""
    text = json.dumps(plain(dict(charts)), allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
