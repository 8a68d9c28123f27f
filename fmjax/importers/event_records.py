"""Scalars of TensorBoard event files, read many records at once.

A file is a row of records, each with an ``Event`` message of protocol buffers inside::

    length (8 bytes) | its checksum (4) | event (length) | its checksum (4)
    event: wall time, step, summary: values with a tag and a number, or a tensor of one number

The events of one tag differ in their time, step and number only. So records are sorted by length. Of those of one
length, the first is taken apart in Python: that gives a layout, which is where its parts lie and which bytes are keys
and lengths. All records with the same keys and lengths there are then read by array operations, and the next layout is
taken from the first record left.
"""

from collections.abc import Iterator
from struct import Struct
from typing import NamedTuple

import numpy as np

from fmjax._checks import require

_FRAME, _LONGEST_CHECKED = 12, 2**16
_BY_SIZE = {
    (1, 4): "<f4",  # float
    (2, 8): "<f8",  # double
    (3, 4): "<i4",
    (9, 8): "<i8",
    (19, 2): "<f2",  # half
    (14, 2): "<u2",  # bfloat16, the upper half of a float
}
"""Types of numbers in tensors, by their number in the protocol and their bytes."""

_PACKED = {5: 1, 6: 2}
"""Types of the fields of tensors with lists of floats and doubles."""

_COUNTED = {7: 3, 10: 9}
"""Types of the fields of tensors with lists of integers, which are written as counts."""

_COUNT = "count"


class ScalarPlace(NamedTuple):
    """A tag and its number, by their places in a record."""

    tag: slice
    number: slice
    kind: str


class EventLayout(NamedTuple):
    """Where the parts of an event lie."""

    fixed: np.ndarray
    """``[bytes]`` bits that all events of this layout share: keys and lengths, and whether a count goes on."""
    step: slice
    parts: list[ScalarPlace]


def scalars(content: bytes) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Steps and values by tag, in the order of the file. A record cut off at the end is left out.

    Raises:
      ValueError: a record whose checksum is wrong; its place is named.
    """
    starts, lengths = _records(content)
    array = np.frombuffer(content, np.uint8)
    found: dict[str, list[tuple[np.ndarray, np.ndarray, np.ndarray]]] = {}
    for length in np.unique(lengths):
        order = np.flatnonzero(lengths == length)
        rows = np.lib.stride_tricks.sliding_window_view(array, int(length) + 4)[starts[order]]
        _check(rows, starts[order])
        for tag, where, step, value in _values(rows[:, :-4]):
            found.setdefault(tag, []).append((order[where], step, value))
    return {tag: _in_order(parts) for tag, parts in found.items()}


def _in_order(parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    place, step, value = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(place, kind="stable")
    return step[order], value[order]


def _records(content: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Where the events begin, and their lengths."""
    at, last, heads, length_at = 0, len(content) - _FRAME, [], Struct("<Q").unpack_from
    while at <= last:
        heads.append(at)
        at += length_at(content, at)[0] + _FRAME + 4
    places = np.array(heads, np.int64)
    if heads:
        _check(np.lib.stride_tricks.sliding_window_view(np.frombuffer(content, np.uint8), _FRAME)[places], places)
    ends = np.append(places[1:], min(at, 2**62))[: places.size]
    kept = ends <= len(content)
    return places[kept] + _FRAME, (ends - places)[kept] - _FRAME - 4


# ---------------------------------------------------------------------------------------------------------------------
# Checksums: CRC-32C, masked as the format has it
# ---------------------------------------------------------------------------------------------------------------------


def _crc_table() -> np.ndarray:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(0x82F63B78), table >> 1)
    return table


_TABLE = _crc_table()


def _check(rows: np.ndarray, places: np.ndarray) -> None:
    """Refuses rows whose last four bytes are not the checksum of those before; very long ones hold no scalars."""
    if rows.shape[1] > _LONGEST_CHECKED:
        return
    crc = np.full(rows.shape[0], 0xFFFFFFFF, np.uint32)
    for column in np.ascontiguousarray(rows[:, :-4].T):
        crc = _TABLE[(crc ^ column) & 0xFF] ^ (crc >> 8)
    crc = ~crc
    masked = ((crc >> 15) | (crc << 17)) + np.uint32(0xA282EAD8)
    wrong = masked != np.ascontiguousarray(rows[:, -4:]).view("<u4").ravel()
    require(not wrong.any(), f"expected an event file, but the checksum at byte {places[np.argmax(wrong)]} is wrong")


# ---------------------------------------------------------------------------------------------------------------------
# Events
# ---------------------------------------------------------------------------------------------------------------------


def _values(rows: np.ndarray) -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
    """Tag, places, steps and values of the scalars in events of one length."""
    left = np.arange(rows.shape[0])
    while left.size:
        layout = _layout(rows[left[0]].tobytes())
        like = ((rows[left] ^ rows[left[0]]) & layout.fixed == 0).all(1)
        where, left = left[like], left[~like]
        step = _counts(rows[where, layout.step])
        for part in layout.parts:
            numbers = _numbers_of(rows[where, part.number], part.kind)
            for tag, of in _by_tag(rows[where, part.tag]):
                yield tag, where[of], step[of], numbers[of]


