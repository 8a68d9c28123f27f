"""What is in a file, unpacked and as text."""

import codecs
import gzip
import zlib
from pathlib import Path
from typing import IO, cast

from fmjax._checks import require

MOST_BYTES = 2**31
"""How much a packed file may unpack to."""

_WIDE = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def ending(path: Path) -> str:
    """The ending of a file's name, without that of packing.

    >>> ending(Path("a/b.CSV.gz")), ending(Path("b.log"))
    ('.csv', '.log')
    """
    return Path(path.name.removesuffix(".gz")).suffix.lower()


def opened(path: Path) -> IO[bytes]:
    """A file to read from, unpacked if its name ends in ``.gz``."""
    return cast(IO[bytes], gzip.open(path)) if path.suffix == ".gz" else path.open("rb")


def begins(path: Path, size: int = 4096) -> str:
    """The beginning of a file as text, unpacked, other bytes replaced; empty where it cannot be read."""
    try:
        with opened(path) as file:
            return _decoded(file.read(size))
    except (OSError, EOFError, zlib.error):
        return ""


def is_wide(path: Path) -> bool:
    """Whether a file's text is in UTF-16, as some shells write what a program prints."""
    with opened(path) as file:
        return file.read(2) in _WIDE


def text_of(path: Path) -> str:
    """The text of a file, other bytes replaced.

    Raises:
      ValueError: a packed file that is broken, or that unpacks to more than ``MOST_BYTES``.
    """
    return _decoded(bytes_of(path))


def bytes_of(path: Path) -> bytes:
    """The content of a file, unpacked; see ``text_of``."""
    try:
        with opened(path) as file:
            content = file.read(MOST_BYTES + 1) if path.suffix == ".gz" else file.read()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"expected a file packed by gzip, but {error}") from None
    require(path.suffix != ".gz" or len(content) <= MOST_BYTES, f"unpacks to more than {MOST_BYTES:g} bytes")
    return content


def _decoded(content: bytes) -> str:
    if content.startswith(_WIDE):
        return content.decode("utf-16", errors="replace")
    return content.decode("utf-8-sig", errors="replace")
