"""The binary frame: bit packing against big integers, one encoding, limits before parsing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto.binary import Kind, Reader, Writer, pack_bits, packed_size, unpack_bits
from crypto.errors import EncodingError, FieldError, MisuseError, NotCanonicalError, OversizedError, TruncatedError, VersionError
from crypto.ring import Q
from tests import reference

WORDS = st.integers(1, 32).flatmap(lambda bits: st.tuples(st.just(bits), st.lists(st.integers(0, 2**bits - 1), max_size=70)))


@given(WORDS)
def test_packing_is_one_big_integer(drawn: tuple[int, list[int]]) -> None:
    bits, values = drawn
    data = pack_bits(np.array(values, np.uint32), bits)
    assert data == reference.packed_little_endian(values, bits)
    assert len(data) == packed_size(len(values), bits)
    assert unpack_bits(data, len(values), bits).tolist() == values


def test_packing_refuses_what_does_not_fit() -> None:
    for values, bits in ((np.array([4], np.uint32), 2), (np.array([1], np.int64), 2), (np.array([[1]], np.uint32), 2)):
        with pytest.raises(MisuseError):
            pack_bits(values, bits)  # type: ignore[arg-type]
    with pytest.raises(NotCanonicalError):
        unpack_bits(b"\xff", 7, 1)
    with pytest.raises(TruncatedError):
        unpack_bits(b"\xff\xff", 7, 1)


def test_prefix_names_kind_version_and_parameter_set() -> None:
    data = Writer(Kind.PROBE).finish()
    assert data == b"SM\x01\x01\x01"
    for at in range(len(data)):
        with pytest.raises(VersionError):
            Reader(data[:at] + bytes([data[at] ^ 0x40]) + data[at + 1 :], Kind.PROBE, max_bytes=100)
        with pytest.raises(TruncatedError):
            Reader(data[:at], Kind.PROBE, max_bytes=100)
    with pytest.raises(VersionError):
        Reader(data, Kind.ANSWER, max_bytes=100)


def test_length_is_checked_before_anything_is_parsed() -> None:
    with pytest.raises(OversizedError):
        Reader(b"nonsense" * 100, Kind.PROBE, max_bytes=100)


def test_fields() -> None:
    data = Writer(Kind.PROBE).integer(300, 2).fixed(b"abc", 3).words(np.array([1, Q - 1], np.uint32), 27).finish()
    reader = Reader(data, Kind.PROBE, max_bytes=100)
    assert reader.integer(2, low=0, high=300) == 300
    with pytest.raises(NotCanonicalError):
        reader.finish()
    assert reader.fixed(3) == b"abc"
    assert reader.words(2, 27, high=Q - 1).tolist() == [1, Q - 1]
    reader.finish()
    with pytest.raises(TruncatedError):
        reader.fixed(1)
    with pytest.raises(FieldError):
        Reader(data, Kind.PROBE, max_bytes=100).integer(2, low=0, high=299)
    too_large = Writer(Kind.PROBE).words(np.array([Q], np.uint32), 27).finish()
    with pytest.raises(FieldError):
        Reader(too_large, Kind.PROBE, max_bytes=100).words(1, 27, high=Q - 1)
    with pytest.raises(MisuseError):
        Writer(Kind.PROBE).fixed(b"ab", 3)


@given(st.binary(max_size=60), st.integers(0, 40), st.integers(1, 32))
def test_reading_garbage_gives_only_our_errors(data: bytes, count: int, bits: int) -> None:
    try:
        reader = Reader(b"SM\x01\x01\x01" + data, Kind.PROBE, max_bytes=50)
        values = reader.words(count, bits)
        reader.finish()
    except EncodingError:
        return
    assert pack_bits(values, bits) == data
