"""Looks for secrets in bytes: what a party received, stored and logged must not hold what it may not learn, in any form.

A secret is given as bytes, a text, a number (a score) or an array (a vector). Looked for are its fragments too: sixteen consecutive bytes,
eight consecutive coordinates, in every width and byte order, as text, as numbers with any number of digits in any list. The bytes are
looked through as they are and again after taking off what may lie around a value, one inside the other: base64 of both alphabets at every
alignment, hexadecimal, HTTP chunks, zlib, gzip, deflate. What cannot be looked into (zstd) is a finding itself.

Invariants: a needle is long enough that random bytes do not hold it (one run in 10,000 over 50 MB at worst); a finding names secret, form
and place, never a value. Left to others: what is collected, and which secrets a party may know (`test_leaks`).
"""

from __future__ import annotations

import json
import re
import zlib
from base64 import b64decode
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, quote_plus

import numpy as np
import numpy.typing as npt

Secret = bytes | str | float | npt.NDArray[Any]
U8 = npt.NDArray[np.uint8]

CLOSED: Final = "a compressed part that cannot be looked into"
COORDINATES: Final = 8
STRIDE: Final = 4
"""A vector's windows begin at every fourth coordinate: eleven consecutive ones always hold a whole window."""
DEPTH: Final = 3
"""So many wrappings inside one another, such as gzip in base64 in JSON in base64."""
MOST_INFLATED: Final = 1 << 22

_NUMBER: Final = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
_ALONE: Final = re.compile(rb"(?<![0-9A-Za-z])-?\d+(?:\.\d+)?(?![0-9A-Za-z])")
"""A number that is no part of a word: an id in hexadecimal holds three digits that are a score's by chance."""
_CHUNKED: Final = re.compile(rb"transfer-encoding:[ \t]*chunked", re.IGNORECASE)
_CLOSED_ENCODING: Final = re.compile(rb"content-encoding:[ \t]*(?:zstd|br)\b", re.IGNORECASE)
_SEAL_ZSTD: Final = re.compile(rb"\x5e\xa1\x10[\x03\x04].\x02\x00\x00", re.DOTALL)
"""The head of an object that SEAL saved: magic number, length of the head, version, compression (2 is zstd), reserved."""
_SCORE_WORDS: Final = (b"score", b"cosine", b"similarity", b"milli", b"threshold", b"rank")


@dataclass(frozen=True)
class Finding:
    """Where a secret stands: in which of the searched items, inside which wrappings, at which byte of what was inside."""

    secret: str
    form: str
    item: int
    inside: str
    offset: int


@dataclass(frozen=True)
class _Needle:
    secret: str
    form: str
    value: bytes


def find(secrets: Mapping[str, Secret], haystack: Iterable[bytes]) -> list[Finding]:
    """Every secret that stands in the haystack; one finding for a secret in one place of one item."""
    return Searcher(secrets).find(haystack)


class Searcher:
    """Looks for the same secrets again and again: their forms are written out once."""

    def __init__(self, secrets: Mapping[str, Secret]) -> None:
        self._needles = _Needles([_Needle(name, form, value) for name, secret in secrets.items() for form, value in _forms(secret)])
        self._vectors = {name: secret for name, secret in secrets.items() if isinstance(secret, np.ndarray)}
        self._scores = {name: secret for name, secret in secrets.items() if isinstance(secret, float)}

    def find(self, haystack: Iterable[bytes]) -> list[Finding]:
        """As `find`."""
        findings: dict[tuple[str, int, str], Finding] = {}
        for item, whole in enumerate(haystack):
            for inside, data in _parts(bytes(whole), "", DEPTH):
                numbers = (*_numbers_in(data, self._vectors), *_scores_in(data, self._scores))
                for name, form, offset in (*self._needles.found(data), *numbers, *_closed(data)):
                    findings.setdefault((name, item, inside), Finding(name, form, item, inside, offset))
        return list(findings.values())


# --- the forms of a secret --------------------------------------------------------------------------------------------


def _forms(secret: Secret) -> Iterator[tuple[str, bytes]]:
    if isinstance(secret, np.ndarray):
        yield from _vector_forms(secret)
    elif isinstance(secret, bytes):
        yield from (("bytes", window) for window in windows(secret))
    elif isinstance(secret, str):
        yield from _text_forms(secret)
    else:
        yield from ((f"float64 {order}", np.array(secret, f"{order}f8").tobytes()) for order in "<>")