def _by_tag(tags: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    if not tags.shape[1]:
        return
    names, of = np.unique(np.ascontiguousarray(tags).view(f"S{tags.shape[1]}").ravel(), return_inverse=True)
    for i, name in enumerate(names):
        yield name.decode("utf-8", errors="replace"), np.flatnonzero(of == i)


def _counts(rows: np.ndarray) -> np.ndarray:
    """Numbers of seven bits a byte, the lowest first."""
    shifts = 7 * np.arange(rows.shape[1], dtype=np.uint64)
    return ((rows & 0x7F).astype(np.uint64) << shifts).sum(1, dtype=np.uint64).view(np.int64).astype(float)


def _numbers_of(rows: np.ndarray, kind: str) -> np.ndarray:
    if kind == _COUNT:
        return _counts(rows)
    numbers = np.ascontiguousarray(rows).view(kind).ravel()
    return (numbers.astype("<u4") << 16).view("<f4").astype(float) if kind == "<u2" else numbers.astype(float)


class _Field(NamedTuple):
    number: int
    wire: int
    """0 a count, 1 eight bytes, 2 a message or text, 5 four bytes."""
    content: slice


def _layout(event: bytes) -> EventLayout:
    """The layout of one event.

    Raises:
      ValueError: the bytes are no event.
    """
    fixed = np.full(len(event), 0xFF, np.uint8)
    step, parts = slice(0, 0), []
    for field in _fields(event, 0, len(event)):
        if (field.number, field.wire) == (5, 2):
            for value in _fields(event, field.content.start, field.content.stop):
                parts += _part(event, value.content, fixed) if (value.number, value.wire) == (1, 2) else []
            continue
        if (field.number, field.wire) == (2, 0):
            step = field.content
        fixed[field.content] = 0x80 if field.wire == 0 else 0
    return EventLayout(fixed, step, parts)


def _part(event: bytes, value: slice, fixed: np.ndarray) -> list[ScalarPlace]:
    """The tag and number of one value of a summary; none where it is no number. Clears ``fixed`` where these differ."""
    tag, found = slice(0, 0), None
    for field in _fields(event, value.start, value.stop):
        if (field.number, field.wire) == (8, 2):
            found = _number_of_tensor(event, field.content, fixed) or found
            continue
        tag = field.content if (field.number, field.wire) == (1, 2) else tag
        found = (field.content, "<f4") if (field.number, field.wire) == (2, 5) else found
        fixed[field.content] = 0x80 if field.wire == 0 else 0
    return [ScalarPlace(tag, *found)] if found is not None else []


def _number_of_tensor(event: bytes, tensor: slice, fixed: np.ndarray) -> tuple[slice, str] | None:
    """Place and type of the number in a tensor of one; None for other tensors. The type stays fixed."""
    fields = list(_fields(event, tensor.start, tensor.stop))
    dtype = next((event[field.content.start] for field in fields if (field.number, field.wire) == (1, 0)), 0)
    found = None
    for field in fields:
        size = field.content.stop - field.content.start
        if (field.number == 4 and field.wire == 2) or _PACKED.get(field.number) == dtype:
            kind = _BY_SIZE.get((dtype, size))
            found = (field.content, kind) if kind is not None else found
        if field.wire != 0:
            fixed[field.content] = 0
        if dtype and _COUNTED.get(field.number) == dtype:
            fixed[field.content] = 0x80
            found = (field.content, _COUNT) if _count(event, *_ends(field.content))[1] == field.content.stop else found
    return found


def _ends(content: slice) -> tuple[int, int]:
    return content.start, content.stop


def _fields(event: bytes, at: int, stop: int) -> Iterator[_Field]:
    """The fields of a message that lies between two places."""
    while at < stop:
        key, at = _count(event, at, stop)
        number, wire = key >> 3, key & 7
        require(wire in (0, 1, 2, 5), f"expected an event, found a field of type {wire}")
        if wire == 2:
            size, at = _count(event, at, stop)
        else:
            size = {0: _count(event, at, stop)[1] - at if wire == 0 else 0, 1: 8, 5: 4}[wire]
        require(at + size <= stop, "expected an event, found a field that is cut off")
        yield _Field(number, wire, slice(at, at + size))
        at += size


def _count(event: bytes, at: int, stop: int) -> tuple[int, int]:
    """A number of seven bits a byte, and where it ends."""
    value = 0
    for i in range(10):
        require(at + i < stop, "expected an event, found a number that is cut off")
        value |= (event[at + i] & 0x7F) << (7 * i)
        if event[at + i] < 0x80:
            return value, at + i + 1
    raise ValueError("expected an event, found a number without an end")
