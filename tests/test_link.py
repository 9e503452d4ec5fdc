"""The typed calls of the broker's API: what each sends, and that nonsense in a reply is one of two kinds of error and never another."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agency_node.errors import BrokerRefusedError
from agency_node.link import MAX_WAIT_S, BrokerLink
from agency_node.pieces import Pieces
from agency_node.replies import Lease, MessageState
from agency_node.transport import UNREADABLE, Transport
from crypto.binary import sha256
from crypto.canonical import SearchId, b64url_encode
from crypto.cosign_request import CosignRequest
from crypto.entries import EntryKind
from crypto.errors import ContextError, EncodingError, FieldError, LogError, NotCanonicalError, OversizedError
from crypto.message_types import MAX_MESSAGE_BYTES, MESSAGES, MessageType
from crypto.moments import parse_moment
from crypto.parts import PIECE_BYTES, Part
from crypto.sealing_key import Week
from crypto.wire import MessageId
from tests.node_samples import head_of, leaf, other_leaves
from tests.sample_federation import BOARD, LAKESIDE, NORTHPORT, NOW, digest, signing_key

SEARCH = SearchId("ffeeddccbbaa99887766554433221100")
ID = MessageId("ab" * 32)
HEAD = head_of(other_leaves(3))
ASKED = CosignRequest(2, (digest("left"), digest("right")), HEAD)
LEASE = {
    "lease_id": "Ab-_9",
    "message_id": str(ID),
    "message_type": "stubs",
    "sender": "lakeside-sheriff",
    "search_id": str(SEARCH),
    "total_bytes": 300,
    "parts": 1,
    "expires_at": "2026-11-23T16:13:04.05Z",
}
LEASED = Lease("Ab-_9", ID, MessageType.STUBS, LAKESIDE, SEARCH, 300, 1, parse_moment("2026-11-23T16:13:04.05Z", "lease"))


class Wire:
    """What a link sends, and what it is answered: by a list of replies, or by a function of the request."""

    def __init__(self, *replies: httpx.Response, answer: Callable[[httpx.Request], httpx.Response] | None = None) -> None:
        self.requests: list[httpx.Request] = []
        self._replies: Iterator[httpx.Response] = iter(replies)
        self._answer = answer
        transport = httpx.MockTransport(self._handle)
        self.link = BrokerLink(
            Transport("https://broker.example.org", NORTHPORT, signing_key(f"{NORTHPORT} node"), lambda: NOW, transport=transport)
        )

    def _handle(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        made = next(self._replies) if self._answer is None else self._answer(request)
        return httpx.Response(made.status_code, headers=made.headers, stream=made.stream)

    @property
    def sent(self) -> list[tuple[str, str, bytes]]:
        return [(request.method, request.url.raw_path.decode(), request.content) for request in self.requests]


def reply(document: object, status: int = 200) -> httpx.Response:
    return httpx.Response(status, content=json.dumps(document).encode(), headers={"content-type": "application/json"})


def data(content: bytes) -> httpx.Response:
    return httpx.Response(200, content=content)


def problem(name: str, status: int = 404) -> httpx.Response:
    document = {"type": f"urn:sealmatch:problem:{name}", "title": "No", "status": status, "detail": "Ask again."}
    return httpx.Response(status, content=json.dumps(document).encode(), headers={"content-type": "application/problem+json"})


def body(request: httpx.Request) -> Any:
    return json.loads(request.content)


# --- every route ------------------------------------------------------------------------------------------------------

Call = Callable[[BrokerLink], Awaitable[object]]
LEAF = leaf(EntryKind.GRANT)
ROUTES: list[tuple[Call, httpx.Response, tuple[str, str], object]] = [
    (lambda link: link.roster(), data(b"{}"), ("GET", "/v1/roster"), b"{}"),
    (lambda link: link.roster_version(7), data(b"{}"), ("GET", "/v1/roster/7"), b"{}"),
    (lambda link: link.put_manifest(b"{}"), httpx.Response(204), ("PUT", "/v1/statements/manifest"), None),
    (lambda link: link.put_sealing_key(b"{}"), httpx.Response(204), ("PUT", "/v1/statements/sealing-key"), None),
    (lambda link: link.manifest(LAKESIDE), data(b"{}"), ("GET", "/v1/statements/manifest/lakeside-sheriff"), b"{}"),
    (
        lambda link: link.sealing_key(BOARD, Week("2026-W48")),
        data(b"{}"),
        ("GET", "/v1/statements/sealing-key/civic-board/2026-W48"),
        b"{}",
    ),
    (lambda link: link.sealing_key(BOARD, SEARCH), data(b"{}"), ("GET", f"/v1/statements/sealing-key/civic-board/{SEARCH}"), b"{}"),
    (lambda link: link.post_grant(b"token", LEAF), reply({"index": 4}, 201), ("POST", "/v1/grants"), 4),
    (lambda link: link.enter(LEAF, digest("grant")), reply({"index": 5}), ("POST", "/v1/log/entries"), 5),
    (
        lambda link: link.checkpoint(2, 1, 60),
        data(HEAD.to_bytes()),
        ("GET", "/v1/log/checkpoint?min_size=2&cosignatures=1&wait_s=25"),
        HEAD,
    ),
    (lambda link: link.checkpoint(), problem("checkpoint-not-yet"), ("GET", "/v1/log/checkpoint?min_size=0&cosignatures=0&wait_s=0"), None),
    (lambda link: link.pending(-1, 20), data(ASKED.to_bytes()), ("GET", "/v1/log/pending?after_size=-1&wait_s=20"), ASKED),
    (lambda link: link.cosign(HEAD), data(HEAD.to_bytes()), ("POST", "/v1/log/cosignatures"), None),
    (
        lambda link: link.leaves(3, 2),
        reply({"size": 4, "leaves": [b64url_encode(LEAF)]}),
        ("GET", "/v1/log/leaves?start=3&limit=2"),
        (4, [LEAF]),
    ),
    (lambda link: link.consistency(1, 2), reply({"proof": ["ab" * 32]}), ("GET", "/v1/log/consistency?old=1&new=2"), (b"\xab" * 32,)),
    (lambda link: link.inclusion(1, 2), reply({"proof": []}), ("GET", "/v1/log/inclusion?index=1&size=2"), ()),
    (
        lambda link: link.message_state(ID),
        reply({"state": "delivered", "missing": [], "receipt": b64url_encode(b"doc")}),
        ("GET", f"/v1/messages/{ID}"),
        MessageState("delivered", (), b"doc"),
    ),
    (lambda link: link.message_state(ID), problem("not-found"), ("GET", f"/v1/messages/{ID}"), None),
    (lambda link: link.lease(20, 3), reply({"leases": [LEASE]}), ("POST", "/v1/mailbox/leases"), [LEASED]),
    (
        lambda link: link.acknowledge(LEASED),
        reply({"receipt": b64url_encode(b"doc")}),
        ("POST", "/v1/mailbox/leases/Ab-_9/acknowledgement"),
        b"doc",
    ),
]


def fresh(response: httpx.Response) -> httpx.Response:
    return httpx.Response(response.status_code, headers=response.headers, content=response.content)


@pytest.mark.parametrize(("call", "answer", "request_line", "result"), ROUTES)
async def test_each_call_asks_its_route_and_reads_its_answer(
    call: Call, answer: httpx.Response, request_line: tuple[str, str], result: object
) -> None:
    wire = Wire(fresh(answer))
    assert await call(wire.link) == result
    assert [line[:2] for line in wire.sent] == [request_line]


async def test_what_is_posted_is_what_the_api_asks_for() -> None:
    wire = Wire(reply({"index": 0}), reply({"index": 0}), reply({"leases": []}), reply({"receipt": ""}), data(b""))
    await wire.link.post_grant(b"token", LEAF)
    await wire.link.enter(LEAF, digest("grant"))
    await wire.link.lease(99, 3)
    await wire.link.acknowledge(LEASED)
    await wire.link.cosign(HEAD)
    assert [body(request) for request in wire.requests[:4]] == [
        {"terms": b64url_encode(b"token"), "entry": b64url_encode(LEAF)},
        {"entry": b64url_encode(LEAF), "grant_digest": digest("grant").hex()},
        {"wait_s": MAX_WAIT_S, "limit": 3},
        {},
    ]
    assert wire.requests[4].content == HEAD.to_bytes()


async def test_a_refusal_is_none_only_where_none_is_an_answer() -> None:
    """A broker of another version, or none at all, answers 404 too: that is no empty log and no unknown message."""
    for answer in (problem("no-such-route"), httpx.Response(404), problem("log-size-unknown")):
        calls: list[Call] = [lambda link: link.checkpoint(), lambda link: link.message_state(ID), lambda link: link.roster()]
        for call in calls:
            with pytest.raises(BrokerRefusedError):
                await call(Wire(fresh(answer)).link)


# --- nonsense ---------------------------------------------------------------------------------------------------------

BAD_LEASES: list[object] = [
    {**LEASE, "lease_id": "../roster"},
    {**LEASE, "lease_id": ""},
    {**LEASE, "lease_id": "x" * 65},
    {**LEASE, "lease_id": 7},
    {**LEASE, "message_id": "AB" * 32},
    {**LEASE, "message_type": "love-letter"},
    {**LEASE, "sender": "Lakeside"},
    {**LEASE, "search_id": "1"},
    {**LEASE, "total_bytes": 0},
    {**LEASE, "total_bytes": MESSAGES[MessageType.STUBS].max_bytes + 1},
    {**LEASE, "parts": 2},
    {**LEASE, "parts": True},
    {**LEASE, "expires_at": "tomorrow"},
    {**LEASE, "expires_at": None},
    {**LEASE, "more": 1},
    {name: value for name, value in LEASE.items() if name != "sender"},
    "lease",
]
BAD_LISTS: list[object] = [{"leases": [LEASE] * 3}, {"leases": None}, {"leases": {}}, [], {}, None]
BAD_STATES: list[object] = [
    {"state": "lost", "missing": []},
    {"state": "queued", "missing": [0]},
    {"state": "incomplete", "missing": []},
    {"state": "incomplete", "missing": [1, 0]},
    {"state": "incomplete", "missing": [0, 0]},
    {"state": "incomplete", "missing": [-1]},
    {"state": "incomplete", "missing": [True]},
    {"state": "incomplete", "missing": ["0"]},
    {"state": "incomplete", "missing": [10**9]},
    {"state": "incomplete", "missing": [0.5]},
    {"state": "delivered", "missing": [], "receipt": "="},
    {"state": "delivered", "missing": [], "receipt": None},
    {"state": None, "missing": []},
    {"missing": []},
]
NONSENSE: list[tuple[Call, object]] = [
    *[(lambda link: link.lease(0, 2), {"leases": [lease]}) for lease in BAD_LEASES],
    *[(lambda link: link.lease(0, 2), document) for document in BAD_LISTS],
    *[(lambda link: link.message_state(ID), document) for document in BAD_STATES],
    *[
        (lambda link: link.leaves(3, 2), document)
        for document in (
            {"size": 4, "leaves": [b64url_encode(LEAF)] * 2},  # more than the log has
            {"size": 9, "leaves": [b64url_encode(LEAF)] * 3},  # more than was asked for
            {"size": 2, "leaves": [b64url_encode(LEAF)]},
            {"size": -1, "leaves": []},
            {"size": 2**60, "leaves": []},
            {"size": "4", "leaves": []},
            {"size": 4, "leaves": ["a"]},
            {"size": 4, "leaves": [4]},
            {"size": 4},
        )
    ],
    *[
        (lambda link: link.consistency(1, 2), document)
        for document in ({"proof": ["AB" * 32]}, {"proof": ["ab" * 31]}, {"proof": "ab"}, {"proof": ["ab" * 32] * 129}, {"proof": [1]}, {})
    ],
    *[
        (lambda link: link.enter(LEAF, bytes(32)), document)
        for document in ({"index": -1}, {"index": 1.0}, {"index": True}, {"index": "1"}, 4)
    ],
    *[(lambda link: link.acknowledge(LEASED), document) for document in ({"receipt": 1}, {"receipt": "a="}, {}, {"receipt": "", "x": 1})],
]


@pytest.mark.parametrize(("call", "document"), NONSENSE)
async def test_a_reply_of_another_form_is_refused(call: Call, document: object) -> None:
    with pytest.raises(BrokerRefusedError) as caught:
        await call(Wire(reply(document)).link)
    assert caught.value.problem == UNREADABLE
    assert not caught.value.is_final


SCALARS = st.none() | st.booleans() | st.integers() | st.text(max_size=5)
NAMES = st.sampled_from(["index", "size", "leaves", "proof", "state", "missing", "receipt", "leases", "type", "title"])
DOCUMENTS = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3), max_leaves=6)


@given(content=st.binary(max_size=200) | DOCUMENTS.map(lambda document: json.dumps(document).encode()))
async def test_whatever_comes_back_is_one_of_our_errors_or_an_answer(content: bytes) -> None:
    for call, *_ in ROUTES:
        for status in (200, 404):
            with suppress(BrokerRefusedError, EncodingError, LogError):
                await call(Wire(httpx.Response(status, content=content, headers={"content-type": "application/problem+json"})).link)


async def test_deep_or_endless_json_is_refused_too() -> None:
    for content in (b"[" * 100_000, b'{"index":' + b"9" * 5000 + b"}", b'{"index":NaN}', b'{"index":1e9}', b"\xff"):
        with pytest.raises(BrokerRefusedError):
            await Wire(data(content)).link.post_grant(b"", LEAF)


# --- whole messages ---------------------------------------------------------------------------------------------------

WHOLE = (bytes(range(251)) * 9000)[: 2 * PIECE_BYTES] + b"the rest of it"


class Mailbox:
    """The broker's side of messages: keeps parts, says what is missing, hands them out."""

    def __init__(self, total: bytes) -> None:
        self.message_id = MessageId(sha256(total).hex())
        self.parts = [
            Part(self.message_id, number, len(total), total[start : start + PIECE_BYTES])
            for number, start in enumerate(range(0, len(total), PIECE_BYTES))
        ]
        self.stored: set[int] = set()
        self.puts: list[int] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.method == "PUT":
            part = Part.from_bytes(request.content)
            assert part == self.parts[part.number]
            assert request.url.path == f"/v1/messages/{self.message_id}/parts/{part.number}"
            if part.number and 0 not in self.stored:
                return problem("part-order", 409)
            self.stored.add(part.number)
            self.puts.append(part.number)
        elif "/parts/" in request.url.path:
            assert request.url.params["lease_id"] == LEASED.lease_id
            return data(self.parts[int(request.url.path.rpartition("/")[2])].to_bytes())
        elif not self.stored:
            return problem("not-found")
        missing = [part.number for part in self.parts if part.number not in self.stored]
        return reply({"state": "incomplete" if missing else "queued", "missing": missing})

    @property
    def lease(self) -> Lease:
        total = self.parts[0].total_bytes
        return Lease("Ab-_9", self.message_id, MessageType.ANSWER, LAKESIDE, SEARCH, total, len(self.parts), LEASED.expires_at)