def windows(value: bytes) -> list[bytes]:
    """Pieces of a value such that 31 consecutive bytes of it hold one; pieces that other data holds as well are left out."""
    if len(value) < 32:
        if len(value) < 5:
            raise ValueError("a value of fewer than five bytes stands in random bytes by chance: give what stands around it too")
        return [value]
    for size, least in ((16, 6), (64, 3)):
        starts = [*range(0, len(value) - size + 1, size), max(len(value) - size, 0)]
        pieces = [value[start : start + size] for start in starts]
        telling = [one for one in pieces if len(set(one)) >= least and max(map(one.count, set(one))) <= 0.75 * len(one)]
        if telling:
            return telling
    raise ValueError("this value is no secret: it says the same all through")


def _text_forms(text: str) -> Iterator[tuple[str, bytes]]:
    for form, variant in (("text", text), ("lower case", text.lower()), ("upper case", text.upper())):
        yield form, variant.encode("utf-8")
        yield f"{form}, UTF-16", variant.encode("utf-16-le")
        yield f"{form}, UTF-16 big-endian", variant.encode("utf-16-be")
        yield f"{form}, JSON", json.dumps(variant)[1:-1].encode("ascii")
        yield f"{form}, in a URL", quote(variant, safe="").encode("ascii")
        yield f"{form}, in a form", quote_plus(variant).encode("ascii")


def _vector_forms(vector: npt.NDArray[Any]) -> Iterator[tuple[str, bytes]]:
    """Every window in every width that holds the values; byte orders differ from two bytes on."""
    size = min(COORDINATES, vector.size)
    starts = sorted({*range(0, vector.size - size + 1, STRIDE), vector.size - size})
    for code in ("i1", "i2", "i4", "i8", "f2", "f4", "f8"):
        widest = np.iinfo(code).max if code[0] == "i" else float(np.finfo(code).max)
        if np.abs(vector.astype(np.float64)).max() > widest or (code[0] == "i" and vector.dtype.kind == "f"):
            continue
        for order in "<>" if code != "i1" else "<":
            raw = vector.astype(f"{order}{code}")
            for start in starts:
                value = raw[start : start + size].tobytes()
                if len(set(value)) >= min(5, size):
                    yield f"{code} {order}", value


# --- many needles at once ---------------------------------------------------------------------------------------------


class _Needles:
    """Byte strings looked for in one pass, each by the eight bytes of it that are least like other data: a table of their first three picks
    places, all eight decide."""

    _BLOCK = 1 << 22

    def __init__(self, needles: list[_Needle]) -> None:
        self._short = [one for one in needles if len(one.value) < 8]
        self._by_head: dict[int, list[tuple[_Needle, int]]] = {}
        for one in needles:
            if len(one.value) >= 8:
                at = max(range(0, len(one.value) - 7, 4), key=lambda start: len(set(one.value[start : start + 8])))
                self._by_head.setdefault(int.from_bytes(one.value[at : at + 8], "little"), []).append((one, at))
        self._heads = np.array(sorted(self._by_head), np.uint64)
        self._table = np.zeros(1 << 24, np.bool_)
        self._table[(self._heads & np.uint64(0xFFFFFF)).astype(np.uint32)] = True

    def found(self, data: bytes) -> Iterator[tuple[str, str, int]]:
        """(secret, form, offset) of every needle in `data`."""
        for one in self._short:
            at = data.find(one.value)
            while at >= 0:
                if _in_text(data, at, len(one.value)):
                    yield one.secret, one.form, at
                    break
                at = data.find(one.value, at + 1)
        if self._heads.size:
            for at, head in self._heads_in(np.frombuffer(data, np.uint8)):
                for one, before in self._by_head[head]:
                    if at >= before and data.startswith(one.value, at - before):
                        yield one.secret, one.form, at - before

    def _heads_in(self, data: U8) -> Iterator[tuple[int, int]]:
        for start in range(0, data.size - 7, self._BLOCK):
            block = data[start : start + self._BLOCK + 7]
            wide = block.astype(np.uint32)
            beginnings = wide[:-7] | wide[1:-6] << np.uint32(8) | wide[2:-5] << np.uint32(16)
            places = np.flatnonzero(self._table[beginnings])
            heads = np.ascontiguousarray(block[places[:, None] + np.arange(8)]).view("<u8").reshape(-1)
            nearest = np.minimum(np.searchsorted(self._heads, heads), self._heads.size - 1)
            for index in np.flatnonzero(self._heads[nearest] == heads):
                yield start + int(places[index]), int(heads[index])


def _in_text(data: bytes, at: int, length: int) -> bool:
    """Whether the bytes around a short needle are text too: five bytes alone stand in random bytes now and then."""
    around = data[max(at - 4, 0) : at] + data[at + length : at + length + 4]
    return all(32 <= byte < 127 or byte in b"\t\r\n" for byte in around)


