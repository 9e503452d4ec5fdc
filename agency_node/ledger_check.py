"""Checks a node's ledger and says where it breaks: row by row, then against what persons signed for (R50, R53).

Who has the database file can write anything into it, triggers or not. What such a hand cannot do is invent signatures: a chain that was
computed anew from an earlier row on no longer ends a signed week with the hash that was signed, nor does one that was cut before it.

HAZARD: rows after the last sign-off are held by the chain alone. Whoever rewrites them and computes the chain to its end anew, or cuts it
there, is not caught here. The same holds when sign-offs are taken out of the store with the rows: so whoever signs keeps the document, and
`held` is checked as well.

Left to others: appending rows (`journal`), what a week's sign-off says (`ledger_review`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import Connection, Engine, select

from agency_node.journal import FIRST_PREVIOUS, row_hash
from agency_node.ledger_review import SignOff
from agency_node.store import reading
from agency_node.tables import ledger, ledger_sign_offs
from crypto.canonical import AgencyId
from crypto.errors import PeerError
from crypto.roster import Roster

TRIGGERS: Final = ("ledger_appended", "ledger_kept", "ledger_unchanged", "sign_offs_kept", "sign_offs_once", "sign_offs_unchanged")
"""What migration 0007 makes; a missing one is a finding by itself."""
_MOMENT: Final = re.compile(r"20[0-9]{2}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{2}Z")
_AT_ONCE: Final = 1000


@dataclass(frozen=True)
class Finding:
    """What does not hold, and from which row on; 0 where no row is at fault."""

    sequence: int
    says: str


@dataclass(frozen=True)
class LedgerState:
    """What a check found: number of rows, the last row's number and hash, the last row that a person signed for, and what does not hold."""

    rows: int
    sequence: int
    head: bytes = field(repr=False)
    signed_to: int
    findings: tuple[Finding, ...]


def check_ledger(engine: Engine, roster: Roster | None, agency: AgencyId, held: Sequence[bytes] = ()) -> LedgerState:
    """The ledger's state, after these checks:

    1. rows are numbered from one without a gap, and stand in the moment's one spelling (R52)
    2. each row names the hash of the one before, and its own hash is that of its content
    3. the triggers are there that keep rows as they are
    4. every sign-off in the store verifies, and the row that it names has the hash that was signed
    5. the same of the documents in `held`, which their signers kept

    Findings of 1 and 2 end the chain where they are; what comes after cannot be told. The findings are in ascending order of rows. Without
    a roster, which a node has not before it met its broker, no sign-off can be checked, and each is a finding.
    """
    with reading(engine).begin() as connection:
        hashes, findings = _walk(connection)
        findings += _missing_triggers(connection)
        stored = connection.execute(select(ledger_sign_offs).order_by(ledger_sign_offs.c.sequence)).all()
        rows = connection.exec_driver_sql("SELECT count(*) FROM ledger").scalar_one()
    last_good = 0
    signed_to = 0
    documents = [(bytes(row.document), f"of week {row.week}") for row in stored] + [(data, "that was given") for data in held]
    for document, which in documents:
        found = _check_sign_off(document, which, roster, agency, hashes, last_good)
        if isinstance(found, Finding):
            findings.append(found)
        else:
            last_good = max(last_good, found)
            signed_to = last_good
    ordered = tuple(sorted(dict.fromkeys(findings), key=lambda one: one.sequence))
    return LedgerState(int(rows), len(hashes), hashes[-1] if hashes else FIRST_PREVIOUS, signed_to, ordered)


def _walk(connection: Connection) -> tuple[list[bytes], list[Finding]]:
    """The hashes of the rows that hold, in order, and the first thing that does not."""
    hashes: list[bytes] = []
    for row in _rows(connection):
        place, previous = len(hashes) + 1, hashes[-1] if hashes else FIRST_PREVIOUS
        if row["sequence"] != place:
            return hashes, [Finding(place, f"row {place} is missing: after row {place - 1} comes row {row['sequence']}")]
        if bytes(row["previous"]) != previous:
            return hashes, [Finding(place, f"row {place} does not follow row {place - 1}: one of the two was changed, removed or moved")]
        if not _MOMENT.fullmatch(row["at"]):
            return hashes, [Finding(place, f"row {place} has no moment in UTC to the hundredth of a second")]
        if row_hash(row) != bytes(row["hash"]):
            return hashes, [Finding(place, f"row {place} was changed: its content is not what its hash was taken over")]
        hashes.append(bytes(row["hash"]))
    return hashes, []


def _rows(connection: Connection) -> Iterator[dict[str, Any]]:
    found = connection.execution_options(yield_per=_AT_ONCE).execute(select(ledger).order_by(ledger.c.sequence))
    for row in found.mappings():
        yield dict(row)


def _missing_triggers(connection: Connection) -> list[Finding]:
    there = set(connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'trigger'").scalars())
    return [
        Finding(0, f"the trigger {name} is gone: somebody opened the way to change the ledger") for name in TRIGGERS if name not in there
    ]


def _check_sign_off(
    document: bytes, which: str, roster: Roster | None, agency: AgencyId, hashes: Sequence[bytes], last_good: int
) -> int | Finding:
    """The row up to which this sign-off holds, or what does not hold."""
    if roster is None:
        return Finding(0, f"the sign-off {which} cannot be checked: no roster was pinned yet")
    try:
        signed = SignOff.read(document, roster)
    except PeerError as error:
        return Finding(0, f"the sign-off {which} does not verify: {error}")
    if signed.agency != agency:
        return Finding(0, f"the sign-off {which} is of another agency's ledger")
    whose = f"{signed.person} signed for week {signed.week.text}"
    if signed.sequence > len(hashes):
        return Finding(
            signed.sequence, f"row {signed.sequence}, to which {whose}, is not here in a whole chain: the ledger was cut or broken"
        )
    if hashes[signed.sequence - 1] != signed.hash:
        return Finding(
            last_good + 1,
            f"rows {last_good + 1} to {signed.sequence} are not those for which {whose}: at least one was changed and the chain "
            "computed anew",
        )
    return signed.sequence
