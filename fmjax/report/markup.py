"""Pieces of HTML; whatever is not ``Html`` already is escaped."""

import html
from collections.abc import Iterable, Sequence

import numpy as np

LONGEST = 200
"""Characters of a text that a table shows."""


NONE = "\N{EN DASH}"
"""Stands where there is no number."""


class Html(str):
    """Text that is HTML."""


def safe(value: object) -> Html:
    """A value as HTML: text is escaped, and what UTF-8 cannot hold is replaced."""
    if isinstance(value, Html):
        return value
    return Html(html.escape(str(value).encode("utf-8", "replace").decode("utf-8")))


def shortened(text: str, most: int = LONGEST) -> str:
    """A text without its middle where it is too long.

    >>> shortened("0.1M-lr0.0025-T4000-wsd-linear-0.2", 21)
    '0.1M-lr0.0…linear-0.2'
    """
    half = (most - 1) // 2
    return text if len(text) <= most else f"{text[: most - 1 - half]}…{text[len(text) - half :]}"


def element(tag: str, *content: object, **attributes: object) -> Html:
    """An element; ``class_`` stands for class, and underscores in other names for hyphens.

    >>> element("p", "a < b", class_="note")
    '<p class="note">a &lt; b</p>'
    """
    given = "".join(f' {key.rstrip("_").replace("_", "-")}="{safe(value)}"' for key, value in attributes.items())
    return Html(f"<{tag}{given}>{in_sequence(content)}</{tag}>")


def in_sequence(parts: Iterable[object]) -> Html:
    """Parts one after the other."""
    return Html("".join(safe(part) for part in parts))


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, text: int = 1) -> Html:
    """A table whose first columns are text and whose others are numbers, in a box that scrolls by itself."""
    head = in_sequence(_cell("th", column, i >= text, scope="col") for i, column in enumerate(columns))
    body = in_sequence(element("tr", *(_cell("td", x, i >= text) for i, x in enumerate(row))) for row in rows)
    found = element("table", element("thead", element("tr", head)), element("tbody", body))
    return element("div", found, class_="scroll", tabindex=0, role="region", aria_label=f"table by {columns[0]}")


def _cell(tag: str, value: object, is_number: bool, **attributes: object) -> Html:
    shown = value if isinstance(value, Html) else shortened(str(value))
    return element(tag, shown, class_="number" if is_number else "text", **attributes)


def pairs(rows: Iterable[tuple[str, object]]) -> Html:
    """A table of names and values."""
    return element("table", *(element("tr", element("th", a, scope="row"), element("td", b)) for a, b in rows))


def values(rows: Iterable[tuple[str, object]]) -> Html:
    """Names and values in as many columns as there is room for."""
    items = (element("li", element("code", name), element("span", value)) for name, value in rows)
    return element("ul", *items, class_="values")


def listed(items: Iterable[object]) -> Html:
    """A list with a dot before each item."""
    return element("ul", *(element("li", item) for item in items))


def folded(summary: str, *content: object) -> Html:
    """What is shown when its summary is opened."""
    return element("details", element("summary", summary), *content)


def code(text: str) -> Html:
    """Lines of code as they are."""
    return element("pre", element("code", text), tabindex=0)


def section(key: str, heading: str, *content: object) -> Html:
    """A part of the page with a heading that links can name."""
    return element("section", element("h2", heading), *content, id=key)


def number_text(value: float, form: str = ".4f") -> str:
    """A number as text, a dash where there is none."""
    return format(value, form) if np.isfinite(value) else NONE


def interval_text(ends: Sequence[float] | None, form: str = ".3g") -> str:
    """An interval as text, a dash where there is none.

    >>> interval_text((0.25, 0.5))
    '0.25 … 0.5'
    """
    if ends is None or not np.isfinite(ends).all():
        return NONE
    return f"{ends[0]:{form}} … {ends[1]:{form}}"