# --- numbers in texts -------------------------------------------------------------------------------------------------


def _numbers_in(data: bytes, vectors: Mapping[str, npt.NDArray[Any]]) -> Iterator[tuple[str, str, int]]:
    """Windows of vectors that stand as decimal numbers in a row, as in a JSON list or what NumPy prints."""
    for start, run in _runs(data, b"0123456789+-.eE,; \t\r\n[]()", 8):
        tokens = _NUMBER.findall(run)
        if len(tokens) < 3:
            continue
        values = np.array([float(token) for token in tokens])
        slack = np.array([0.51 * 10.0 ** -len(token.partition(b".")[2]) if b"e" not in token.lower() else 1e-6 for token in tokens])
        for name, vector in vectors.items():
            if any(_match(values[at : at + 512], slack[at : at + 512], vector) for at in range(0, len(tokens), 500)):
                yield name, "list of numbers", start


def _match(values: npt.NDArray[np.float64], slack: npt.NDArray[np.float64], vector: npt.NDArray[Any]) -> bool:
    """Whether six of these numbers in a row are a window of the vector: exactly, or as near as their digits say."""
    width = min(6, vector.size)
    near = np.abs(values[:, None] - vector.astype(np.float64)[None]) <= (slack[:, None] if vector.dtype.kind == "f" else 0.0)
    if vector.dtype.kind == "f":
        near &= (slack < 0.01)[:, None]  # a list of small whole numbers is near to any vector of small fractions
    return len(values) >= width and _has_diagonal(near, width)


def _has_diagonal(near: npt.NDArray[np.bool_], width: int) -> bool:
    rows, columns = near.shape[0] - width + 1, near.shape[1] - width + 1
    along = np.ones((rows, columns), np.bool_)
    for step in range(width):
        along &= near[step : step + rows, step : step + columns]
    return bool(along.any())


def _scores_in(data: bytes, scores: Mapping[str, float]) -> Iterator[tuple[str, str, int]]:
    """A score as a decimal fraction of three digits or more, or, beside a word that says what it is, in thousandths or per cent."""
    if not scores:
        return
    fractions = [(name, text) for name, score in scores.items() for text in {f"{score:.3f}", f"{int(score * 1000) / 1000:.3f}"}]
    for name, text in fractions:
        for at in _all(data, text.encode("ascii")):
            if _in_text(data, at, len(text)) and not data[max(at - 1, 0) : at].isdigit():
                yield name, "decimal fraction", at
    lower = data.lower()
    for word in _SCORE_WORDS:
        for at in _all(lower, word):
            for token in _ALONE.findall(data[at : at + len(word) + 24])[:2]:
                value, digits = float(token), len(token.lstrip(b"-0.").replace(b".", b""))
                for name, score in scores.items():
                    if digits >= 3 and any(abs(value - form) <= slack for form, slack in ((score * 1000, 1.0), (score * 100, 0.1))):
                        yield name, "number beside a word", at


def _all(data: bytes, value: bytes) -> Iterator[int]:
    at = data.find(value)
    while at >= 0:
        yield at
        at = data.find(value, at + 1)


# --- wrappings --------------------------------------------------------------------------------------------------------


def _parts(data: bytes, inside: str, depth: int) -> Iterator[tuple[str, bytes]]:
    """The bytes themselves, then what is inside of them, and inside of that."""
    yield inside, data
    if depth == 0:
        return
    for name, opened in _opened(data):
        if len(opened) >= 8:
            yield from _parts(opened, f"{inside} {name}".strip(), depth - 1)


def _opened(data: bytes) -> Iterator[tuple[str, bytes]]:
    """What each kind of wrapping gives, all places of a kind in one; between two places stand zeros."""
    gap = bytes(16)
    base64 = [run.translate(_STANDARD, b"\r\n") for _, run in _runs(data, _BASE64, 10)]
    for shift in range(4):
        yield "base64", gap.join(_decoded(run[shift:]) for run in base64)
    hexadecimal = [run for _, run in _runs(data, b"0123456789abcdefABCDEF", 16)]
    for shift in range(2):
        yield "hexadecimal", gap.join(bytes.fromhex(run[shift : len(run) - (len(run) - shift) % 2].decode("ascii")) for run in hexadecimal)
    yield "chunks", gap.join(_dechunked(data))
    yield "compression", gap.join(_inflated(data))


def _decoded(text: bytes) -> bytes:
    """Base64 with its padding put back; a last character that holds no whole byte is left out."""
    whole = text[:-1] if len(text) % 4 == 1 else text
    return b64decode(whole + b"=" * (-len(whole) % 4))


