"""A broker in this process, with the sample federation's keys around it: signed requests as nodes send them, a clock that tests set.

Nothing here is a fake of the broker: the real application over httpx's ASGI transport, a real database file. Requests are signed by the
code under test; tests forge by signing wrong things with right keys, or right things with wrong keys.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy.dialects.sqlite import insert

from broker.app import create_app
from broker.config import LOG_KEY_FILE, BrokerConfig, Limits
from broker.services import Services
from broker.tables import rosters
from crypto.canonical import AgencyId, KeyId, SearchId, b64url_decode, b64url_encode
from crypto.checkpoint import Checkpoint, SignedCheckpoint
from crypto.disclosure import DisclosureRequest
from crypto.entries import EntryKind, FieldOpening, FieldType, LogEntry, commit_field, entry_subject
from crypto.epoch import Epoch
from crypto.frame import MessageHeader
from crypto.grant_claims import GrantClaims
from crypto.grant_token import without_reason
from crypto.keys import SealingPrivateKey, SigningKey
from crypto.message_types import MESSAGES, Body, MessageType
from crypto.messages import Message, seal_message, sign_message
from crypto.parts import split_message
from crypto.request_signature import fresh_nonce, sign_request
from crypto.roster_entries import AgencyRole
from crypto.witness import WitnessKey, cosign
from tests.sample_federation import (
    BOARD,
    LAKESIDE,
    NORTHPORT,
    NOW,
    OVERSIGHT,
    VENDOR,
    claims,
    roster,
    secret,
    sign_roster,
    signing_key,
    token_of,
)

BASE = "http://broker.test"
ORIGIN = "log.example.org/2026"
LOG_KEY = signing_key("log")
ROSTER = roster()
RECIPIENT_KEY = SealingPrivateKey.from_secret(secret("some recipient"))
RECIPIENT_KEY_ID = KeyId("0" * 64)


def node_key(agency: AgencyId) -> SigningKey:
    return signing_key(f"{agency} node")


def make_broker(folder: Path, limits: Limits | None = None) -> BrokerConfig:
    """A folder as `sealmatch broker init` makes it, with the sample federation's log key."""
    folder.mkdir(parents=True, exist_ok=True)
    fingerprint = ROSTER.root.fingerprint.hex()
    folder.joinpath("broker.toml").write_text(f'operator = "{VENDOR}"\norigin = "{ORIGIN}"\nroot_fingerprint = "{fingerprint}"\n')
    key = folder / LOG_KEY_FILE
    key.write_bytes(LOG_KEY.export_secret())
    key.chmod(0o600)
    return BrokerConfig.load(folder).model_copy(update={"limits": limits or Limits(look_again_s=0.05)})


