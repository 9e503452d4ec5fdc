"""After the release: ranks and bands, stubs, and the photographs that holders disclose.

A lead is an investigative lead, not an identification (R34): every form in which leads leave this module says so. Invariants: the release
comes from the grant's combining custodian, a stub from a holder of the grant and for an index that no other holder used; the scores for the
defence are kept as they came, sealed to the legal office's discovery key, which this node does not have; when one holder is asked for a
photograph every holder of the search is sent a request, dummies to the others, so that the broker cannot tell which one has the lead.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, Engine, Row, insert, select, update

from agency_node.courier import Commit, Handler, NotYetError, apart
from agency_node.envelopes import Envelopes
from agency_node.errors import RequestError
from agency_node.journal import record, stamp
from agency_node.legal.exigent import check_open
from agency_node.legal.revoking import REVOKED
from agency_node.outbox import Conversation, Outbox, Outgoing, SealTo
from agency_node.parties import Parties
from agency_node.requester.cases import check_leads_kept
from agency_node.requester.drafting import TOKEN
from agency_node.requester.searching import SENT
from agency_node.store import Glance
from agency_node.tables import disclosures, inbox, leads, search_holders, searches
from agency_node.vault import Vault
from crypto.canonical import AgencyId, b64url_decode, b64url_encode
from crypto.disclosure import Disclosure, DisclosureRequest, Media, StubList
from crypto.errors import GrantMismatchError, ReleaseError
from crypto.grant_claims import GrantClaims
from crypto.grant_token import unverified_claims
from crypto.message_types import MessageType
from crypto.messages import AnyMessage, whole
from crypto.moments import parse_moment
from crypto.release import Band, RequesterRelease

RELEASED: Final = "released"
CLOSED: Final = "closed"
TO_ASK: Final = "to ask"
LAST_CALL: Final = timedelta(minutes=10)
"""How long before a grant's end the dummies of a search in which nothing was asked are sent."""
LEAD_NOTICE: Final = "An investigative lead, not an identification."
_RELEASED: Final = Glance(select(searches.c.search_id, searches.c.expires).where(searches.c.state == RELEASED))
_TO_ASK: Final = Glance(select(disclosures.c.holder).where(disclosures.c.outcome == TO_ASK).limit(1))
_RELEASE: Final = "release"
_STUB: Final = "stub"
_RECORD: Final = "disclosed-record"


@dataclass(frozen=True)
class Lead:
    """One lead as an investigator sees it: no score (R35), no person, an opaque handle; `captured` is None when it was withdrawn."""

    rank: int
    band: Band
    agency: AgencyId | None
    handle: str
    captured: date | None
    age_days: int | None


@dataclass(frozen=True)
class DisclosedLead:
    """What a holder's legal staff answered about one lead."""

    handle: str
    agency: AgencyId
    outcome: str
    record_number: str = field(repr=False)
    media: Media | None
    photograph: bytes = field(repr=False)


