"""Brush run lengths, bit for bit as Label Studio's own SDK writes them, without a loop over pixels or bits.

The format is thi.ng/rle-pack over the RGBA image, flattened row by row. Most significant bit first: 32 bits number of
values, 5 bits word size - 1, four times 4 bits field size - 1; then tokens: 1 bit ``x``, 2 bits index of the field
size, that many bits of count - 1, and one value that repeats (``x`` = 1) or count values (``x`` = 0).

Two ideas make it fast. Encoding: a token fits 27 bits, so all tokens are shifted into 32-bit words and added up at
once; runs are found on one channel, since all four are equal. Decoding: where a repeating token ends depends on its
first three bits alone, so one table look-up gives the way onwards from every bit of the stream, and following that
chain is all that is left to do one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mpamatch.errors import BadInput

_CHANNELS: Final = 4
_HEADER_BITS: Final = 53
_WORD_BITS: Final = 8
_SIZES: Final = (3, 4, 8, 16)
_LONGEST: Final = 1 << 16
MAX_PIXELS: Final = 1 << 28  # 16384 x 16384: a guard against headers that claim more than anyone can draw

Bytes = NDArray[np.uint8]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class _Runs:
    """Runs of equal values: how many values each holds, and which."""

    lengths: Ints
    values: Bytes


def encode_rle(mask: NDArray[np.bool_] | Bytes) -> list[int]:
    """The bytes, as a JSON list, of a mask (H, W): bool (True becomes 255) or uint8 (kept as it is).

    Equal to ``label_studio_sdk.converter.brush.mask2rle``, including its spare zero byte. Raises BadInput for another
    shape or type.

    >>> encode_rle(np.ones((8, 8), bool))
    [0, 0, 1, 0, 57, 27, 254, 255, 255, 0]
    """
    if mask.ndim != 2 or mask.size == 0 or mask.dtype not in (np.bool_, np.uint8):
        raise BadInput("mask", f"{mask.dtype} of shape {mask.shape}", "give a bool or uint8 array (height, width)")
    if mask.size > MAX_PIXELS:
        raise BadInput("mask", f"{mask.shape[1]} x {mask.shape[0]} px is too large", "label it in tiles")
    runs = _find_runs(np.ascontiguousarray(mask).reshape(-1).view(np.uint8))
    values = runs.values * np.uint8(255) if mask.dtype == np.bool_ else runs.values
    return _pack(_Runs(runs.lengths * _CHANNELS, values), mask.size * _CHANNELS)


def decode_rle(rle: Sequence[int], width: int, height: int) -> Bytes:
    """The alpha channel, uint8 (height, width), of a brush region.

    Every count and position is checked. Raises BadInput when the list is not bytes, is of another size than
    ``width`` x ``height``, ends early, runs over, or uses another word size than 8 bits.
    """
    data = _as_bytes(rle)
    sizes = _read_header(data, width, height)
    count = width * height * _CHANNELS
    runs = _read_repeats(data, sizes, count) or _read_any(data, sizes, count)
    return _alpha(runs, width * height).reshape(height, width)


# Encoding


def _find_runs(flat: Bytes) -> _Runs:
    ends = np.append(np.flatnonzero(flat[1:] != flat[:-1]), flat.size - 1)
    return _Runs(np.diff(ends, prepend=-1), flat[ends])


def _split(runs: _Runs) -> tuple[_Runs, Ints]:
    """Runs over 65,536 values in pieces; and the field index of each piece, by the length before splitting."""
    index = np.searchsorted([1 << s for s in _SIZES[:-1]], runs.lengths)
    pieces = (runs.lengths - 1) // _LONGEST + 1
    if not (pieces > 1).any():
        return runs, index
    lengths = np.full(int(pieces.sum()), _LONGEST, dtype=np.int64)
    lengths[np.cumsum(pieces) - 1] = (runs.lengths - 1) % _LONGEST + 1
    return _Runs(lengths, np.repeat(runs.values, pieces)), np.repeat(index, pieces)


def _pack(runs: _Runs, count: int) -> list[int]:
    pieces, index = _split(runs)
    sizes = np.array(_SIZES, dtype=np.int64)[index]
    bits = 3 + sizes + _WORD_BITS
    tokens = ((4 | index) << (sizes + _WORD_BITS)) | ((pieces.lengths - 1) << _WORD_BITS) | pieces.values
    header = (_SIZES[0] - 1) << 12 | (_SIZES[1] - 1) << 8 | (_SIZES[2] - 1) << 4 | (_SIZES[3] - 1)
    tokens = np.concatenate(([count, (_WORD_BITS - 1) << 16 | header], tokens))
    bits = np.concatenate(([32, 21], bits))
    ends = np.cumsum(bits)
    total = int(ends[-1])
    starts = ends - bits
    # A token lies in one or two 32-bit words. Bits never overlap, so sums are unions, and float64 holds them exactly.
    at, shifted = starts >> 5, tokens.astype(np.uint64) << (64 - (starts & 31) - bits).astype(np.uint64)
    high, low = shifted >> np.uint64(32), shifted & np.uint64(0xFFFFFFFF)
    words = np.bincount(at, high, (total >> 5) + 2) + np.bincount(at + 1, low, (total >> 5) + 2)
    # Like the SDK: always at least one zero bit of padding, so a whole zero byte when already aligned.
    return list(words.astype(">u4").tobytes()[: total // 8 + 1])


# Decoding


def _as_bytes(rle: Sequence[int]) -> bytes:
    if isinstance(rle, str):
        raise BadInput("rle", "is text", "give a list of integers 0..255")
    try:
        return bytes(rle)
    except (TypeError, ValueError) as error:
        raise BadInput("rle", f"is not a list of bytes ({error})", "give integers 0..255") from error


def _read_header(data: bytes, width: int, height: int) -> tuple[int, ...]:
    if width < 1 or height < 1 or width * height > MAX_PIXELS:
        raise BadInput("rle", f"size {width} x {height} px", "give the image's width and height")
    if len(data) * 8 < _HEADER_BITS:
        raise BadInput("rle", f"has {len(data)} bytes, too few for a header", "send the region again")
    head = int.from_bytes(data[:7], "big") >> (56 - _HEADER_BITS)
    count, word_bits = head >> 21, ((head >> 16) & 31) + 1
    if count != width * height * _CHANNELS:
        problem = f"holds {count} values, not {width} x {height} x {_CHANNELS}"
        raise BadInput("rle", problem, "the region's size must be that of the image")
    if word_bits != _WORD_BITS:
        raise BadInput("rle", f"has words of {word_bits} bits", "use 8 bits per value")
    return tuple(((head >> shift) & 15) + 1 for shift in (12, 8, 4, 0))


@lru_cache(maxsize=8)
def _step_table(sizes: tuple[int, ...]) -> NDArray[np.uint64]:
    """Ten bits -> for each of the first eight, the length of a repeating token that begins there, 0 if none does."""
    words = np.arange(1024)[:, None] >> (7 - np.arange(8))[None, :]
    lengths = np.array([0] * 4 + [3 + s + _WORD_BITS for s in sizes], dtype=np.uint8)
    return lengths[words & 7].view(np.uint64).reshape(-1)


def _read_repeats(data: bytes, sizes: tuple[int, ...], count: int) -> _Runs | None:
    """All runs when every token up to ``count`` values repeats one value, as every mask's do; else None."""
    array = np.frombuffer(data + bytes(8), np.uint8)
    ten_bits = (array[:-8].astype(np.intp) << 2) | (array[1:-7] >> 6)
    steps = _step_table(sizes)[ten_bits].tobytes() + bytes(32)  # past the end: 0, so the walk stops
    seen = bytearray(len(steps))
    at, step = _HEADER_BITS, steps[_HEADER_BITS]
    while step:
        seen[at] = 1
        at += step
        step = steps[at]
    starts = np.flatnonzero(np.frombuffer(seen, np.bool_))
    runs = _read_tokens(array, starts, np.array(sizes, dtype=np.uint64))
    ends = np.cumsum(runs.lengths)
    last = int(np.searchsorted(ends, count))
    if last == len(ends):
        return None
    if ends[last] != count or int(starts[last]) + steps[starts[last]] > len(data) * 8:
        raise _ends_badly()
    return _Runs(runs.lengths[: last + 1], runs.values[: last + 1])


