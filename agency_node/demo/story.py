"""The demonstration, step by step: set up, enrol, be refused, be granted, search, disclose, be refused again, and look at who saw what.

What is shown is done: every line of the result comes from a store, a message or an error of this run. `ok` is the conjunction of checks on
those values; nothing is asserted that was not computed.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final

from sqlalchemy import select

from agency_node.demo.attacker import TakenOut
from agency_node.demo.federation import (
    BANNED,
    BOARD,
    CAST,
    COUNSEL,
    DETECTIVE,
    EASTFIELD,
    EASTFIELD_COUNSEL,
    HOLDERS,
    LAKESIDE,
    LAKESIDE_COUNSEL,
    MILWAUKEE,
    NORTHPORT,
    Federation,
    FederationError,
)
from agency_node.demo.gallery import RECORDS, degraded, portraits, synthetic_units, threshold_of, write_portrait, write_synthetic
from agency_node.demo.law import Kept, Law
from agency_node.demo.views import View, all_views
from agency_node.errors import BrokerRefusedError, PolicyRefusedError
from agency_node.faces.embedder import Embedder, load_embedder, the_one_face
from agency_node.faces.image import read_image
from agency_node.gallery_tables import disclosure_requests
from agency_node.holder.decision import decide_disclosure
from agency_node.holder.enrol import enrol_embeddings, enrol_folder
from agency_node.holder.progress import NoProgress
from agency_node.holder.records import RecordStore
from agency_node.legal.review import grant_draft
from agency_node.node import Node
from agency_node.overview import search_status
from agency_node.pieces import Pieces
from agency_node.policy.engine import load_packs
from agency_node.requester.drafting import SearchRequest, draft_search
from agency_node.requester.leads import ask_for, claims_of, list_disclosed, list_leads
from agency_node.tables import custody
from crypto.canonical import AgencyId, GrantId, PersonId, SearchId
from crypto.entries import EntryKind, FieldOpening, FieldType, LogEntry, commit_field, entry_subject
from crypto.epoch import Epoch
from crypto.errors import CryptoError, SamePersonError
from crypto.frame import MessageHeader
from crypto.grant_basis import BasisKind, CourtOrder, Event, Offence, ProbeSource, Purpose
from crypto.grant_claims import GrantRole
from crypto.grant_token import add_signature, sign_grant, without_reason
from crypto.lawful_steps import explain
from crypto.message_types import MessageType
from crypto.messages import seal_message
from crypto.moments import round_moment, utc_day
from crypto.probe import make_probe
from crypto.ring import I32

ASSAULT: Final = Offence("Wis. Stat. 940.19(4)", "13A")
THEFT: Final = Offence("Wis. Stat. 943.20", "23F")
CASE_NUMBER: Final = "NP-26-104177-B"
COUNSELS: Final = {EASTFIELD: EASTFIELD_COUNSEL, LAKESIDE: LAKESIDE_COUNSEL}
SEARCH_S: Final = 90.0


@dataclass(frozen=True)
class Refused:
    """One thing that was tried and refused: who refused, the reason's name, the rule."""

    case: str
    by: str
    reason: str
    rule: str


@dataclass
class Result:
    """What the demonstration shows."""

    ok: bool = False
    seed: int = 0
    sought: str = ""
    leads: list[dict[str, Any]] = field(default_factory=list)
    holders: dict[str, str] = field(default_factory=dict)
    disclosed: dict[str, str] = field(default_factory=dict)
    refused: list[Refused] = field(default_factory=list)
    law: list[Kept] = field(default_factory=list)
    alarms: str = ""
    views: dict[str, View] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    checks: dict[str, bool] = field(default_factory=dict)