class Leads:
    """The requester's part of a search after the release."""

    def __init__(
        self,
        engine: Engine,
        vault: Vault,
        envelopes: Envelopes,
        parties: Parties,
        outbox: Outbox,
        clock: Callable[[], datetime],
    ) -> None:
        self._engine = engine
        self._vault = vault
        self._envelopes = envelopes
        self._parties = parties
        self._outbox = outbox
        self._clock = clock

    def handlers(self) -> Mapping[MessageType, Handler]:
        """Releases, stubs and disclosures come here."""
        return {
            MessageType.REQUESTER_RELEASE: self.receive_release,
            MessageType.DISCOVERY_RELEASE: self.receive_discovery,
            MessageType.STUBS: self.receive_stubs,
            MessageType.DISCLOSURE: self.receive_disclosure,
        }

    def sent(self, connection: Connection, row: Outgoing) -> None:
        """Nothing follows."""

    def refused(self, connection: Connection, row: Outgoing, note: str) -> None:
        """Nothing follows; the journal has it."""

    async def receive_release(self, message: AnyMessage) -> Commit:
        """The release: ranks, bands, and what became of every holder; once."""
        row, claims = self._search(message)
        released = self._envelopes.open(message, RequesterRelease, Conversation.of(claims), claims.combiner)
        if row.sealed_release is not None:
            raise ReleaseError("this search was released before")
        if released.cap != claims.cap:
            raise ReleaseError("a release has the grant's cap")
        released.check_holders(claims.holders)
        sealed = self._vault.seal(_RELEASE, released.to_bytes(), row.search_id.encode("ascii"))

        def commit(connection: Connection) -> None:
            values = {"state": RELEASED, "note": "", "sealed_release": sealed, "sealed_search_key": None}
            connection.execute(update(searches).where(searches.c.search_id == row.search_id).values(**values))
            for one in released.holders:
                where = (search_holders.c.search_id == row.search_id) & (search_holders.c.holder == str(one.holder))
                note = f"rule R{one.rule}" if one.rule else ""
                known = connection.execute(select(search_holders.c.note).where(where)).scalar_one()
                values = {"state": one.outcome.name.lower(), "note": known or note, "at": stamp(self._clock())}
                connection.execute(update(search_holders).where(where).values(**values))
                record(connection, self._clock(), row.search_id, f"holder {one.outcome.name.lower()}", str(one.holder))
            record(connection, self._clock(), row.search_id, RELEASED, f"{len(released.leads)} leads")
            connection.execute(update(inbox).where(inbox.c.message_id == str(message.message_id)).values(data=None))

        return commit

    async def receive_discovery(self, message: AnyMessage) -> Commit:
        """Scores for the legal office: kept sealed as they came. This node cannot open them. Those of another agency's search, whose legal
        office this is, are the office's part's business (`legal.office`)."""
        with self._engine.begin() as connection:
            own = select(searches.c.search_id).where(searches.c.search_id == str(message.header.search_id))
            if connection.execute(own).first() is None:
                return lambda connection: None
        row, claims = self._search(message)
        if message.header.sender != claims.combiner:
            raise GrantMismatchError("scores come from the grant's combining custodian")
        data = whole(message).to_bytes()

        def commit(connection: Connection) -> None:
            first = (searches.c.search_id == row.search_id) & searches.c.discovery.is_(None)
            connection.execute(update(searches).where(first).values(discovery=data))

        return commit

    async def receive_stubs(self, message: AnyMessage) -> Commit:
        """One holder's stubs; joined with ranks on the release index."""
        row, claims = self._search(message)
        holder = message.header.sender
        if holder not in claims.holders:
            raise GrantMismatchError("stubs come from a holder of the grant")
        if row.sealed_release is None:
            raise NotYetError("the release has not come yet")
        listed = self._envelopes.open(message, StubList, Conversation.of(claims), holder)
        known = {index for index, _, _ in self._release(row).leads}
        if listed.cap != claims.cap or any(stub.index not in known for stub in listed.stubs):
            raise ReleaseError("stubs stand under indexes of the release")
        if any(stub.record is not None and stub.record.agency != holder for stub in listed.stubs):
            raise ReleaseError("a stub names another agency than the holder that sends it")

        def commit(connection: Connection) -> None:
            for stub in listed.stubs:
                sealed = None
                if stub.record is not None:
                    shown = {
                        "handle": stub.record.handle.hex(),
                        "captured": stub.record.captured.isoformat(),
                        "age_days": stub.record.age_days,
                    }
                    sealed = self._vault.seal(_STUB, json.dumps(shown).encode("ascii"), row.search_id.encode("ascii"))
                values = {"search_id": row.search_id, "release_index": stub.index, "holder": str(holder), "sealed_stub": sealed}
                if connection.execute(insert(leads).prefix_with("OR IGNORE").values(**values)).rowcount == 0:
                    record(connection, self._clock(), row.search_id, "stub under an index that another holder used", f"from {holder}")
            connection.execute(update(inbox).where(inbox.c.message_id == str(message.message_id)).values(data=None))

        return commit

    async def receive_disclosure(self, message: AnyMessage) -> Commit:
        """A holder's answer to one request, or the dummy that answers a dummy."""
        row, claims = self._search(message)
        holder = message.header.sender
        if holder not in claims.holders:
            raise GrantMismatchError("a disclosure comes from a holder of the grant")
        disclosure = self._envelopes.open(message, Disclosure, Conversation.of(claims), holder)
        handle = "" if disclosure.handle is None else disclosure.handle.hex()
        sealed = None
        if disclosure.record is not None:
            shown = disclosure.record
            kept = {"number": shown.record_number, "media": int(shown.media), "photograph": b64url_encode(shown.photograph)}
            sealed = self._vault.seal(_RECORD, json.dumps(kept).encode("utf-8"), handle.encode("ascii"))
        where = (disclosures.c.search_id == row.search_id) & (disclosures.c.holder == str(holder)) & (disclosures.c.handle == handle)

        def commit(connection: Connection) -> None:
            if (
                connection.execute(
                    update(disclosures).where(where).values(outcome=disclosure.outcome.name.lower(), sealed_record=sealed)
                ).rowcount
                != 1
            ):
                record(connection, self._clock(), row.search_id, "disclosure that nobody asked for", f"from {holder}")
            connection.execute(update(inbox).where(inbox.c.message_id == str(message.message_id)).values(data=None))

        return commit

    async def tick(self) -> None:
        """Send the requests that a person wrote down since, with dummies to every other holder; end searches whose grant has run out."""
        for search_id, expires in _RELEASED.rows(self._engine):
            self._end_in_time(search_id, parse_moment(expires, "expiry"))
        if _TO_ASK.first(self._engine) is None:
            return
        with self._engine.begin() as connection:
            asked = connection.execute(select(disclosures).where(disclosures.c.outcome == TO_ASK)).all()
        troubles: list[Exception] = []
        for one in asked:
            with apart(troubles):
                await self._ask(one)
        if troubles:
            raise troubles[0]

    def _end_in_time(self, search_id: str, expires: datetime) -> None:
        """Close a search whose grant has run out; shortly before, write down dummies if nothing was asked: every search ends with one."""
        now = self._clock()
        if now < expires - LAST_CALL:
            return
        holders = self._claims(search_id).holders
        with self._engine.begin() as connection:
            if now >= expires:
                values = {"state": CLOSED, "note": "the grant has expired"}
                connection.execute(update(searches).where(searches.c.search_id == search_id).values(**values))
                record(connection, now, search_id, CLOSED)
            elif connection.execute(select(disclosures.c.holder).where(disclosures.c.search_id == search_id)).first() is None:
                write_requests(connection, search_id, holders, None, now)

    async def _ask(self, asked: Row[Any]) -> None:
        claims = self._claims(asked.search_id)
        key = SealTo.statement(await self._parties.week_key(AgencyId(asked.holder)))
        with self._engine.begin() as connection:
            request = DisclosureRequest(bytes.fromhex(asked.handle) if asked.handle else None)
            self._outbox.sealed(connection, MessageType.DISCLOSURE_REQUEST, request, Conversation.of(claims), key)
            where = (
                (disclosures.c.search_id == asked.search_id)
                & (disclosures.c.holder == asked.holder)
                & (disclosures.c.handle == asked.handle)
            )
            connection.execute(update(disclosures).where(where).values(outcome="asked"))

    def _search(self, message: AnyMessage) -> tuple[Row[Any], GrantClaims]:
        with self._engine.begin() as connection:
            row = connection.execute(select(searches).where(searches.c.search_id == message.header.search_id)).first()
        if row is None or row.grant_digest != message.header.grant_digest or row.state not in (SENT, RELEASED):
            raise GrantMismatchError("the message is of no search of this agency that waits for it")
        return row, self._claims(row.search_id)

    def _claims(self, search_id: str) -> GrantClaims:
        return claims_of(self._engine, self._vault, search_id)

    def _release(self, row: Row[Any]) -> RequesterRelease:
        return RequesterRelease.from_bytes(self._vault.open(_RELEASE, row.sealed_release, row.search_id.encode("ascii")))