@dataclass
class World:
    """One open broker and a client of it."""

    config: BrokerConfig
    services: Services
    client: httpx.AsyncClient
    clock: list[datetime] = field(default_factory=lambda: [NOW])
    sequence: int = 0

    @property
    def now(self) -> datetime:
        return self.clock[0]

    def pass_time(self, seconds: float) -> None:
        self.clock[0] += timedelta(seconds=seconds)

    # --- requests ---

    def nonce(self) -> bytes:
        """A nonce that this broker takes, once."""
        return fresh_nonce(self.services.authentication.nonce_prefix)

    async def ask(
        self,
        method: str,
        path: str,
        *,
        agency: AgencyId | None = NORTHPORT,
        body: bytes | None = None,
        document: object = None,
        params: Mapping[str, str | int] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """A request signed by the agency's node key; unsigned if there is no agency."""
        content = json.dumps(document).encode() if document is not None else body or b""
        request = self.client.build_request(method, path, params=params, content=content)
        if agency is not None:
            signed = sign_request(method, str(request.url), content, agency=agency, key=node_key(agency), nonce=self.nonce(), now=self.now)
            request.headers.update(signed)
        request.headers.update(headers or {})
        return await self.client.send(request)

    def rows(self) -> dict[str, int]:
        """How many rows each table holds: what a request has stored."""
        return count_rows(self.config)

    # --- grants and entries ---

    async def grant(self, content: GrantClaims | None = None, agency: AgencyId = NORTHPORT) -> GrantClaims:
        """A good grant, entered."""
        content = content or claims()
        reply = await self.post_grant(token_of(content), grant_entry(content.digest), agency)
        assert reply.status_code == 201, reply.text
        return content

    async def post_grant(self, token: bytes, entry: LogEntry, agency: AgencyId = NORTHPORT) -> httpx.Response:
        document = {"terms": b64url_encode(without_reason(token)), "entry": b64url_encode(entry.to_bytes())}
        return await self.ask("POST", "/v1/grants", agency=agency, document=document)

    async def post_entry(self, entry: LogEntry | bytes, digest: bytes, agency: AgencyId) -> httpx.Response:
        data = entry if isinstance(entry, bytes) else entry.to_bytes()
        document = {"entry": b64url_encode(data), "grant_digest": digest.hex()}
        return await self.ask("POST", "/v1/log/entries", agency=agency, document=document)

    async def head(self, **params: int) -> SignedCheckpoint:
        reply = await self.ask("GET", "/v1/log/checkpoint", agency=None, params=params)
        assert reply.status_code == 200, reply.text
        return SignedCheckpoint.from_bytes(reply.content)

    # --- messages ---

    def header(
        self, content: GrantClaims, message_type: MessageType, sender: AgencyId, recipient: AgencyId, **changes: Any
    ) -> MessageHeader:
        self.sequence += 1
        in_search = MESSAGES[message_type].in_search
        header = MessageHeader(
            message_type,
            content.search_id if in_search else None,
            content.digest if in_search else None,
            sender,
            recipient,
            self.sequence,
            self.now,
        )
        return replace(header, **changes)

    def message(
        self,
        content: GrantClaims,
        message_type: MessageType = MessageType.DISCLOSURE_REQUEST,
        sender: AgencyId = NORTHPORT,
        recipient: AgencyId = LAKESIDE,
        body: Body | None = None,
        **changes: Any,
    ) -> Message:
        """A message of the grant's search, signed by its sender."""
        header = self.header(content, message_type, sender, recipient, **changes)
        return frame(header, body or DisclosureRequest(None), node_key(sender))

    async def put(self, message: Message | bytes, agency: AgencyId = NORTHPORT, numbers: Iterable[int] | None = None) -> httpx.Response:
        """All parts, or some; the last reply."""
        parts = list(split_message(message)) if isinstance(message, Message) else []
        reply = httpx.Response(0)
        for number in range(len(parts)) if numbers is None else numbers:
            part = parts[number]
            reply = await self.put_part(part.message_id, number, part.to_bytes(), agency)
        return reply

    async def put_part(self, message_id: str, number: int, data: bytes, agency: AgencyId = NORTHPORT) -> httpx.Response:
        return await self.ask("PUT", f"/v1/messages/{message_id}/parts/{number}", agency=agency, body=data)

    async def lease(self, agency: AgencyId, limit: int = 32, wait_s: int = 0) -> list[dict[str, Any]]:
        reply = await self.ask("POST", "/v1/mailbox/leases", agency=agency, document={"wait_s": wait_s, "limit": limit})
        assert reply.status_code == 200, reply.text
        leases: list[dict[str, Any]] = reply.json()["leases"]
        return leases

    async def fetch(self, lease: Mapping[str, Any], agency: AgencyId, number: int = 0) -> httpx.Response:
        path = f"/v1/messages/{lease['message_id']}/parts/{number}"
        return await self.ask("GET", path, agency=agency, params={"lease_id": lease["lease_id"]})

    async def acknowledge(self, lease: Mapping[str, Any], agency: AgencyId) -> httpx.Response:
        return await self.ask("POST", f"/v1/mailbox/leases/{lease['lease_id']}/acknowledgement", agency=agency)


def frame(header: MessageHeader, body: Body, key: SigningKey) -> Message:
    """The message, sealed or signed as the table says."""
    if not header.spec.sealed:
        return sign_message(header, body, sender_signing_key=key)
    return seal_message(
        header,
        body,
        recipient_public=RECIPIENT_KEY.public_key,
        recipient_key_id=RECIPIENT_KEY_ID,
        epoch=Epoch("2026-11"),
        sender_signing_key=key,
    )


@asynccontextmanager
async def open_world(folder: Path, *, limits: Limits | None = None, with_roster: bool = True, now: datetime = NOW) -> AsyncIterator[World]:
    """A broker over the folder, made when it is not there, with the sample federation's roster."""
    config = make_broker(folder, limits)
    clock = [now]
    app = create_app(config, clock=lambda: clock[0])
    async with app.router.lifespan_context(app):
        services: Services = app.state.services
        if with_roster:
            await carry_roster(services)
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url=BASE) as client:
            yield World(config, services, client, clock)


