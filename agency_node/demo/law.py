"""The demonstration's legal chapter: a grant narrowed, one that lapses, one taken back half-way, a ban that a proxy does not get round,
and the log verified by somebody who has nothing but files.

As in the rest of the story, what is shown is done: every row comes from a store, an error or a command of this run. A day is not waited
for: the exigent draft is dated a day back, less some seconds, and its clock runs from that date, as every exigent clock does.

Left to others: the search whose leads are shown, what is refused, who saw what (`story`).
"""

from __future__ import annotations

import secrets
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol

from sqlalchemy import select

from agency_node.demo.federation import (
    BOARD,
    COUNSEL,
    DETECTIVE,
    EASTFIELD,
    HOLDERS,
    LAKESIDE,
    MILWAUKEE,
    MILWAUKEE_COUNSEL,
    NORTHPORT,
    Federation,
)
from agency_node.errors import PolicyRefusedError, RequestError
from agency_node.faces.embedder import Embedder
from agency_node.legal.narrowing import Narrowing
from agency_node.legal.originating import sign_as_originator
from agency_node.legal.review import accept_narrowed, grant_draft, keep_signed, read_draft
from agency_node.legal.revoking import revoke_grant
from agency_node.node import Node
from agency_node.overview import search_status
from agency_node.policy.clocks import STRICT_CLOCK
from agency_node.policy.engine import load_packs
from agency_node.requester.drafting import SearchRequest, draft_search
from agency_node.requester.leads import claims_of, list_leads
from agency_node.tables import custody, exigent_grants
from crypto.canonical import SearchId
from crypto.grant_basis import BasisKind, StatementOfFacts, commit_facts
from crypto.grant_claims import GrantRole
from crypto.grant_token import add_signature

LEFT_TO_RATIFY: Final = timedelta(seconds=10)
"""How much of its day the exigent grant has when it is signed."""
FACTS: Final = "The person sought said on the telephone that he would shoot his former employer this evening."
BAN: Final = "(us-wi-milwaukee/"


@dataclass(frozen=True)
class Kept:
    """One thing that the law demands, and what came of it in this run."""

    what: str
    shown: str


class Scene(Protocol):
    """What the story lends this chapter."""

    federation: Federation
    embedder: Embedder

    def request(self) -> SearchRequest:
        """A lawful search for the person who is sought."""

    def until(self, come: Callable[[], bool], what: str) -> Awaitable[None]:
        """Wait for it; `FederationError` when it does not come."""

    def check(self, name: str, held: bool) -> None:
        """One of the conjuncts of `ok`."""