_BASE64: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/-_\r\n"
_STANDARD: Final = bytes.maketrans(b"-_", b"+/")


def _runs(data: bytes, alphabet: bytes, least: int) -> Iterator[tuple[int, bytes]]:
    """Stretches of at least `least` bytes that are all of the alphabet."""
    member = np.zeros(256, np.bool_)
    member[np.frombuffer(alphabet, np.uint8)] = True
    inner, width = member[np.frombuffer(data, np.uint8)], 1
    while width < least:  # inner[i]: the `width` bytes from i on are all of the alphabet
        step = min(width, least - width)
        inner = inner[:-step] & inner[step:]
        width += step
    places = np.flatnonzero(inner)
    if places.size:
        breaks = np.flatnonzero(np.diff(places) > 1)
        for first, last in zip(places[np.r_[0, breaks + 1]], places[np.r_[breaks, places.size - 1]], strict=True):
            yield int(first), data[int(first) : int(last) + least]


def _dechunked(data: bytes) -> Iterator[bytes]:
    """Bodies of HTTP messages in chunks, put together."""
    for head in _CHUNKED.finditer(data):
        at, body = data.find(b"\r\n\r\n", head.end()) + 4, bytearray()
        while at >= 4 and (end := data.find(b"\r\n", at)) >= 0 and (size := data[at:end].partition(b";")[0].strip()):
            if not re.fullmatch(rb"[0-9A-Fa-f]{1,8}", size) or int(size, 16) == 0:
                break
            body += data[end + 2 : end + 2 + int(size, 16)]
            at = end + 4 + int(size, 16)
        yield bytes(body)


def _inflated(data: bytes) -> Iterator[bytes]:
    """Everything that begins like a zlib or gzip stream; deflate without a head at the places where it can stand: at the start, after
    HTTP headers, in a zip file."""
    array = np.frombuffer(data, np.uint8)
    first, second = array[:-1], array[1:]
    likely = np.flatnonzero((first & 0x8F) == 8)
    pairs = first[likely].astype(np.uint16) << np.uint16(8) | second[likely]
    starts = [(int(at), 15) for at in likely[(pairs % 31 == 0) & (pairs & 0x20 == 0)]]
    starts += [(at, 31) for at in _all(data, b"\x1f\x8b\x08")]
    starts += [(0, -15), *((at + 4, -15) for at in _all(data, b"\r\n\r\n"))]
    for at in _all(data, b"PK\x03\x04"):
        lengths = data[at + 26 : at + 30]
        starts.append((at + 30 + int.from_bytes(lengths[:2], "little") + int.from_bytes(lengths[2:], "little"), -15))
    view = memoryview(data)
    for at, kind in starts:
        inflated = _inflate(view[at:], kind)
        if len(inflated) >= 8:
            yield inflated


def _inflate(view: memoryview, kind: int) -> bytes:
    """As much as can be read: a stream that is cut or damaged further on still gives its beginning."""
    stream, out, at = zlib.decompressobj(kind), bytearray(), 0
    for size in (64, 448, *[1 << 14] * 512):
        try:
            out += stream.decompress(view[at : at + size])
        except zlib.error:
            break
        at += size
        if stream.eof or at >= len(view) or len(out) > MOST_INFLATED:
            break
    return bytes(out)


def _closed(data: bytes) -> Iterator[tuple[str, str, int]]:
    """Parts that somebody could read and this module cannot."""
    for pattern, form in ((_SEAL_ZSTD, "SEAL object with zstd"), (_CLOSED_ENCODING, "HTTP content encoding")):
        found = pattern.search(data)
        if found is not None:
            yield CLOSED, form, found.start()
    for at in _all(data, b"\x28\xb5\x2f\xfd"):
        if _is_zstd(data, at + 4):
            yield CLOSED, "zstd frame", at


def _is_zstd(data: bytes, at: int) -> bool:
    """Whether a whole frame follows its magic number (RFC 8878, 3.1.1): no reserved bit, blocks of legal size up to a last one."""
    if at >= len(data) or data[at] & 0x08:
        return False
    descriptor = data[at]
    single, sizes = bool(descriptor & 0x20), (0, 2, 4, 8)
    at += 1 + (not single) + (0, 1, 2, 4)[descriptor & 3] + (sizes[descriptor >> 6] or int(single))
    while at + 3 <= len(data):
        head = int.from_bytes(data[at : at + 3], "little")
        kind, size = head >> 1 & 3, head >> 3
        if kind == 3 or size > 1 << 17:
            return False
        at += 3 + (1 if kind == 1 else size)
        if head & 1:
            return at <= len(data)
    return False
