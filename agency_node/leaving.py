"""A node leaves the federation: open work is finished or ended, all but what must be kept is destroyed, and the node says it, signed.

    order (legal staff signs) -> finish or end what is open -> destroy keys, then gallery -> broker deletes -> receipt -> node key destroyed

Invariants: each step stands in the store before the next begins, and is done again without harm, so that a node that was killed at any
place goes on with the same command; data keys go first, so that templates are closed for good before the long work of overwriting begins;
counts and the gallery's commitment are taken in the transaction that destroys the first of it; the node key signs the receipt once, then a
fresh key that no roster lists lies in its place, with which whoever reads the folder still opens it and nobody speaks for the agency.

What is kept, and stays under the at-rest key: the audit ledger with its sign-offs, decisions, grants, what legal staff decided, receipts,
openings of this agency's log entries, and, of an agency that searched, its case files: they are evidence for the defence (R19, R43) and for
audits (R53), and no statute lets a federation's end destroy them. What is not reached: copies of before, such as backups.

Left to others: the documents (`leave_receipt`), stages (`retiring`), leaving the node out of the roster (the root holders).
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Table, delete, func, insert, select, update

from agency_node.backup.closing import end_what_is_open
from agency_node.case_tables import case_searches, cases, legal_holds, probe_links
from agency_node.config import Role
from agency_node.errors import BrokerRefusedError, RequestError, StoreError
from agency_node.facts import Fact, read_fact, write_fact
from agency_node.gallery_tables import (
    block_keys,
    disclosure_requests,
    layouts,
    next_block_keys,
    next_template_blocks,
    record_buckets,
    record_dispositions,
    record_leaves,
    record_manifests,
    records,
    refused_records,
    stubs,
    subject_requests,
    template_blocks,
)
from agency_node.holder.blocks import MODEL_FACT
from agency_node.holder.records import RecordStore
from agency_node.holder.subject_requests import Signer, State
from agency_node.journal import NO_SEARCH, Told, record, stamp
from agency_node.leave_receipt import NO_GALLERY, LeaveOrder, LeaveReceipt
from agency_node.legal.duties import check_may_sign
from agency_node.node import Node
from agency_node.outbox import EXPUNCTION, MESSAGE, READY, Outbox, content_of, enter, mark_refused, mark_sent, next_outgoing
from agency_node.overview import ENDED
from agency_node.retiring import Stage, enter_stage, retirement, retirement_in
from agency_node.store import forget_deleted
from agency_node.tables import (
    answers,
    budget_uses,
    custody,
    custody_parts,
    decisions,
    disclosures,
    discoveries,
    exigent_grants,
    exigent_held,
    facts,
    held_grants,
    inbox,
    lapse_notices,
    leads,
    ledger,
    ledger_sign_offs,
    legal_decisions,
    log_leaves,
    message_pieces,
    narrowings,
    outbox,
    probe_faces,
    receipts,
    sealing_keys,
    search_holders,
    searches,
    statements,
)
from crypto.mailbox_receipt import MailboxReceipt
from crypto.moments import round_moment
from crypto.roster import Roster

NOTE: Final = "this node left the federation"
_AT_ONCE: Final = 256
"""Records, with their photographs, or blocks destroyed in one transaction."""
KEPT: Final[dict[str, Table]] = {
    "audit ledger": ledger,
    "case files: chains of probes": probe_links,
    "case files: cases": cases,
    "case files: disclosures": disclosures,
    "case files: leads": leads,
    "case files: legal holds": legal_holds,
    "case files: narrowed drafts": narrowings,
    "case files: progress": search_holders,
    "case files: searches": searches,
    "case files: searches by case": case_searches,
    "copy of the public log": log_leaves,
    "decisions of the policy": decisions,
    "discovery, sealed to the legal office": discoveries,
    "disclosures that were asked for": disclosure_requests,
    "exigent grants": exigent_grants,
    "exigent grants held": exigent_held,
    "grants that were held": held_grants,
    "legal decisions": legal_decisions,
    "notices of lapses": lapse_notices,
    "openings of own log entries": outbox,
    "receipts of the broker": receipts,
    "record manifests": record_manifests,
    "requests of persons": subject_requests,
    "sign-offs of the ledger": ledger_sign_offs,
    "which messages came": inbox,
    "which searches were answered": answers,
    "which searches were in custody": custody,
}
"""What stays, by its name in the receipt, where there is any."""
_DESTROYED: Final = (
    layouts,
    stubs,
    budget_uses,
    probe_faces,
    custody_parts,
    message_pieces,
    statements,
    record_leaves,
    record_buckets,
    record_dispositions,
    refused_records,
)
"""Small tables of the holder and of what was under way: whole rows."""


@dataclass(frozen=True)
class OpenWork:
    """What a node that leaves has still to do: `ends` may be refused to go on, `persons` somebody must end first."""

    ends: dict[str, int]
    persons: dict[str, int] = field(default_factory=dict)


class Leaving:
    """The steps, each of which may be taken again. The caller holds `retiring.nobody_serves_in` from `destroy` on."""

    def __init__(self, node: Node, clock: Callable[[], datetime]) -> None:
        self._node, self._clock = node, clock

    def order(self, signer: Signer) -> None:
        """Keep what legal staff signed, and take nothing new from now on. `AgencyRoleError` for who may not; untrained, the same (R14)."""
        signatory = signer.roster.signatory(signer.key.key_id)
        check_may_sign(signatory, self._node.agency, signer.roster)
        signatory.person.check_trained(self._clock())
        node_key = self._node.keyring.node_key.verifying_key
        if signer.roster.node_key(self._node.agency) != node_key:
            raise RequestError("the roster lists another node key for this agency: leave with the node that it lists")
        person, now = signatory.person.person_id, round_moment(self._clock())
        document = LeaveOrder(self._node.agency, node_key, person, now).sign(signer.key.signing_key)
        with self._node.engine.begin() as connection:
            enter_stage(connection, Stage.LEAVING, stamp(now))
            write_fact(connection, Fact.LEAVE_ORDER, document)
            said: Told = {"actor": str(person), "subject": f"order {hashlib.sha256(document).hexdigest()}"}
            record(connection, now, NO_SEARCH, "leaving", "", **said)

    def open_work(self) -> OpenWork:
        """What is under way."""
        undecided = disclosure_requests.c.state.in_(["pending", "granted", "withholding"]) & (disclosure_requests.c.handle != "")
        ends = {
            "searches of this agency": (searches, searches.c.state.not_in((*ENDED, "released"))),
            "grants held": (held_grants, held_grants.c.state == "standing"),
            "searches in custody": (custody, custody.c.state == "open"),
            "photographs asked for": (disclosure_requests, undecided),
            "messages to send": (outbox, (outbox.c.state == READY) & (outbox.c.kind != EXPUNCTION)),
            "messages to handle": (inbox, inbox.c.state.in_(["new", "waiting"])),
        }
        not_closed = subject_requests.c.state != State.CLOSED.value
        persons = {
            "requests of persons (close them with `sealmatch node subject`)": (
                subject_requests,
                not_closed,
            ),
            "exigent grants whose clock runs (ratify them, or wait for the lapse)": (exigent_grants, exigent_grants.c.state == "running"),
        }
        with self._node.engine.begin() as connection:
            found = [{name: _count(connection, *what) for name, what in one.items()} for one in (ends, persons)]
        return OpenWork(*({name: count for name, count in one.items() if count} for one in found))

    def destroy(self) -> None:
        """Data keys first, with the counts; then records, photographs and blocks, batch by batch; then everything else that goes."""
        node = self._node
        stage = retirement(node.engine)
        if stage is not None and stage.stage is Stage.LEAVING:
            root = self._gallery_root()
            with node.engine.begin() as connection:
                live = records.c.expunged_at.is_(None)
                counts = {
                    "records": _count(connection, records, live),
                    "photographs": _count(connection, records, records.c.sealed_photograph.is_not(None)),
                    "template_blocks": _count(connection, block_keys),
                    "sealing_keys": _count(connection, sealing_keys, sealing_keys.c.sealed_private.is_not(None)),
                    "mailbox_messages": 0,
                    "gallery_root": root.hex(),
                }
                _write_counts(connection, counts)
                connection.execute(delete(block_keys))
                connection.execute(delete(next_block_keys))
                connection.execute(update(sealing_keys).values(sealed_private=None))
                end_what_is_open(connection, NOTE)
                enter_stage(connection, Stage.DESTROYING, stamp(self._clock()))
                record(connection, self._clock(), NO_SEARCH, "keys destroyed", f"of {counts['template_blocks']} blocks of templates")
        self._delete_all(records, records.c.row)
        self._delete_all(template_blocks, template_blocks.c.block)
        self._delete_all(next_template_blocks, next_template_blocks.c.block)
        with node.engine.begin() as connection:
            for table in _DESTROYED:
                connection.execute(delete(table))
            connection.execute(update(answers).values(sealed_root=None, sealed_release=None))
            connection.execute(delete(facts).where(facts.c.name.in_([MODEL_FACT, Fact.PLACES_KEY.value, Fact.REEMBEDDING.value])))
        self._wipe()

    async def tell_broker(self) -> None:
        """Enter what still belongs into the log, and have the broker delete every message that it holds for this agency, unread.

        `BrokerError` when it cannot be reached: everything that was done stays done.
        """
        node, log = self._node, self._node.parties.trusted.possibly_expired.log
        await self._enter_waiting()
        await node.link.give_back_leases()
        while leases := await node.link.lease():
            for lease in leases:
                document = await node.link.acknowledge(lease)
                receipt = MailboxReceipt.read(document, log)
                if (receipt.message_id, receipt.recipient) != (lease.message_id, node.agency):
                    raise StoreError("the broker's receipt is for another message than was given back: type the command again")
                with node.engine.begin() as connection:
                    kept = insert(receipts).prefix_with("OR IGNORE").values(message_id=str(lease.message_id), document=document)
                    if connection.execute(kept).rowcount:
                        counts = _read_counts(connection)
                        _write_counts(connection, {**counts, "mailbox_messages": counts["mailbox_messages"] + 1})

    def sign_receipt(self, *, broker_told: bool) -> bytes:
        """The receipt, made once, with the log entry that names it queued beside it."""
        node = self._node
        with node.engine.begin() as connection:
            made = read_fact(connection, Fact.LEAVE_RECEIPT)
            if made is not None:
                return made
            order = read_fact(connection, Fact.LEAVE_ORDER)
            counts = _read_counts(connection)
            if order is None:
                raise StoreError("the order to leave is not in the store: it was changed; keep it, and tell the federation")
            record(connection, self._clock(), NO_SEARCH, "gallery destroyed", f"{counts['records']} records")
            head = connection.execute(select(ledger.c.sequence, ledger.c.hash).order_by(ledger.c.sequence.desc()).limit(1)).one()
            root = bytes.fromhex(counts.pop("gallery_root"))
            document = LeaveReceipt(
                agency=node.agency,
                order=order,
                **counts,
                broker_told=broker_told,
                gallery_root=root,
                kept=tuple(sorted(name for name, table in KEPT.items() if _count(connection, table))),
                ledger_rows=int(head.sequence),
                ledger_head=bytes(head.hash),
                destroyed_at=round_moment(self._clock()),
            ).sign(node.keyring.node_key)
            write_fact(connection, Fact.LEAVE_RECEIPT, document)
            digest = hashlib.sha256(document).digest()
            if Role.HOLDER in node.config.roles:  # the log takes expunctions of holders alone; of others the roster's next entry tells
                self._outbox().gallery_destroyed(connection, root, digest)
            record(connection, self._clock(), NO_SEARCH, "deletion receipt signed", "", subject=f"receipt {digest.hex()}")
        return document

    async def enter_receipt(self) -> None:
        """Enter into the public log that the receipt was made; `BrokerError` as in `tell_broker`."""
        await self._enter_waiting()

    def end(self) -> None:
        """Destroy node and witness key: from here on nobody speaks for the agency with what lies in this folder. May be done again."""
        with self._node.engine.begin() as connection:
            stage = retirement_in(connection)
            if stage is not None and stage.stage is Stage.DESTROYING:
                enter_stage(connection, Stage.LEFT, stamp(self._clock()))
                record(connection, self._clock(), NO_SEARCH, "left", "node key destroyed")
        self._node.keyring.replace_with_unlisted(self._node.folder)
        self._wipe()

    def _gallery_root(self) -> bytes:
        node = self._node
        with node.engine.begin() as connection:
            enrolled = connection.execute(select(facts.c.name).where(facts.c.name == MODEL_FACT)).first() is not None
        if Role.HOLDER not in node.config.roles or not enrolled:
            return NO_GALLERY
        return RecordStore(node.engine, node.vault, node.embedder().model).commitment()

    def _delete_all(self, table: Table, key: ColumnElement[int]) -> None:
        """In transactions of a bearable size, however large the gallery; what is deleted is overwritten (`store`)."""
        while True:
            with self._node.engine.begin() as connection:
                some = connection.execute(select(key).order_by(key).limit(_AT_ONCE)).scalars().all()
                if not some:
                    return
                connection.execute(delete(table).where(key >= some[0], key <= some[-1]))

    def _wipe(self) -> None:
        """Write the database anew without free pages, and empty its write-ahead log."""
        connection = self._node.engine.raw_connection()
        try:
            connection.cursor().execute("VACUUM")
        except sqlite3.OperationalError as error:
            raise RequestError(
                "the store cannot be written anew: end other commands, make room on its disk, and type this again"
            ) from error
        finally:
            connection.close()
        if not forget_deleted(self._node.engine):
            raise RequestError("the store is in use by another command: let it end, and type this one again")

    async def _enter_waiting(self) -> None:
        """What waits for the log, in order. What the broker refuses for good is marked so; anything else is raised."""
        while waiting := [row for row in next_outgoing(self._node.engine) if row.kind != MESSAGE]:
            for row in waiting:
                with self._node.engine.begin() as connection:
                    data = content_of(connection, row.number)
                note = ""
                try:
                    await enter(self._node.link, row.kind, data, row.grant_digest, lambda _: None)
                except BrokerRefusedError as error:
                    if not error.is_final:
                        raise
                    note = error.problem
                with self._node.engine.begin() as connection:
                    mark_refused(connection, row.number, note) if note else mark_sent(connection, row.number)

    def _outbox(self) -> Outbox:
        return Outbox(self._node.agency, self._node.keyring.node_key, self._node.vault, self._clock, lambda: None)


@dataclass(frozen=True)
class RosterRemoval:
    """What the root holders leave out of the next roster, and what they must mend in it: agencies whose entry names the one that left."""

    agency: str
    persons: list[str]
    named_by: list[str]
    roster_version: int
    receipt_sha256: str


def roster_removal(node: Node, receipt: bytes, roster: Roster) -> RosterRemoval:
    """The entry for the root holders, who draft the next version without it (`sealmatch roster draft`) and sign that."""
    persons = [str(one.person_id) for one in roster.agency(node.agency).persons]
    named_by = [str(one.agency_id) for one in roster.agencies if one.legal_office == node.agency and one.agency_id != node.agency]
    roots = [f"root set: {one.holder}" for one in roster.root.keys if one.holder == node.agency]
    return RosterRemoval(str(node.agency), persons, named_by + roots, roster.version, hashlib.sha256(receipt).hexdigest())


def made_receipt(node: Node) -> bytes | None:
    """The receipt of a node that has one."""
    with node.engine.begin() as connection:
        return read_fact(connection, Fact.LEAVE_RECEIPT)


def _count(connection: Connection, table: Table, *where: ColumnElement[bool]) -> int:
    return int(connection.execute(select(func.count()).select_from(table).where(*where)).scalar_one())


def _write_counts(connection: Connection, counts: dict[str, Any]) -> None:
    write_fact(connection, Fact.LEAVE_COUNTS, json.dumps(counts).encode("ascii"))


def _read_counts(connection: Connection) -> dict[str, Any]:
    stored = read_fact(connection, Fact.LEAVE_COUNTS)
    if stored is None:
        raise StoreError("what was destroyed is not written down: the store was changed; keep it, and tell the federation")
    found: dict[str, Any] = json.loads(stored)
    return found