async def test_a_message_goes_in_parts_and_a_repeat_sends_the_first_and_what_is_missing() -> None:
    mailbox = Mailbox(WHOLE)
    wire = Wire(answer=mailbox)
    assert await wire.link.send(Pieces.of(WHOLE)) == MessageState("queued", ())
    assert mailbox.puts == [0, 1, 2]
    mailbox.stored.remove(1)
    mailbox.puts.clear()
    await wire.link.send(Pieces.of(WHOLE))
    assert mailbox.puts == [0, 1]
    mailbox.puts.clear()
    assert (await wire.link.send(Pieces.of(WHOLE))).state == "queued"
    assert mailbox.puts == [0]


async def test_a_short_message_is_one_request() -> None:
    mailbox = Mailbox(b"short")
    wire = Wire(answer=mailbox)
    await wire.link.send(Pieces.of(b"short"))
    await wire.link.send(Pieces.of(b"short"))
    assert len(wire.requests) == 2


async def test_a_broker_that_forgets_parts_or_asks_for_others_is_not_fed_for_ever() -> None:
    for missing in ([0], [2], [9]):
        wire = Wire(answer=lambda _request, missing=missing: reply({"state": "incomplete", "missing": missing}))  # type: ignore[misc]
        with pytest.raises(BrokerRefusedError):
            await wire.link.send(Pieces.of(WHOLE))
        assert len(wire.requests) <= 4
    with pytest.raises(OversizedError):
        await Wire().link.send(Pieces.of(b""))
    with pytest.raises(OversizedError):
        await Wire().link.send(Pieces.of(bytes(MAX_MESSAGE_BYTES + 1)))


