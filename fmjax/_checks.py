"""Host-side checks of what users hand in; each failure is one sentence in a ``ValueError``."""

import difflib
import functools
import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar, cast

Call = TypeVar("Call", bound=Callable[..., Any])
_NO_HINTS: Mapping[str, str] = MappingProxyType({})


@contextmanager
def within(place: str | Path) -> Iterator[None]:
    """Puts the place before the message of a ``ValueError``, and makes one of a file that cannot be read."""
    try:
        yield
    except OSError as error:
        raise ValueError(f"{place}: cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{place}: expected UTF-8 text, found other bytes") from None
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from None


MOST_NAMED = 24
"""Known names that a message lists; a manifest can have hundreds of runs."""


def choose(name: str, known: Iterable[str], what: str) -> str:
    """Returns ``name`` if it is one of ``known``, else raises with the nearest known name."""
    names = list(known)
    if name in names:
        return name
    near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    raise ValueError(f"unknown {what} {name!r}{hint} (known: {', '.join(names[:MOST_NAMED])}{more})")


def known_options(what: str, hints: Mapping[str, str] = _NO_HINTS) -> Callable[[Call], Call]:
    """Has a function, or the constructor of a class, name the nearest option where it is given an unknown one.

    Args:
      what: whose options they are.
      hints: what to say of options that belong elsewhere, by name.
    """

    def decorate(call: Call) -> Call:
        made = call.__init__ if isinstance(call, type) else call  # type: ignore[misc]
        names = [name for name in inspect.signature(made).parameters if name != "self"]

        @functools.wraps(made)
        def checked(*args: Any, **options: Any) -> Any:
            for name in options.keys() - names:
                require(name not in hints, f"unknown option of {what} {name!r}{hints.get(name)}")
                choose(name, names, f"option of {what}")
            return made(*args, **options)

        if isinstance(call, type):
            call.__init__ = checked  # type: ignore[misc]
            return call
        return cast(Call, checked)

    return decorate


def require(condition: object, message: str) -> None:
    """Raises ``ValueError(message)`` unless ``condition`` holds."""
    if not condition:
        raise ValueError(message)


def finite(value: Any, what: str) -> float:
    """``value`` as a finite float."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{what}: expected a number, got {value!r}") from None
    require(math.isfinite(number), f"{what}: expected a finite number, got {value!r}")
    return number


def positive(value: Any, what: str) -> float:
    """``value`` as a finite float above zero."""
    number = finite(value, what)
    require(number > 0, f"{what}: expected a number above zero, got {value!r}")
    return number


def whole(value: Any, what: str, *, least: int = 0) -> int:
    """``value`` as an int of at least ``least``."""
    number = finite(value, what)
    require(number == int(number) and number >= least, f"{what}: expected a whole number >= {least}, got {value!r}")
    return int(number)