def _read_tokens(array: Bytes, starts: Ints, sizes: NDArray[np.uint64]) -> _Runs:
    """Count and value of the repeating tokens that begin at these bits; ``array`` is padded by 8 bytes."""
    bits = _bits_at(array, starts)
    size = sizes[(bits >> np.uint64(61)) & np.uint64(3)]
    low = bits >> (np.uint64(61 - _WORD_BITS) - size)
    lengths = ((low >> np.uint64(_WORD_BITS)) & ((np.uint64(1) << size) - np.uint64(1))).astype(np.int64) + 1
    return _Runs(lengths, low.astype(np.uint8))


def _bits_at(array: Bytes, starts: Ints) -> NDArray[np.uint64]:
    """The 57 bits from each position on, at the top of a 64-bit word."""
    rows = np.lib.stride_tricks.sliding_window_view(array, 8)[starts >> 3]
    words = np.ascontiguousarray(rows).view(">u8").reshape(-1).astype(np.uint64)
    return words << (starts & 7).astype(np.uint64)


def _read_any(data: bytes, sizes: tuple[int, ...], count: int) -> _Runs:
    """The general case, token by token: some values are listed one by one (``x`` = 0)."""
    starts, lengths, listed = _walk(data, sizes, count)
    # A listed value is a run of one whose value lies where the list puts it.
    repeats = np.where(listed, lengths, 1)
    within = np.arange(int(repeats.sum())) - np.repeat(np.cumsum(repeats) - repeats, repeats)
    at = np.repeat(starts, repeats) + within * _WORD_BITS
    values = (_bits_at(np.frombuffer(data + bytes(8), np.uint8), at) >> np.uint64(64 - _WORD_BITS)).astype(np.uint8)
    return _Runs(np.where(np.repeat(listed, repeats), 1, np.repeat(lengths, repeats)), values)


