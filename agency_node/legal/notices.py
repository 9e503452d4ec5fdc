"""Notices of a lapse to the prosecutor and to the oversight body: signed by the node, put into a folder, carried out by a person (R4).

A node sends nothing to anybody but the broker; so a notice is a file in DIR/notices, listed by `node status`. Invariants: a notice names
the search, its grant, those who signed and the clock, and nothing of case, face or lead; it is made in the transaction of the lapse, and
written until it lies in the folder, also when the process died between; who has the roster can verify it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, Engine, insert, select, update

from agency_node.journal import record, stamp
from agency_node.store import Glance
from agency_node.tables import lapse_notices
from crypto.canonical import JsonObject
from crypto.fields import Fields
from crypto.grant_claims import GrantClaims
from crypto.keys import SigningKey, VerifyingKey
from crypto.signed import DocumentKind, read_document, sign_document

NOTICE_KIND: Final = DocumentKind("sealmatch-1/lapse-notice", 8192)
FOLDER: Final = "notices"
RECIPIENTS: Final = ("prosecutor", "oversight")


def make_notices(
    connection: Connection, claims: GrantClaims, ratify_by: str, on_lapse: str, leads_seen: int, node_key: SigningKey, now: datetime
) -> None:
    """Sign one notice to each recipient, in the transaction of the lapse."""
    reviewers = [str(one) for one in claims.reviewers]
    for recipient in RECIPIENTS:
        content: JsonObject = {
            "to": recipient,
            "agency": str(claims.requesting_agency),
            "originating_agency": str(claims.originating_agency),
            "search_id": str(claims.search_id),
            "grant_id": str(claims.grant_id),
            "grant_digest": claims.digest.hex(),
            "case_commitment": claims.case_commitment.hex(),
            "investigator": str(claims.investigator),
            "reviewers": [*reviewers],
            "ratify_by": ratify_by,
            "lapsed_at": stamp(now),
            "leads_seen": leads_seen,
            "on_lapse": on_lapse,
            "rule": "R4",
        }
        name = f"{claims.search_id}-{recipient}.json"
        document = sign_document(NOTICE_KIND, content, node_key)
        values = {"name": name, "search_id": str(claims.search_id), "recipient": recipient, "document": document, "made_at": stamp(now)}
        connection.execute(insert(lapse_notices).values(**values))


def read_notice(data: bytes, node_key: VerifyingKey) -> Fields:
    """The members of a notice that this node key signed; a `PeerError` for anything else."""
    document = read_document(NOTICE_KIND, data)
    document.check_only_signer(node_key)
    return document.unverified_fields("notice")


_NOT_WRITTEN: Final = Glance(
    select(lapse_notices.c.name, lapse_notices.c.search_id, lapse_notices.c.recipient, lapse_notices.c.document).where(
        lapse_notices.c.written_at.is_(None)
    )
)


def write_notices(engine: Engine, folder: Path, clock: Callable[[], datetime]) -> None:
    """Write what was made and does not lie in the folder yet; a file appears whole or not at all, readable by the node's owner only."""
    for name, search_id, recipient, document in _NOT_WRITTEN.rows(engine):
        try:
            _write(folder / FOLDER, name, document)
        except OSError:
            return  # a full disk or a foreign folder: status shows that it is not written, and the next round tries again
        with engine.begin() as connection:
            connection.execute(update(lapse_notices).where(lapse_notices.c.name == name).values(written_at=stamp(clock())))
            record(connection, clock(), search_id, "notice made", f"to the {recipient}: {FOLDER}/{name}")


def _write(folder: Path, name: str, document: bytes) -> None:
    folder.mkdir(mode=0o700, exist_ok=True)
    partly = folder / f"{name}.part"
    descriptor = os.open(partly, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(document)
        file.flush()
        os.fsync(file.fileno())
    partly.replace(folder / name)
