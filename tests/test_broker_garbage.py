"""Malformed, truncated, oversized and random bytes to every endpoint: a problem document, never a 500, nothing stored."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from crypto.canonical import AgencyId, JsonValue, b64url_encode
from crypto.entries import EntryKind
from crypto.grant_token import without_reason
from crypto.manifest import GalleryManifest
from crypto.parts import Part, split_message
from crypto.sealing_key import SealingKeyStatement, Week
from tests.broker_world import RECIPIENT_KEY, World, cosignature_note, entry_of, grant_entry, node_key, open_world, other_search, problem
from tests.sample_federation import BOARD, LAKESIDE, NORTHPORT, claims, manifest, token_of

CLAIMS = claims()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path / "broker") as opened:
        await opened.grant()
        await opened.put(opened.message(CLAIMS))
        yield opened


def is_refusal(reply: httpx.Response) -> None:
    status, name = problem(reply)
    assert 400 <= status < 500, (status, name)


async def good_bodies(world: World) -> dict[str, tuple[str, str, AgencyId, bytes]]:
    """For every route with a body: method, path, caller and a body that would be accepted."""
    fresh = other_search(CLAIMS, 5)
    message = world.message(CLAIMS)
    part: Part = next(iter(split_message(message)))
    head = await world.head()
    grant = {"terms": b64url_encode(without_reason(token_of(fresh))), "entry": b64url_encode(grant_entry(fresh.digest).to_bytes())}
    entry = {"entry": b64url_encode(entry_of(EntryKind.ANSWER, CLAIMS.digest, LAKESIDE).to_bytes()), "grant_digest": CLAIMS.digest.hex()}
    sealing_key = SealingKeyStatement(LAKESIDE, Week("2026-W48"), RECIPIENT_KEY.public_key).sign(node_key(LAKESIDE))
    holders: GalleryManifest = manifest()
    return {
        "manifest": ("PUT", "/v1/statements/manifest", LAKESIDE, holders.sign(node_key(LAKESIDE))),
        "sealing key": ("PUT", "/v1/statements/sealing-key", LAKESIDE, sealing_key),
        "grant": ("POST", "/v1/grants", NORTHPORT, json.dumps(grant).encode()),
        "entry": ("POST", "/v1/log/entries", LAKESIDE, json.dumps(entry).encode()),
        "cosignature": ("POST", "/v1/log/cosignatures", BOARD, cosignature_note(head, BOARD, world.now).to_bytes()),
        "part": ("PUT", f"/v1/messages/{message.message_id}/parts/0", NORTHPORT, part.to_bytes()),
        "leases": ("POST", "/v1/mailbox/leases", LAKESIDE, b'{"limit":1,"wait_s":0}'),
    }


ROUTES = ("manifest", "sealing key", "grant", "entry", "cosignature", "part", "leases")


def damaged(good: bytes, seed: int) -> list[bytes]:
    """Cut, lengthened, flipped, replaced: each deterministic."""
    rng = random.Random(seed)
    cuts = [good[:at] for at in (0, 1, len(good) // 2, len(good) - 1)]
    longer = [good + b"\0", good + b" x", good + good]
    flipped = []
    for _ in range(12):
        at = rng.randrange(len(good))
        flipped.append(good[:at] + bytes([good[at] ^ (1 << rng.randrange(8))]) + good[at + 1 :])
    noise = [rng.randbytes(size) for size in (1, 40, 300, 5000)]
    forms = [
        b"null",
        b"[]",
        b"{}",
        b'"x"',
        b"1e5",
        b"[" * 50_000,
        b'{"a":' * 5000,
        b"\xff\xfe",
        b'{"limit":NaN,"wait_s":0}',
        "ü".encode() * 100,
    ]
    return [*cuts, *longer, *flipped, *noise, *forms]


@pytest.mark.parametrize("name", ROUTES)
async def test_damaged_bodies_store_nothing(world: World, name: str) -> None:
    method, path, agency, good = (await good_bodies(world))[name]
    before = world.rows()
    for body in damaged(good, seed=7):
        reply = await world.ask(method, path, agency=agency, body=body)
        if reply.status_code == 200 and name == "leases":
            continue  # one flipped bit can be another digit
        if reply.status_code == 201 and name == "entry":
            before = world.rows()  # a flipped bit of a commitment is another commitment: nobody but its author can tell
            continue
        is_refusal(reply)
        assert world.rows() == before, body[:60]
    reply = await world.ask(method, path, agency=agency, body=b"x" * ((1 << 20) + 1))
    assert problem(reply) == (413, "request-too-large")
    assert world.rows() == before
    assert (await world.ask(method, path, agency=agency, body=good)).status_code in {200, 201, 204}, "the undamaged body must pass"


@pytest.mark.parametrize("name", ["grant", "entry", "leases"])
async def test_members_of_every_type(world: World, name: str) -> None:
    """Each member missing, of every other type, and one member too many."""
    method, path, agency, good = (await good_bodies(world))[name]
    document: dict[str, JsonValue] = json.loads(good)
    before = world.rows()
    values: list[JsonValue] = [None, True, -1, 2**70, "", "=", "ü", "a" * 5000, [], {}, ["x"]]
    cases: list[dict[str, JsonValue]] = [{**document, "more": 1}]
    for member in document:
        cases += [{key: value for key, value in document.items() if key != member}, *({**document, member: value} for value in values)]
    for case in cases:
        is_refusal(await world.ask(method, path, agency=agency, document=case))
    repeated = good[:-1] + b"," + good[1:]
    is_refusal(await world.ask(method, path, agency=agency, body=repeated))
    assert world.rows() == before


NAMES = [
    "..",
    "a" * 129,
    "A",
    "%00",
    quote("ü"),
    "-",
    "x y",
    "ab" * 32 + "0",
    "0" * 63,
    "%2e%2e%2f",
    "'",
    "2026-W60",
    "2026-w48",
    "2026-W48;",
]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/statements/manifest/{}"),
        ("GET", "/v1/statements/sealing-key/{}/2026-W48"),
        ("GET", "/v1/statements/sealing-key/northport-pd/{}"),
        ("GET", "/v1/messages/{}"),
        ("GET", "/v1/messages/{}/parts/0?lease_id=x"),
        ("PUT", "/v1/messages/{}/parts/0"),
        ("POST", "/v1/mailbox/leases/{}/acknowledgement"),
        ("GET", "/v1/roster/{}"),
    ],
)
async def test_names_in_addresses(world: World, method: str, path: str) -> None:
    before = world.rows()
    for name in NAMES:
        reply = await world.ask(method, path.format(quote(name, safe="%")))
        is_refusal(reply)
        for echoed in ("ab" * 32, "a" * 129, "W60"):
            assert echoed not in reply.text
    assert world.rows() == before


@pytest.mark.parametrize(
    "path",
    [
        "/v1/messages/{id}/parts/{value}?lease_id=x",
        "/v1/roster/{value}",
        "/v1/log/checkpoint?min_size={value}",
        "/v1/log/checkpoint?cosignatures={value}",
        "/v1/log/checkpoint?wait_s={value}",
        "/v1/log/pending?after_size={value}",
        "/v1/log/pending?wait_s={value}",
        "/v1/log/leaves?start={value}",
        "/v1/log/leaves?limit={value}",
        "/v1/log/consistency?old={value}&new=1",
        "/v1/log/consistency?old=0&new={value}",
        "/v1/log/consistency",
        "/v1/log/inclusion?index={value}&size=1",
        "/v1/log/inclusion?index=0&size={value}",
        "/tile/{value}/000",
        "/tile/0/{value}",
        "/tile/entries/000.p/{value}",
    ],
)
async def test_numbers_in_addresses(world: World, path: str) -> None:
    for value in ("-2", "x", "1.5", "1e400", "nan", "inf", "9" * 30, str(2**63), "%00", "", "0x1", "1" * 5000, quote("١")):
        is_refusal(await world.ask("GET", path.format(value=value, id="ab" * 32)))


async def test_large_sizes_within_the_range_are_refused_or_empty(world: World) -> None:
    most = 2**53 - 1
    assert (await world.ask("GET", f"/v1/log/leaves?start={most}&limit={most}", agency=None)).json() == {"size": 1, "leaves": []}
    for path in (f"/v1/log/checkpoint?min_size={most}", f"/v1/log/consistency?old=0&new={most}", f"/v1/log/inclusion?index=0&size={most}"):
        assert problem(await world.ask("GET", path, agency=None))[0] == 404


async def test_headers_of_noise(world: World) -> None:
    rng = random.Random(3)
    before = world.rows()
    for _ in range(30):
        noise = {
            name: bytes(rng.choices(range(33, 127), k=rng.randrange(1, 300)))
            for name in (b"signature", b"signature-input", b"content-digest", b"host")
        }
        request = world.client.build_request("PUT", "/v1/statements/manifest", content=rng.randbytes(100), headers=list(noise.items()))
        is_refusal(await world.client.send(request))
    assert world.rows() == before


async def test_nothing_of_a_request_is_echoed(world: World) -> None:
    marker = "Zebra7"
    for reply in (
        await world.ask("GET", f"/v1/messages/{marker}"),
        await world.ask("GET", f"/v1/log/leaves?start={marker}"),
        await world.ask("POST", "/v1/grants", document={marker: marker}),
        await world.ask("POST", "/v1/mailbox/leases", document={"wait_s": marker, "limit": 1}),
        await world.ask("PUT", "/v1/statements/manifest", body=marker.encode()),
        await world.ask("GET", f"/{marker}"),
    ):
        is_refusal(reply)
        assert marker not in reply.text
