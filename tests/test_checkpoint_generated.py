"""Checkpoints that nobody wrote by hand: whatever is a note is read back as it was written, and whatever is none is refused as that."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from crypto.checkpoint import MAX_SIGNATURES, Checkpoint, NoteSignature, SignedCheckpoint
from crypto.errors import CryptoError
from crypto.ledger import MAX_TREE_SIZE
from tests.test_checkpoint import head

_names = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="+"), min_size=1, max_size=128)
_foreign_names = st.text(st.characters(min_codepoint=0x21, exclude_categories=("Cs", "Zs", "Zl", "Zp"), exclude_characters="+"), min_size=1)
_lines = st.builds(
    NoteSignature,
    _foreign_names.filter(lambda name: not any(c.isspace() for c in name)),
    st.binary(min_size=4, max_size=4),
    st.binary(min_size=1, max_size=99),
)
_heads = st.builds(Checkpoint, _names, st.integers(1, MAX_TREE_SIZE), st.binary(min_size=32, max_size=32))


@given(_heads, st.lists(_lines, min_size=1, max_size=MAX_SIGNATURES, unique_by=lambda line: (line.name, line.key_id)))
def test_notes_round_trip(checkpoint: Checkpoint, lines: list[NoteSignature]) -> None:
    note = SignedCheckpoint(checkpoint, tuple(lines))
    assert SignedCheckpoint.from_bytes(note.to_bytes()) == note
    assert Checkpoint.from_body(checkpoint.body()) == checkpoint


@given(
    st.binary(max_size=400)
    | st.text(max_size=300).map(str.encode)
    | st.lists(st.sampled_from([b"\n", b"\n\n", "— ".encode(), b"log", b" ", b"7", b"AAAAAAA=", head(7).body()]), max_size=12).map(b"".join)
)
def test_garbage_is_no_note(data: bytes) -> None:
    try:
        note = SignedCheckpoint.from_bytes(data)
    except CryptoError:
        return
    assert note.to_bytes() == data