def claims_of(engine: Engine, vault: Vault, search_id: str) -> GrantClaims:
    """The claims of a search of this agency."""
    with engine.begin() as connection:
        sealed = connection.execute(select(searches.c.sealed_token).where(searches.c.search_id == search_id)).scalar_one()
    return unverified_claims(vault.open(TOKEN, sealed, search_id.encode("ascii")))


def list_leads(engine: Engine, vault: Vault, search_id: str, now: datetime | None = None) -> list[Lead]:
    """The leads of a released search by rank; a lead whose stub has not come has no handle yet.

    `RequestError` before the release, once an exigent search has lapsed, or would at `now` (R4), once the grant was taken back, and once
    the leads were destroyed because their time was over (`retention`).
    """
    check_open(engine, search_id, now)
    check_leads_kept(engine, search_id)
    _check_not_taken_back(engine, search_id)
    with engine.begin() as connection:
        row = connection.execute(select(searches).where(searches.c.search_id == search_id)).first()
        stored = connection.execute(select(leads).where(leads.c.search_id == search_id)).all()
    if row is None or row.sealed_release is None:
        raise RequestError("this search has not been released: `sealmatch node status` shows what it waits for")
    bound = search_id.encode("ascii")
    released = RequesterRelease.from_bytes(vault.open(_RELEASE, row.sealed_release, bound))
    shown = {one.release_index: one for one in stored}
    listed = []
    for index, rank, band in released.leads:
        one = shown.get(index)
        if one is None or one.sealed_stub is None:
            listed.append(Lead(rank, band, None if one is None else AgencyId(one.holder), "", None, None))
            continue
        stub = json.loads(vault.open(_STUB, one.sealed_stub, bound))
        listed.append(Lead(rank, band, AgencyId(one.holder), stub["handle"], date.fromisoformat(stub["captured"]), stub["age_days"]))
    return sorted(listed, key=lambda lead: lead.rank)


