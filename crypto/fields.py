"""Strict reading of JSON objects into typed values, member by member, and the checks that document types share.

`Fields` looks at form only: a member has the right JSON type and spelling, none is missing, none is left over. Ranges and rules belong
to the dataclass that is built from the values, because it must refuse them no matter who builds it; the `check_*` functions below are what
those constructors use. Error messages name the field and the rule, never the value: a value may be a docket or a person.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence
from datetime import date, datetime
from typing import Final, TypeVar

from crypto.canonical import JsonObject, JsonValue, Name, b64url_decode
from crypto.errors import FieldError
from crypto.moments import parse_day, parse_moment

DIGEST_BYTES: Final = 32
MAX_INTEGER: Final = 2**53 - 1
"""The largest integer that RFC 8785 carries (section 3.2.2.3)."""

_HEX_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_NameT = TypeVar("_NameT", bound=Name)
_EnumT = TypeVar("_EnumT", bound=enum.StrEnum)
_OrderedT = TypeVar("_OrderedT", str, bytes)


class Fields:
    """One JSON object being read. Every member is asked for once, then `close()` refuses an object that has more."""

    def __init__(self, value: JsonValue, where: str) -> None:
        if not isinstance(value, dict):
            raise FieldError(f"{where} is not an object")
        self._value: JsonObject = value
        self._where = where
        self._read: set[str] = set()

    def close(self) -> None:
        """Raise `FieldError` if a member was not asked for."""
        if self._value.keys() - self._read:
            raise FieldError(f"{self._where} has an unknown member")

    def as_object(self) -> JsonObject:
        """The object itself, to be read again or signed."""
        return self._value

    def is_null(self, name: str) -> bool:
        """Whether the member is there and null."""
        return self._take(name) is None

    def text(self, name: str) -> str:
        """A string."""
        value = self._take(name)
        if not isinstance(value, str):
            raise FieldError(f"{self._at(name)} is not a string")
        return value

    def integer(self, name: str) -> int:
        """An integer; `true` is none."""
        value = self._take(name)
        if not isinstance(value, int) or isinstance(value, bool):
            raise FieldError(f"{self._at(name)} is not an integer")
        return value

    def name(self, name: str, kind: type[_NameT]) -> _NameT:
        """An identifier of the given type."""
        return kind(self.text(name))

    def names(self, name: str, kind: type[_NameT]) -> tuple[_NameT, ...]:
        """A list of identifiers, in the order written."""
        return tuple(kind(text) for text in self.texts(name))

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of strings."""
        texts = []
        for item in self.items(name):
            if not isinstance(item, str):
                raise FieldError(f"{self._at(name)} holds something that is not a string")
            texts.append(item)
        return tuple(texts)

    def items(self, name: str) -> list[JsonValue]:
        """A list of anything."""
        value = self._take(name)
        if not isinstance(value, list):
            raise FieldError(f"{self._at(name)} is not a list")
        return value

    def child(self, name: str) -> Fields:
        """An object inside this one; the caller closes it."""
        return Fields(self._take(name), self._at(name))

    def children(self, name: str) -> list[Fields]:
        """A list of objects; the caller closes each."""
        return [Fields(item, self._at(name)) for item in self.items(name)]

    def choice(self, name: str, kind: type[_EnumT]) -> _EnumT:
        """A member of a closed list."""
        return self._choose(self.text(name), name, kind)

    def choices(self, name: str, kind: type[_EnumT]) -> tuple[_EnumT, ...]:
        """A list of members of a closed list."""
        return tuple(self._choose(text, name, kind) for text in self.texts(name))

    def digest(self, name: str) -> bytes:
        """A SHA-256 value, 64 lower-case hexadecimal digits."""
        return self._digest(self.text(name), name)

    def digests(self, name: str) -> tuple[bytes, ...]:
        """A list of SHA-256 values."""
        return tuple(self._digest(text, name) for text in self.texts(name))

    def data(self, name: str) -> bytes:
        """Bytes in base64url without padding."""
        return b64url_decode(self.text(name))

    def moment(self, name: str) -> datetime:
        """A moment in UTC (`crypto.moments`)."""
        return parse_moment(self.text(name), self._at(name))

    def day(self, name: str) -> date:
        """A calendar day."""
        return parse_day(self.text(name), self._at(name))

    def _take(self, name: str) -> JsonValue:
        if name not in self._value:
            raise FieldError(f"{self._at(name)} is missing")
        self._read.add(name)
        return self._value[name]

    def _at(self, name: str) -> str:
        return f"{self._where}.{name}"

    def _choose(self, text: str, name: str, kind: type[_EnumT]) -> _EnumT:
        try:
            return kind(text)
        except ValueError as error:
            raise FieldError(f"{self._at(name)} is none of the known values") from error

    def _digest(self, text: str, name: str) -> bytes:
        if not _HEX_DIGEST.fullmatch(text):
            raise FieldError(f"{self._at(name)} is not a SHA-256 value in lower-case hexadecimal")
        return bytes.fromhex(text)


def check_digest(value: bytes, where: str) -> None:
    """Raise `FieldError` unless `value` has 32 bytes."""
    if len(value) != DIGEST_BYTES:
        raise FieldError(f"{where} has {DIGEST_BYTES} bytes")


def check_range(value: int, low: int, high: int, where: str) -> None:
    """Raise `FieldError` unless `low` <= `value` <= `high`."""
    if not low <= value <= high:
        raise FieldError(f"{where} is between {low} and {high}")


def check_text(value: str, max_chars: int, where: str) -> None:
    """Raise `FieldError` unless `value` is 1 to `max_chars` printable characters without space at either end."""
    if not 1 <= len(value) <= max_chars or not value.isprintable() or value != value.strip():
        raise FieldError(f"{where} is one to {max_chars} printable characters")


def check_ascending(values: Sequence[_OrderedT], low: int, high: int, where: str) -> None:
    """Raise `FieldError` unless there are `low` to `high` values, each once, in ascending order: a set has one spelling."""
    if not low <= len(values) <= high:
        raise FieldError(f"{where} has {low} to {high} entries")
    if sorted(set(values)) != list(values):
        raise FieldError(f"{where} is in ascending order and names nothing twice")