@dataclass
class Story:
    """One run. `tell` is called with a sentence before each step."""

    federation: Federation
    seed: int
    cap: int
    rate: int
    tell: Callable[[str], None]
    records: int = RECORDS
    result: Result = field(default_factory=Result)

    def __post_init__(self) -> None:
        self.embedder: Embedder = load_embedder("dlib")
        self.pictures = portraits()
        self.sought = ("astronaut", "hopper")[self.seed % 2]
        self.home = {"astronaut": EASTFIELD, "hopper": LAKESIDE}
        self.still = degraded(self.pictures[self.sought].jpeg)
        self.embedding = the_one_face(self.embedder, read_image(self.still)).embedding
        self.result.seed, self.result.sought = self.seed, self.sought

    @contextmanager
    def step(self, name: str, sentence: str) -> Iterator[None]:
        """Time one step."""
        self.tell(sentence)
        started = time.perf_counter()
        yield
        self.result.seconds[name] = round(time.perf_counter() - started, 3)

    def run(self) -> Result:
        """Everything; the processes go on until the federation is closed."""
        with self.step("start", "Starting a broker; three agencies and a custodian enrol their records meanwhile"):
            self.federation.start_broker()
            self.federation.start(NORTHPORT, BOARD, wait=False)
        with self.step(
            "enrol",
            f"Enrolling two portraits among {self.records:,} synthetic records each, some of them made to be nearly taken for the person",
        ):
            for share, holder in enumerate(HOLDERS):
                self._enrol(holder, share)
                self.federation.start(holder, wait=False)
        with self.step("ready", "Waiting until every node has its roster, its key of the week, its gallery packed"):
            self.federation.wait_ready(*CAST)
        asyncio.run(self._search_and_more())
        with self.step("views", "Trying every party's own keys on everything that passed"):
            self._views()
        views = self.result.views.values()
        self.check("every view closed", all(one.opened_against_expectation == 0 and not one.found_in_plain for one in views))
        self.result.ok = bool(self.result.checks) and all(self.result.checks.values())
        return self.result

    # --- steps --------------------------------------------------------------------------------------------------------

    def _enrol(self, holder: AgencyId, share: int) -> None:
        node, folder = self.federation.node(holder), self.federation.folder / f"{holder}.enrol"
        store = RecordStore(node.engine, node.vault, self.embedder.model)
        threshold = threshold_of(self.embedder.model, len(HOLDERS), self.rate, self.records)
        units = synthetic_units(self.embedder.model, self.embedding, self.seed, share, threshold, self.records)
        table = write_portrait(folder, self.pictures[next(name for name, home in self.home.items() if home == holder)])
        write_synthetic(folder / "synthetic.npz", units, f"{holder[0].upper()}-S")
        now = datetime.now(UTC)
        half = enrol_embeddings(store, folder / "synthetic.npz", NoProgress(), now)
        whole = enrol_folder(store, self.embedder, folder, table, NoProgress(), now, allow_demonstration=True)
        self.result.checks[f"{holder} enrolled"] = (half.enrolled, whole.enrolled) == (len(units), 1)

    async def _search_and_more(self) -> None:
        node = self.federation.node(NORTHPORT)
        try:
            with self.step("no grant", "A probe without a grant"):
                await self._without_grant(node)
            with self.step("one person", "A reviewer who is the investigator"):
                self._same_person(node)
            with self.step("review", f"A grant for one still of the {self.sought}: drafted by the detective, signed by the legal reviewer"):
                search_id = self._draft(node, ASSAULT, COUNSEL)
                grant_draft(
                    node.engine,
                    node.vault,
                    self.embedder,
                    node.parties.trusted,
                    search_id,
                    self.federation.person(COUNSEL),
                    datetime.now(UTC),
                )
            with self.step("search", "The search: log, probes, answers, opening, release, stubs"):
                await self.until(lambda: self._released(node, search_id), "the release")
                self._read_leads(node, search_id)
            with self.step("disclosure", "The holder's own legal reviewer discloses the first lead's photograph"):
                await self._disclose(node, search_id)
            with self.step("replay", "The same probe under a second grant"):
                await self._replay(node, search_id)
            law = Law(self, node, self.result.law)
            with self.step("exigent", "A search in an emergency, which a second reviewer would have to ratify within the day"):
                exigent = await law.begin_exigent()
            with self.step("narrowed", "A grant that its reviewer narrows: one holder, one lead"):
                await law.narrow()
            with self.step("revoked", "A grant that its reviewer takes back after the first answer"):
                await law.revoke()
            with self.step("ban", "A neighbour asks for an agency under a moratorium"):
                await law.ban()
            with self.step("policy", "A search for theft, which policy denies: at the requester, and at holders if its node asks nobody"):
                await self._policy(node)
            with self.step("lapse", "The day of the exigent grant ends, and nobody has ratified it"):
                await law.end_exigent(exigent)
            with self.step("log", "The log, exported, and verified from the files by somebody else"):
                await asyncio.to_thread(law.verify)
        finally:
            await node.transport.close()

    async def _without_grant(self, node: Node) -> None:
        """A probe for which no grant stands in the log."""
        now, vector = datetime.now(UTC), self._vector()
        probe, key = make_probe(self.embedder.model, vector, Epoch.at(now))
        key.destroy()
        to = await node.parties.week_key(EASTFIELD)
        header = MessageHeader(
            MessageType.PROBE, SearchId(secrets.token_hex(16)), secrets.token_bytes(32), NORTHPORT, EASTFIELD, 1, round_moment(now)
        )
        message = seal_message(
            header, probe, recipient_public=to.key, recipient_key_id=to.key_id, epoch=probe.epoch, sender_signing_key=node.keyring.node_key
        )
        await self._expect_refusal("a search without a grant", "R76", node.link.send(Pieces.of(message.to_bytes())))

    def _same_person(self, node: Node) -> None:
        try:
            self._draft(node, ASSAULT, DETECTIVE)
        except SamePersonError as error:
            self.result.refused.append(Refused("a reviewer who is the requester", str(NORTHPORT), explain(error).name, "R5"))
            self.result.checks["one person refused"] = True

    def _draft(self, node: Node, offence: Offence, reviewer: PersonId) -> SearchId:
        request = replace(self.request(), offence=offence, reviewer=reviewer)
        discovery, now, person = node.parties.roster().discovery_key(NORTHPORT), datetime.now(UTC), self.federation.person(DETECTIVE)
        return draft_search(node.engine, node.vault, self.embedder, NORTHPORT, discovery, request, person, now)

    def request(self) -> SearchRequest:
        """A lawful search for the person who is sought: a warrant, an assault, both holders."""
        today = datetime.now(UTC).date()
        basis = CourtOrder(
            BasisKind.WARRANT,
            "Circuit Court, Northport County",
            "26-CF-101",
            today - timedelta(days=3),
            today + timedelta(days=11),
            hashlib.sha256(b"the order's file").digest(),
        )
        return SearchRequest(
            case_number=CASE_NUMBER,
            still=self.still,
            offence=ASSAULT,
            basis=basis,
            purpose=Purpose.CRIMINAL_INVESTIGATION,
            event=Event.NONE,
            probe_source=ProbeSource.RECORDED_VIDEO_STILL,
            reviewer=COUNSEL,
            holders=list(HOLDERS),
            custodians=[BOARD],
            combiner=BOARD,
            cap=self.cap,
            false_positives_per_million=self.rate,
            answer_within=timedelta(seconds=SEARCH_S / 2),
            valid_for=timedelta(days=1),
            policy_packs=[pack.sha256 for pack in load_packs(())],
        )

    def check(self, name: str, held: bool) -> None:
        """Note one of the conjuncts of `ok`."""
        self.result.checks[name] = held

    def _released(self, node: Node, search_id: SearchId) -> bool:
        with node.engine.begin() as connection:
            status = search_status(connection, search_id)
        if status.state in ("refused", "expired"):
            raise FederationError(f"the search ended: {status.state}: {status.note}")
        return status.state == "released" and all(one.agency for one in list_leads(node.engine, node.vault, search_id))

    def _read_leads(self, node: Node, search_id: SearchId) -> None:
        leads = list_leads(node.engine, node.vault, search_id)
        self.result.leads = [
            {"rank": one.rank, "band": one.band.name.lower(), "agency": str(one.agency), "handle": one.handle} for one in leads
        ]
        with node.engine.begin() as connection:
            self.result.holders = {name: one["state"] for name, one in search_status(connection, search_id).holders.items()}
        self.result.checks["right agency at rank 1"] = bool(leads) and leads[0].agency == self.home[self.sought]

    async def _disclose(self, node: Node, search_id: SearchId) -> None:
        lead = ask_for(node.engine, node.vault, search_id, 1, datetime.now(UTC))
        holder = lead.agency or EASTFIELD
        theirs = self.federation.node(holder)
        await self.until(lambda: bool(_pending(theirs, lead.handle)), "the request at the holder")
        counsel = self.federation.person(COUNSELS[holder])
        decide_disclosure(theirs.engine, theirs.parties, holder, lead.handle, counsel, datetime.now(UTC), grant=True)
        await self.until(
            lambda: any(one.outcome == "disclosed" for one in list_disclosed(node.engine, node.vault, search_id)), "the disclosure"
        )
        (shown,) = list_disclosed(node.engine, node.vault, search_id)
        self.result.disclosed = {"agency": str(shown.agency), "handle": shown.handle, "record_number": shown.record_number}
        own = shown.record_number == self.pictures[self.sought].record_number
        self.check("the person's own record", own and bool(shown.photograph))
        await theirs.transport.close()

    async def _replay(self, node: Node, search_id: SearchId) -> None:
        """Both persons sign again, for the probe that was granted already."""
        claims = replace(
            claims_of(node.engine, node.vault, search_id),
            grant_id=GrantId(secrets.token_hex(16)),
            search_id=SearchId(secrets.token_hex(16)),
        )
        token = sign_grant(claims, GrantRole.INVESTIGATOR, self.federation.person(DETECTIVE).signing_key)
        token = add_signature(token, GrantRole.REVIEWER, self.federation.person(COUNSEL).signing_key)
        opening = FieldOpening.fresh(FieldType("grant-digest"), claims.digest)
        subject, today = entry_subject(EntryKind.GRANT, claims.digest), utc_day(datetime.now(UTC))
        leaf = LogEntry(EntryKind.GRANT, today, subject, (commit_field(opening),)).to_bytes()
        asked = node.link.post_grant(without_reason(token), leaf)
        await self._expect_refusal("a replay of the probe under a second grant", "R5", asked)

    async def _policy(self, node: Node) -> None:
        """The requester's own node refuses before its reviewer signs; one whose policy was taken out is refused by everybody else."""
        search_id, counsel = self._draft(node, THEFT, COUNSEL), self.federation.person(COUNSEL)
        signs = partial(grant_draft, node.engine, node.vault, self.embedder, node.parties.trusted, search_id, counsel)
        try:
            signs(datetime.now(UTC))
        except PolicyRefusedError as error:
            rule = "R1" if "R1 (strict-default/forbid-offence-not-listed)" in str(error) else "-"
            self.result.refused.append(Refused("a search for an offence that policy denies", str(NORTHPORT), "policy-refused", rule))
            self.result.checks["requester names its rule"] = rule == "R1"
        signs(datetime.now(UTC), packs=[TakenOut()])
        await self.until(lambda: self._all_refused(node, search_id), "the refusals of the second search")
        with node.engine.begin() as connection:
            status = search_status(connection, search_id)
        for holder, one in status.holders.items():
            reason, _, rest = one["note"].partition(" (rule ")
            rule = rest.partition(")")[0]
            self.result.refused.append(Refused("the same, signed at a requester whose policy was taken out", holder, reason, rule))
            self.result.checks[f"{holder} names its rule"] = rule == "R1"
        self.result.checks["custodian refused"] = status.state == "refused" and "rule R1" in status.note

    def _all_refused(self, node: Node, search_id: SearchId) -> bool:
        with node.engine.begin() as connection:
            status = search_status(connection, search_id)
        return status.state == "refused" and all(one["state"] == "refused" for one in status.holders.values())

    def _views(self) -> None:
        model, vector, portrait = self.embedder.model, self._vector(), self.pictures[self.sought]
        secrets_of = {
            "the probe's vector": vector.astype("<i4").tobytes()[:64],
            "the still": self.still[200:264],
            "the case number": CASE_NUMBER.encode(),
            "the docket": b"26-CF-101",
            "the offence": ASSAULT.statute.encode(),
            "the record number": portrait.record_number.encode(),
            "the photograph": portrait.jpeg[2000:2064],
            "the template": model.templates(the_one_face(self.embedder, read_image(portrait.jpeg)).embedding[None])[0].tobytes(),
        }
        self.result.views = {one.party: one for one in all_views(self.federation, secrets_of)}
        with self.federation.node(BOARD).engine.begin() as connection:
            self.result.alarms = ";".join(connection.execute(select(custody.c.alarms).where(custody.c.alarms != "")).scalars())

    # --- help ---------------------------------------------------------------------------------------------------------

    def _vector(self) -> I32:
        return self.embedder.model.probe_vector(self.embedding)

    async def _expect_refusal(self, case: str, rule: str, request: Awaitable[object]) -> None:
        try:
            await request
        except BrokerRefusedError as error:
            self.result.refused.append(Refused(case, "broker", error.problem, rule))
            self.result.checks[f"refused: {case}"] = True
        except CryptoError as error:
            raise FederationError(f"{case}: the broker was not reached: {error}") from error
        else:
            self.result.checks[f"refused: {case}"] = False

    async def until(self, come: Callable[[], bool], what: str) -> None:
        until = time.monotonic() + SEARCH_S
        while not come():
            if time.monotonic() > until:
                raise FederationError(f"{what} has not come within {SEARCH_S:.0f} s: look into {self.federation.folder}")
            self.federation.check_alive()
            await asyncio.sleep(0.1)


def _pending(node: Node, handle: str) -> bool:
    with node.engine.begin() as connection:
        return connection.execute(select(disclosure_requests.c.state).where(disclosure_requests.c.handle == handle)).first() is not None


def run_demo(
    folder: Path, *, seed: int, cap: int, rate: int, tell: Callable[[str], None], records: int = RECORDS
) -> tuple[Federation, Result]:
    """Set up in `folder` and tell the story; the caller closes the federation."""
    started = time.perf_counter()
    tell("Root ceremony: three root keys, a roster signed by two, five agencies with fresh keys")
    federation = Federation.create(folder, datetime.now(UTC), {**CAST, MILWAUKEE: BANNED})
    try:
        story = Story(federation, seed, cap, rate, tell, records)
        story.result.seconds["set-up"] = round(time.perf_counter() - started, 3)
        return federation, story.run()
    except BaseException:
        federation.close()
        raise
