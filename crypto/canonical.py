"""One value, one string of bytes: canonical JSON (RFC 8785), base64url without padding (RFC 7515 section 2), names.

Everything that is signed, hashed or logged as JSON passes here. Reading is strict: a document that is not the canonical form of what
it says is refused, so that no two different byte strings mean the same grant, roster or message. Numbers are integers only; no signed
document holds a float. What a document *means* is left to `grant`, `roster`, `ledger` and `messages`.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from typing import ClassVar, NoReturn, Self, TypeAlias

import rfc8785

from crypto.errors import FieldError, MisuseError, NotCanonicalError, OversizedError

JsonValue: TypeAlias = "bool | int | str | list[JsonValue] | dict[str, JsonValue] | None"
JsonObject: TypeAlias = dict[str, JsonValue]


def canonical_json(value: JsonValue) -> bytes:
    """The RFC 8785 bytes of `value` (UTF-8, keys sorted, no spaces).

    Raises `MisuseError` for a float, an integer beyond 2^53 or anything else that canonical JSON cannot carry.
    """
    try:
        return _written(value)
    except (rfc8785.CanonicalizationError, UnicodeEncodeError, RecursionError) as error:
        raise MisuseError("value cannot be written as canonical JSON") from error


def parse_canonical_json(data: bytes, *, max_bytes: int) -> JsonObject:
    """The object that `data` is the canonical form of; the inverse of `canonical_json`.

    Raises `OversizedError` before parsing, `NotCanonicalError` for invalid UTF-8 or JSON, repeated members, floats, another spelling
    than RFC 8785's, or a document that is not an object.
    """
    if len(data) > max_bytes:
        raise OversizedError(f"document has {len(data)} bytes, at most {max_bytes} are read")
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_members_once, parse_float=_no_float, parse_constant=_no_float)
        canonical = _written(value)
    except NotCanonicalError:
        raise
    except (ValueError, RecursionError) as error:
        raise NotCanonicalError("document is not JSON that RFC 8785 can carry") from error
    if not isinstance(value, dict):
        raise NotCanonicalError("document is not a JSON object")
    if canonical != data:
        raise NotCanonicalError("document is not in RFC 8785 canonical form")
    return value


def b64url_encode(data: bytes) -> str:
    """Base64url without padding (RFC 7515 section 2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def b64url_decode(text: str) -> bytes:
    """Inverse of `b64url_encode`; `NotCanonicalError` for padding, foreign characters or stray low bits."""
    try:
        data = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (ValueError, binascii.Error) as error:
        raise NotCanonicalError("text is not base64url without padding") from error
    if b64url_encode(data) != text:
        raise NotCanonicalError("text is not the canonical base64url of its bytes")
    return data


class Name(str):
    """A short identifier that is safe in a log line, a URL and a signed string; the constructor refuses anything else."""

    __slots__ = ()
    pattern: ClassVar[re.Pattern[str]] = re.compile(r"[a-z0-9](?:[a-z0-9._:-]{0,62}[a-z0-9])?")

    def __new__(cls, text: str) -> Self:
        if not cls.pattern.fullmatch(text):
            raise FieldError(f"{cls.__name__} must match {cls.pattern.pattern}")
        return super().__new__(cls, text)


class AgencyId(Name):
    """An agency in the roster, e.g. `northport-pd`."""

    __slots__ = ()


class PersonId(Name):
    """A person of an agency, e.g. `northport-pd:officer-17`. Two roles of one grant never share it (R5)."""

    __slots__ = ()


class KeyId(Name):
    """A key in the roster: 64 hexadecimal digits derived from the key (`signed.key_id`)."""

    __slots__ = ()


class SearchId(Name):
    """A search, 16 random bytes in hex."""

    __slots__ = ()
    pattern = re.compile(r"[0-9a-f]{32}")


class GrantId(Name):
    """A grant, 16 random bytes in hex."""

    __slots__ = ()
    pattern = re.compile(r"[0-9a-f]{32}")


_WRITER = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _written(value: JsonValue) -> bytes:
    """What `rfc8785.dumps` writes. The standard library's encoder is compiled and writes the same wherever the order of code points is
    that of UTF-16 and every number an integer that a double holds; the rest is left to the reference, which takes floats too: they are
    refused here."""
    if _is_plain(value):
        return _WRITER.encode(value).encode("utf-8")
    _refuse_floats(value)
    return rfc8785.dumps(value)


def _is_plain(value: object) -> bool:
    if value is None or isinstance(value, str):
        return True
    if isinstance(value, int):
        return -_LARGEST <= value <= _LARGEST
    if isinstance(value, dict):
        return all(isinstance(name, str) and name.isascii() and _is_plain(member) for name, member in value.items())
    return isinstance(value, list) and all(map(_is_plain, value))


_LARGEST = 2**53 - 1


def _members_once(pairs: list[tuple[str, JsonValue]]) -> JsonObject:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise NotCanonicalError("document repeats a member")
    return members


def _no_float(_text: str) -> NoReturn:
    raise NotCanonicalError("document holds a number that is not an integer")


def _refuse_floats(value: JsonValue) -> None:
    if isinstance(value, float):
        raise MisuseError("signed documents hold integers only")
    if isinstance(value, dict):
        for member in value.values():
            _refuse_floats(member)
    elif isinstance(value, list):
        for item in value:
            _refuse_floats(item)
