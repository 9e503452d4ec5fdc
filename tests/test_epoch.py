"""Epochs and public bases: which months are served, and that nobody chooses a base."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta, timezone

import pytest

from crypto.bases import public_bases
from crypto.epoch import Epoch
from crypto.errors import EpochError, FieldError, MisuseError
from crypto.ring import N, Q

VECTORS = {
    128: ([59457628, 129947706, 72026552, 74695946], "35f35a3457577c7b1330ba897f73bb52b69fa7a1ea7eece1a81a9feb062189e0"),
    512: ([3149407, 28129934, 29620767, 37025449], "a515f31d9150d9b87930def673af816875787a9dd37fce8da2d79e00e4e8f339"),
}
"""First words and SHA-256 of all words (little-endian, 32 bits) of the bases of 2026-11."""


@pytest.mark.parametrize("dimensions", VECTORS)
def test_bases_of_november_2026(dimensions: int) -> None:
    first, digest = VECTORS[dimensions]
    bases = public_bases(Epoch("2026-11"), dimensions)
    assert bases.shape == (dimensions + 1, N)
    assert bases[0, :4].tolist() == first
    assert hashlib.sha256(bases.astype("<u4").tobytes()).hexdigest() == digest


def test_bases_follow_the_written_rule() -> None:
    """The rule as the protocol page states it, word by word."""
    words = hashlib.shake_256(b"sealmatch-1/2026-11/8").digest(4 * 10_000)
    expected = []
    for at in range(0, len(words), 4):
        word = int.from_bytes(words[at : at + 4], "little") % 2**27
        if word < Q:
            expected.append(word)
    bases = public_bases(Epoch("2026-11"), 8).reshape(-1)
    assert bases.tolist() == expected[: bases.size]


def test_bases_differ_by_epoch_and_dimension() -> None:
    a, b, c = (public_bases(Epoch(month), d) for month, d in (("2026-11", 8), ("2026-12", 8), ("2026-11", 16)))
    assert (a != b).mean() > 0.99
    assert (a[:8] != c[:8]).mean() > 0.99
    with pytest.raises(ValueError, match="read-only"):
        a[0, 0] = 1


def test_epoch_is_the_month_in_utc() -> None:
    assert Epoch.at(datetime(2026, 11, 30, 23, 59, tzinfo=UTC)) == Epoch("2026-11")
    assert Epoch.at(datetime(2026, 12, 1, 0, 30, tzinfo=timezone(timedelta(hours=1)))) == Epoch("2026-11")
    assert Epoch("2027-01").previous() == Epoch("2026-12")
    with pytest.raises(MisuseError):
        Epoch.at(datetime(2026, 11, 30))


def test_current_and_previous_month_are_served() -> None:
    now = datetime(2026, 11, 1, tzinfo=UTC)
    Epoch("2026-11").check_served(now)
    Epoch("2026-10").check_served(now)
    for month in ("2026-09", "2026-12", "2025-11"):
        with pytest.raises(EpochError, match=f"{month}.*2026-11"):
            Epoch(month).check_served(now)


@pytest.mark.parametrize("text", ["", "2026", "2026-13", "2026-00", "2026-1", "2026-11 ", "1926-11", "2026-11\n"])
def test_other_text_is_no_epoch(text: str) -> None:
    with pytest.raises(FieldError):
        Epoch(text)