def _walk(data: bytes, sizes: tuple[int, ...], count: int) -> tuple[Ints, Ints, NDArray[np.bool_]]:
    """Per token: the bit where its first value begins, its count, and whether its values are listed."""
    tokens: list[tuple[int, int, bool]] = []
    at, total, bits = _HEADER_BITS, 0, len(data) * 8
    while total < count:
        window = int.from_bytes(data[at >> 3 : (at >> 3) + 4].ljust(4, b"\0"), "big") << (at & 7) & 0xFFFFFFFF
        size = sizes[(window >> 29) & 3]
        length = ((window >> (29 - size)) & ((1 << size) - 1)) + 1
        listed = window < 0x80000000
        tokens.append((at + 3 + size, length, listed))
        at += 3 + size + (_WORD_BITS * length if listed else _WORD_BITS)
        total += length
        if at > bits or total > count:
            raise _ends_badly()
    table = np.array(tokens, dtype=np.int64)
    return table[:, 0], table[:, 1], table[:, 2].astype(bool)


def _ends_badly() -> BadInput:
    return BadInput("rle", "does not end at the last pixel: it is cut short or damaged", "send the region again")


def _alpha(runs: _Runs, pixels: int) -> Bytes:
    """Every fourth value, without expanding the other three."""
    ends = np.cumsum(runs.lengths) // _CHANNELS
    drawn = np.flatnonzero(runs.values)
    if len(drawn) > 2000:
        return np.repeat(runs.values, np.diff(ends, prepend=0))
    alpha = np.zeros(pixels, np.uint8)  # untouched pages cost nothing
    starts = np.concatenate(([0], ends[:-1]))[drawn]
    for first, last, value in zip(starts.tolist(), ends[drawn].tolist(), runs.values[drawn].tolist(), strict=True):
        alpha[first:last] = value
    return alpha
