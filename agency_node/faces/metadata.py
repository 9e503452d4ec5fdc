"""What a picture's file says beside the picture (camera, place, time, names, previews, other pictures), and the same file without it.

Invariants: the picture's own bytes are copied, never decoded and encoded again, so nothing of it is lost; a part that is not known to be
needed for drawing the picture does not pass; a file without such parts comes out as it went in.

Left to others: whether the file is a picture at all (`image`), turning it upright, which a file can ask for in its metadata only.
"""

from __future__ import annotations

import struct
from typing import Final

_SOI: Final = b"\xff\xd8"
_EOI: Final = 0xD9
_SOS: Final = 0xDA
_APP0: Final = 0xE0
_APP14: Final = 0xEE
_DRAWING: Final = frozenset({*range(0xC0, 0xD0), 0xDB, 0xDC, 0xDD, _SOS}) - {0xC8}
"""Frames, Huffman and arithmetic tables, quantisation, line count, restarts, scans."""
_RESTARTS: Final = frozenset(range(0xD0, 0xD8))

_PNG_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_PNG_DRAWING: Final = frozenset({b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"gAMA", b"cHRM", b"sRGB"})


def bare_jpeg(data: bytes) -> bytes | None:
    """The JPEG without what it says beside the picture; None when its parts cannot be told apart."""
    if not data.startswith(_SOI):
        return None
    kept, place = [_SOI], len(_SOI)
    while place + 2 <= len(data):
        if data[place] != 0xFF:
            return None
        marker = data[place + 1]
        if marker == 0xFF:  # a fill byte
            place += 1
            continue
        if marker == _EOI:
            return b"".join([*kept, b"\xff\xd9"])
        (length,) = struct.unpack_from(">H", data, place + 2) if place + 4 <= len(data) else (0,)
        end = place + 2 + length
        if length < 2 or end > len(data):
            return None
        segment = data[place:end]
        if marker == _SOS:
            end = _end_of_scan(data, end)
            kept.append(data[place:end])
        elif marker == _APP0 and segment[4:9] == b"JFIF\0" and len(segment) >= 18:
            kept.append(b"\xff\xe0\x00\x10" + segment[4:16] + b"\0\0")  # without its preview
        elif marker in _DRAWING or (marker == _APP14 and segment[4:9] == b"Adobe" and length == 14):
            kept.append(segment)
        place = end
    return None


def _end_of_scan(data: bytes, place: int) -> int:
    """Where the first marker after a scan's coded bytes stands."""
    while (place := data.find(b"\xff", place)) >= 0 and place + 1 < len(data):
        if data[place + 1] and data[place + 1] not in _RESTARTS:
            return place
        place += 2
    return len(data)


def bare_png(data: bytes) -> bytes | None:
    """The PNG without what it says beside the picture; None when its parts cannot be told apart."""
    if not data.startswith(_PNG_SIGNATURE):
        return None
    kept, place = [_PNG_SIGNATURE], len(_PNG_SIGNATURE)
    while place + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        end = place + 12 + length
        if end > len(data):
            return None
        if kind in _PNG_DRAWING:
            kept.append(data[place:end])
        elif not kind[0] & 0x20:  # an upper-case letter: the picture cannot be drawn without it
            return None
        if kind == b"IEND":
            return b"".join(kept)
        place = end
    return None
