"""Files that are written whole or not at all."""

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def write_whole(target: Path, write: Callable[[Path], object]) -> None:
    """Writes a file whole or not at all, also when the machine goes down."""
    # no two writers share a name, on whatever machine; the suffix stays, as it names the format of a picture
    part = target.with_name(f".{os.getpid()}-{secrets.token_hex(4)}.{target.name}")
    try:
        write(part)
        with part.open("rb") as stream:
            os.fsync(stream.fileno())
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Makes a ``ValueError`` that names the path of an ``OSError``."""
    try:
        yield
    except OSError as error:
        raise ValueError(f"{path}: cannot be written: {error.strerror or error}") from None
