"""The formulas of laws as MathML, which browsers draw without fonts or scripts of the page's own."""

import inspect
import re
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Mapping

from fmjax.laws import Law
from fmjax.report.markup import Html, element, in_sequence

_TOKEN = re.compile(r"\\[a-zA-Z]+|[0-9.]+|[^\s]")
_GREEK = ("alpha", "beta", "gamma", "delta", "eta", "kappa", "rho", "xi")
_LETTERS = {name: unicodedata.lookup(f"GREEK SMALL LETTER {name}") for name in _GREEK}
_SIGNS = {"ge": "≥", "le": "≤", "leftarrow": "←", "sum": "∑", "-": "\N{MINUS SIGN}"}


def formula(tex: str) -> Html:
    """A formula in the TeX that docstrings of laws use: letters, signs, sums, fractions and scripts.

    >>> formula("A t^2")
    '<math><mrow><mi>A</mi><msup><mi>t</mi><mn>2</mn></msup></mrow></math>'
    """
    return element("math", _row(iter(_TOKEN.findall(tex))))


def _row(tokens: Iterator[str]) -> Html:
    """Everything up to the brace that closes."""
    found: list[Html] = []
    for token in tokens:
        if token == "}":
            break
        if token in "_^":
            found.append(_script(found.pop(), token, _atom(next(tokens), tokens)))
        else:
            found.append(_atom(token, tokens))
    return element("mrow", *found)


def _atom(token: str, tokens: Iterator[str]) -> Html:
    if token == "{":
        return _row(tokens)
    name = token.removeprefix("\\")
    if name == "frac":
        return element("mfrac", _atom(next(tokens), tokens), _atom(next(tokens), tokens))
    if name[0].isdigit():
        return element("mn", name)
    letter = _LETTERS.get(name, name if token.isalpha() else "")
    if name in "()":
        return element("mo", name, stretchy="false")
    return element("mi", letter) if letter else element("mo", _SIGNS.get(name, name))


def _script(base: Html, mark: str, script: Html) -> Html:
    """A base with a script; one that has the other script already gets both."""
    sub = re.fullmatch(r"<msub>(.*)</msub>", base)
    if mark == "^" and sub:
        return element("msubsup", Html(sub[1]), script)
    return element("msub" if mark == "_" else "msup", base, script)


def description(law: Law) -> Html:
    """The paragraphs of a law's docstring that hold its formulas, and its reference."""
    paragraphs = inspect.cleandoc(type(law).__doc__ or "").split("\n\n")
    formulas = [text for text in paragraphs if "$" in text][:2]
    formulas += [text for text in paragraphs if law.families and text.startswith("Runs of several families")]
    sources = [text for text in paragraphs if text.startswith("Reference:")]
    return in_sequence(
        element("p", _prose(text, vars(sys.modules[type(law).__module__]))) for text in formulas + sources
    )


def _prose(text: str, named: Mapping[str, Iterable[float]]) -> Html:
    """Text with formulas between dollar signs, and numbers for the names of them between double backquotes."""
    told = re.sub("``(.*?)``", lambda name: ", ".join(f"{x:g}" for x in named.get(name[1], ())) or name[1], text)
    parts = re.split(r"\$([^$]*)\$", told)
    return in_sequence(formula(part) if i % 2 else part for i, part in enumerate(parts))