@dataclass
class Law:
    """The chapter, scene by scene; each adds a row to `kept`."""

    scene: Scene
    node: Node
    kept: list[Kept]

    def _draft(self, request: SearchRequest, now: datetime) -> SearchId:
        node, person = self.node, self.scene.federation.person(DETECTIVE)
        discovery = node.parties.roster().discovery_key(NORTHPORT)
        return draft_search(node.engine, node.vault, self.scene.embedder, NORTHPORT, discovery, request, person, now)

    def _grant(self, search_id: SearchId, less: Narrowing | None = None) -> None:
        node, counsel = self.node, self.scene.federation.person(COUNSEL)
        trusted, now = node.parties.trusted, datetime.now(UTC)
        grant_draft(node.engine, node.vault, self.scene.embedder, trusted, search_id, counsel, now, less=less or Narrowing())

    def _state(self, search_id: SearchId) -> str:
        with self.node.engine.begin() as connection:
            return search_status(connection, search_id).state

    def _tell(self, what: str, shown: str, *, held: bool) -> None:
        self.kept.append(Kept(what, shown))
        self.scene.check(what, held)

    # --- an exigent grant that nobody ratifies ------------------------------------------------------------------------

    async def begin_exigent(self) -> SearchId:
        """Draft, grant and search on an emergency, which somebody else has to ratify within a day."""
        salt, dated = secrets.token_bytes(32), datetime.now(UTC) - STRICT_CLOCK.ratify_within + LEFT_TO_RATIFY
        request = replace(
            self.scene.request(),
            basis=StatementOfFacts(BasisKind.EXIGENT, commit_facts(salt, FACTS)),
            facts=FACTS,
            facts_salt=salt,
            answer_within=STRICT_CLOCK.ratify_within + timedelta(minutes=1),
            valid_for=STRICT_CLOCK.ratify_within + timedelta(hours=1),
        )
        search_id = self._draft(request, dated)
        self._grant(search_id)
        await self.scene.until(lambda: self._state(search_id) in ("released", "lapsed"), "the exigent search")
        return search_id

    async def end_exigent(self, search_id: SearchId) -> None:
        """Nobody ratified it: its leads are closed, what is kept lies under the legal office's seal, the log has the lapse."""
        await self.scene.until(lambda: self._state(search_id) == "lapsed", "the lapse of the exigent grant")
        node = self.node
        try:
            closed = ""
            list_leads(node.engine, node.vault, search_id, datetime.now(UTC))
        except RequestError as error:
            closed = str(error)
        with node.engine.begin() as connection:
            row = connection.execute(select(exigent_grants).where(exigent_grants.c.search_id == str(search_id))).one()
        shown = f"{row.state}; leads closed: {closed.split(':')[0]}; {len(row.archive or b''):,} bytes sealed to the legal office"
        self._tell("an exigent grant that nobody ratified", shown, held=row.state == "lapsed" and "R4" in closed and bool(row.archive))

    # --- a grant narrowed ---------------------------------------------------------------------------------------------

    async def narrow(self) -> None:
        """The reviewer takes away one holder and most of the leads; the detective signs that anew."""
        node, asked = self.node, self.scene.request()
        search_id = self._draft(asked, datetime.now(UTC))
        self._grant(search_id, Narrowing(drop_holders=(LAKESIDE,), cap=1) if asked.cap > 1 else Narrowing(drop_holders=(LAKESIDE,)))
        waits = self._state(search_id)
        detective, now = self.scene.federation.person(DETECTIVE), datetime.now(UTC)
        accept_narrowed(node.engine, node.vault, node.parties.trusted, search_id, detective, now)
        await self.scene.until(lambda: self._state(search_id) == "released", "the release of the narrowed search")
        claims = claims_of(node.engine, node.vault, search_id)
        leads = list_leads(node.engine, node.vault, search_id, datetime.now(UTC))
        granted = f"{len(claims.holders)} and {claims.cap} granted; {len(leads)} came"
        shown = f"{len(asked.holders)} holders and {asked.cap} leads asked for; {granted}"
        held = waits == "narrowed" and claims.holders == (EASTFIELD,) and len(leads) <= claims.cap
        self._tell("a grant narrowed by its reviewer", shown, held=held)

    # --- a grant taken back half-way ----------------------------------------------------------------------------------

    async def revoke(self) -> None:
        """One holder has answered, the other is kept from it; the reviewer takes the grant back, and nothing is released."""
        node, late = self.node, self.scene.federation.processes[LAKESIDE]
        late.send_signal(signal.SIGSTOP)
        try:
            search_id = self._draft(self.scene.request(), datetime.now(UTC))
            self._grant(search_id)
            await self.scene.until(lambda: self._holder(search_id) == "opened", "the first answer of the search that is taken back")
            roster, counsel = node.parties.roster(), self.scene.federation.person(COUNSEL)
            revoke_grant(node.engine, node.vault, roster, NORTHPORT, search_id, "the warrant was quashed", counsel, datetime.now(UTC))
            board = self.scene.federation.node(BOARD)
            wanted = select(custody.c.state).where(custody.c.search_id == str(search_id))

            def in_custody() -> str:
                with board.engine.begin() as connection:
                    return str(connection.execute(wanted).scalar())

            await self.scene.until(lambda: in_custody() != "open", "the custodian's end of it")
        finally:
            late.send_signal(signal.SIGCONT)
        shown = f"{EASTFIELD} had answered; {NORTHPORT}: {self._state(search_id)}; {BOARD}: {in_custody()}, nothing released"
        self._tell("a grant taken back half-way", shown, held=(self._state(search_id), in_custody()) == ("revoked", "lapsed"))
        await board.transport.close()

    def _holder(self, search_id: SearchId) -> str:
        with self.node.engine.begin() as connection:
            return str(search_status(connection, search_id).holders[EASTFIELD]["state"])

    # --- a banned agency's case, asked by a neighbour -----------------------------------------------------------------

    async def ban(self) -> None:
        """Milwaukee's own moratorium binds its cases wherever they are asked from; the neighbour's node, and every other, says no."""
        node, federation = self.node, self.scene.federation
        request = replace(self.scene.request(), originating_agency=MILWAUKEE, originator=MILWAUKEE_COUNSEL)
        search_id, said = self._draft(request, datetime.now(UTC)), {}
        claims, token = read_draft(node.engine, node.vault, search_id)
        originator, counsel, now = federation.person(MILWAUKEE_COUNSEL), federation.person(COUNSEL), datetime.now(UTC)
        theirs = federation.node(MILWAUKEE)
        try:
            sign_as_originator(theirs.engine, theirs.vault, node.parties.roster(), MILWAUKEE, token, originator, load_packs(()), now)
        except PolicyRefusedError as error:
            said[MILWAUKEE] = str(error)
        await theirs.transport.close()
        try:
            self._grant(search_id)
        except PolicyRefusedError as error:
            said[NORTHPORT] = str(error)
        # Whoever administers both nodes can sign past them. The others do not rely on either.
        signed = add_signature(add_signature(token, GrantRole.ORIGINATOR, originator.signing_key), GrantRole.REVIEWER, counsel.signing_key)
        with node.engine.begin() as connection:
            keep_signed(connection, node.vault, search_id, token, signed, claims, (), STRICT_CLOCK, now)
        await self.scene.until(lambda: self._refused_by(search_id) == {*HOLDERS, BOARD}, "the refusals of a banned agency's case")
        by = ", ".join([*(str(agency) for agency in said), *sorted(map(str, self._refused_by(search_id)))])
        held = set(said) == {MILWAUKEE, NORTHPORT} and all(BAN in words for words in said.values())
        self._tell(f"a case of {MILWAUKEE}, under a moratorium, asked by {NORTHPORT}", f"refused by {by} (R6, R7)", held=held)

    def _refused_by(self, search_id: SearchId) -> set[str]:
        with self.node.engine.begin() as connection:
            status = search_status(connection, search_id)
        found = {holder for holder, one in status.holders.items() if one["state"] == "refused" and "(rule R6)" in one["note"]}
        return found | ({BOARD} if status.state == "refused" and "rule R6" in status.note else set())

    # --- the log, from outside ----------------------------------------------------------------------------------------

    def verify(self) -> None:
        """Somebody exports the log, and verifies the files without a network, with a holder's evidence of its own acts."""
        federation = self.scene.federation
        bundle, evidence = federation.folder / "log-bundle", federation.folder / "evidence.json"
        known = ("--roster", str(federation.folder / "roster-1.json"), "--root-fingerprint", federation.fingerprint.hex())
        federation.command("log", "export", "--broker", f"http://127.0.0.1:{federation.broker_port}", *known, "--into", str(bundle))
        federation.command("log", "evidence", "--node", str(federation.folder / EASTFIELD), "--into", str(evidence))
        verified = federation.command("log", "verify", str(bundle), *known[2:], "--evidence", str(evidence))
        report = verified["report"]
        kinds = report["kinds"]
        shown = f"{report['size']} entries, {report['acts']} acts of {EASTFIELD} each with its entry, {report['witnesses']} witnesses"
        held = verified["ok"] is True and kinds.get("revocation") == 1 and kinds.get("lapse") == 1 and kinds.get("refusal", 0) >= 1
        self._tell("the log, verified from files alone", shown, held=held)