async def carry_roster(services: Services) -> None:
    """The sample roster's row without its entry, so that these tests count the leaves that they enter; `test_roster_change` installs."""
    async with services.store.writing() as connection:
        row = {"version": ROSTER.version, "document": sign_roster(ROSTER), "fingerprint": ROSTER.root.fingerprint}
        await connection.execute(insert(rosters).values(row).on_conflict_do_nothing())  # a folder that is opened again has it


def count_rows(config: BrokerConfig) -> dict[str, int]:
    database = sqlite3.connect(config.folder / "broker.sqlite")
    try:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {name: database.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in tables}  # noqa: S608
    finally:
        database.close()


def entry_of(kind: EntryKind, digest: bytes, author: AgencyId | None = None) -> LogEntry:
    """An entry as a party makes it; each has fresh salts and so is another one."""
    opening = FieldOpening.fresh(FieldType("grant-digest"), digest)
    return LogEntry(kind, NOW.date(), entry_subject(kind, digest, author), (commit_field(opening),))


def grant_entry(digest: bytes) -> LogEntry:
    return entry_of(EntryKind.GRANT, digest)


def cosignature_note(note: SignedCheckpoint, agency: AgencyId, at: datetime) -> SignedCheckpoint:
    """The head with one witness's cosignature; the witness has signed nothing before."""
    witness = ROSTER.agency_as(agency, AgencyRole.WITNESS).witness
    assert isinstance(witness, WitnessKey)
    line = cosign(
        note,
        log=ROSTER.log,
        previous=Checkpoint.empty(ORIGIN),
        proof=(),
        witness=witness,
        key=signing_key(f"{agency} witness"),
        now=at,
    )
    return note.with_signatures([line])


def problem(reply: httpx.Response) -> tuple[int, str]:
    """Status and name of a problem document, whose form is checked on the way."""
    assert reply.headers["content-type"] == "application/problem+json", (reply.status_code, reply.text)
    document = reply.json()
    name = document["type"].rpartition(":")[2]
    assert set(document) == {"type", "title", "status", "detail"} | ({"nonce_prefix"} if name == "nonce-prefix" else set())
    assert document["status"] == reply.status_code
    assert document["title"]
    assert document["detail"].endswith(".")
    assert document["type"] == f"urn:sealmatch:problem:{name}"
    return reply.status_code, name


def other_search(content: GrantClaims, number: int) -> GrantClaims:
    """The same claims with four values of their own: another grant."""
    text = f"{number:032x}"
    return replace(
        content,
        grant_id=type(content.grant_id)(text),
        search_id=SearchId(text),
        probe_digest=secret(f"probe {number}"),
        face_commit=secret(f"face {number}"),
    )


def receipt_of(reply: httpx.Response) -> bytes:
    return b64url_decode(reply.json()["receipt"])


WITNESSES = (BOARD, OVERSIGHT)