async def test_a_message_is_fetched_whole_and_hashed() -> None:
    mailbox = Mailbox(WHOLE)
    taken: list[bytes] = []
    await Wire(answer=mailbox).link.fetch(mailbox.lease, taken.append)
    assert [len(piece) for piece in taken] == [PIECE_BYTES, PIECE_BYTES, len(WHOLE) - 2 * PIECE_BYTES]
    assert b"".join(taken) == WHOLE


def drop(piece: bytes) -> None:
    """What comes is not looked at."""


async def test_parts_that_are_not_the_leased_message_are_refused() -> None:
    mailbox, other = Mailbox(WHOLE), Mailbox(WHOLE[:-1] + b"!")
    shorter = Mailbox(WHOLE[:-1])
    first, second, third = mailbox.parts
    forged = Part(mailbox.message_id, 1, len(WHOLE), bytes(PIECE_BYTES))
    for parts, error in (
        ([first, second, other.parts[2]], ContextError),
        ([Part(mailbox.message_id, 0, len(WHOLE) - 1, shorter.parts[0].piece)], FieldError),
        ([second], FieldError),
        ([first, third], FieldError),
        ([first, forged, third], NotCanonicalError),
    ):
        with pytest.raises(error):
            await Wire(*[data(part.to_bytes()) for part in parts]).link.fetch(mailbox.lease, drop)
    for content in (b"", b"nonsense", first.to_bytes()[:-1]):
        with pytest.raises(EncodingError):
            await Wire(data(content)).link.fetch(mailbox.lease, drop)
    with pytest.raises(BrokerRefusedError):
        await Wire(data(first.to_bytes() + b"!")).link.fetch(mailbox.lease, drop)
