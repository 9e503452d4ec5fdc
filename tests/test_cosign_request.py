"""What a log sends to a witness: one spelling, the form of tlog-witness, and no garbage that gives another error than ours."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto.cosign_request import MAX_PROOF_HASHES, MAX_REQUEST_BYTES, CosignRequest
from crypto.errors import CheckpointError, OversizedError, PeerError
from tests.node_samples import head_of, other_leaves

NOTE = head_of(other_leaves(5))
HASHES = st.lists(st.binary(min_size=32, max_size=32), max_size=MAX_PROOF_HASHES).map(tuple)


def test_it_has_the_form_of_tlog_witness() -> None:
    first, second = bytes(range(32)), bytes(32)
    lines = ["old 3", base64.b64encode(first).decode(), base64.b64encode(second).decode(), ""]
    assert CosignRequest(3, (first, second), NOTE).to_bytes() == "\n".join(lines).encode() + b"\n" + NOTE.to_bytes()
    assert CosignRequest(0, (), NOTE).to_bytes() == b"old 0\n\n" + NOTE.to_bytes()


@given(st.integers(0, 5), HASHES)
def test_reading_is_the_inverse_of_writing(old: int, proof: tuple[bytes, ...]) -> None:
    request = CosignRequest(old, proof, NOTE)
    assert CosignRequest.from_bytes(request.to_bytes()) == request


@pytest.mark.parametrize(
    "head",
    [b"", b"old", b"old -1", b"old 03", b"old 1 ", b"Old 1", b"old 1\n\n", b"old 1\nAAAA", b"old 1\nA", b"old 1\n!", b"old \xc3\xa9"],
)
def test_another_form_is_refused(head: bytes) -> None:
    with pytest.raises(CheckpointError):
        CosignRequest.from_bytes(head + b"\n\n" + NOTE.to_bytes())


def test_too_much_is_refused() -> None:
    with pytest.raises(CheckpointError, match="63 hashes"):
        CosignRequest(1, (bytes(32),) * (MAX_PROOF_HASHES + 1), NOTE)
    with pytest.raises(CheckpointError, match="out of range"):
        CosignRequest(-1, (), NOTE)
    with pytest.raises(OversizedError):
        CosignRequest.from_bytes(bytes(MAX_REQUEST_BYTES + 1))


@given(st.binary(max_size=300) | st.binary(max_size=100).map(lambda cut: CosignRequest(2, (bytes(32),), NOTE).to_bytes()[: -len(cut) - 1]))
def test_garbage_is_an_error_of_ours(data: bytes) -> None:
    with pytest.raises(PeerError):
        CosignRequest.from_bytes(data)