def _check_not_taken_back(engine: Engine, search_id: str) -> None:
    with engine.begin() as connection:
        if connection.execute(select(searches.c.state).where(searches.c.search_id == search_id)).scalar() == REVOKED:
            raise RequestError(
                "the legal office took this search's grant back: its leads are closed, and stay in the store for the defence. "
                "`sealmatch node review` shows why"
            )


def ask_for(engine: Engine, vault: Vault, search_id: str, rank: int, now: datetime) -> Lead:
    """Write down the request for one lead's photograph and record number, and the dummies beside it; the serving node sends them."""
    lead = next((one for one in list_leads(engine, vault, search_id, now) if one.rank == rank), None)
    if lead is None or lead.agency is None or not lead.handle:
        raise RequestError("there is no such lead to ask for: `sealmatch node release` lists them with their ranks")
    holders = claims_of(engine, vault, search_id).holders
    with engine.begin() as connection:
        write_requests(connection, search_id, holders, lead, now)
    return lead


def write_requests(connection: Connection, search_id: str, holders: Sequence[AgencyId], lead: Lead | None, now: datetime) -> None:
    """One request to every holder: a question to the one that has the lead, dummies to the others, or to all when nothing is asked."""
    for holder in holders:
        handle = lead.handle if lead is not None and holder == lead.agency else ""
        values = {"search_id": search_id, "holder": str(holder), "handle": handle, "outcome": TO_ASK, "asked_at": stamp(now)}
        connection.execute(insert(disclosures).prefix_with("OR IGNORE").values(**values))


def list_disclosed(engine: Engine, vault: Vault, search_id: str, now: datetime | None = None) -> list[DisclosedLead]:
    """What holders answered to requests about leads of this search; dummies are left out. `RequestError` as `list_leads` after its end."""
    check_open(engine, search_id, now)
    check_leads_kept(engine, search_id)
    _check_not_taken_back(engine, search_id)
    with engine.begin() as connection:
        rows = connection.execute(select(disclosures).where(disclosures.c.search_id == search_id, disclosures.c.handle != "")).all()
    listed = []
    for row in rows:
        number, media, photograph = "", None, b""
        if row.sealed_record is not None:
            kept = json.loads(vault.open(_RECORD, row.sealed_record, row.handle.encode("ascii")))
            number, media, photograph = kept["number"], Media(kept["media"]), b64url_decode(kept["photograph"])
        listed.append(DisclosedLead(row.handle, AgencyId(row.holder), row.outcome, number, media, photograph))
    return listed
