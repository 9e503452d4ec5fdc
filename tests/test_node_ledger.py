"""A node's audit ledger: what its rows hold, that only appending is possible, and that every kind of tampering is caught and placed.

Real stores and real processes; the attacker of the second half has the database file and takes the triggers off.
"""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine
from sqlalchemy.exc import IntegrityError
from typer.testing import CliRunner

from agency_node.cli import app
from agency_node.errors import RequestError
from agency_node.journal import FIRST_PREVIOUS, About, acting_as, append, record, row_hash, stamp
from agency_node.ledger_check import TRIGGERS, check_ledger
from agency_node.ledger_review import SignOff, end_of, sign_off, weeks_to_review
from agency_node.legal.persons import PersonKey
from agency_node.node import note_start, open_node
from agency_node.overview import ledger_rows
from agency_node.store import DATABASE_FILE, open_store
from crypto.canonical import AgencyId, PersonId
from crypto.errors import AgencyRoleError, GrantSignatureError, TrainingExpiredError, UnknownKeyError
from crypto.roster import Roster
from crypto.roster_entries import PersonRole
from crypto.sealing_key import Week
from tests.node_samples import older_store
from tests.node_world import World, investigator, person_key, reviewer, search_claims
from tests.sample_federation import (
    INVESTIGATOR,
    LAKESIDE,
    LAKESIDE_REVIEWER,
    NORTHPORT,
    NOW,
    OVERSIGHT,
    REVIEWER,
    claims,
    credential,
    person,
    roster,
    signing_key,
    two_agency_claims,
    with_agency,
)

WEEK = Week.at(NOW)
AFTER = end_of(WEEK) + timedelta(hours=1)
OFFICER = PersonId("state-oversight:officer")


def with_officer() -> Roster:
    """The sample roster, with a key of the responsible officer of the custodian, which has no legal office."""
    return with_agency(roster(), OVERSIGHT, persons=(person(OFFICER, credential(OFFICER, PersonRole.OFFICER)),))


def lakeside_reviewer() -> PersonKey:
    return person_key(LAKESIDE_REVIEWER, PersonRole.REVIEWER)


def filled(folder: Path, rows: int = 6, now: datetime = NOW) -> Engine:
    engine = open_store(folder / DATABASE_FILE)
    with engine.begin() as connection:
        for number in range(rows):
            record(connection, now + timedelta(minutes=number), "", "event", f"number {number}")
    return engine


def says(engine: Engine, held: list[bytes] | None = None) -> list[tuple[int, str]]:
    return [(one.sequence, one.says) for one in check_ledger(engine, roster(), LAKESIDE, held or []).findings]


# --- rows -------------------------------------------------------------------------------------------------------------


@pytest.mark.rule("R50")
def test_the_database_lets_nobody_change_remove_or_slip_in_a_row(tmp_path: Path) -> None:
    """R50: rows are appended and nothing else; REPLACE, which deletes without a deletion's trigger, is refused as well."""
    engine = filled(tmp_path)
    before = ledger_rows(engine)
    names = ", ".join(before[0])
    again = f"SELECT {names} FROM ledger WHERE sequence = 6"  # noqa: S608  # names of columns
    for statement in (
        "UPDATE ledger SET detail = 'other' WHERE sequence = 3",
        "DELETE FROM ledger WHERE sequence = 6",
        "DELETE FROM ledger",
        f"INSERT OR REPLACE INTO ledger ({names}) {again}",
        f"INSERT INTO ledger ({names}) {again.replace('sequence', 'sequence + 2', 1)}",
        f"INSERT INTO ledger ({names}) {again.replace('sequence', 'sequence + 1', 1)}",
    ):
        with pytest.raises(IntegrityError, match=r"the ledger is appended to|follows the last one"), engine.begin() as connection:
            connection.exec_driver_sql(statement)
    assert ledger_rows(engine) == before
    assert says(engine) == []


@pytest.mark.rule("R52")
def test_a_moment_is_to_the_hundredth_in_utc_or_is_no_row(tmp_path: Path) -> None:
    """R52: what the writer cuts to the hundredth, the database asks for."""
    engine = filled(tmp_path, 1)
    assert ledger_rows(engine)[0]["at"] == "2026-11-23T16:12:04.05Z"
    for wrong in ("2026-11-23T16:12:04Z", "2026-11-23T16:12:04.05", "2026-11-23T16:12:04.050Z", "2026-11-23 16:12:04.05Z"):
        row = {name: str(value) for name, value in ledger_rows(engine)[0].items() if name not in ("sequence", "previous", "hash")}
        with pytest.raises(IntegrityError), engine.begin() as connection:
            append(connection, {**row, "at": wrong})


@pytest.mark.rule("R51")
@pytest.mark.rule("R54")
def test_a_row_says_who_under_which_grant_for_whom_and_the_case_as_a_commitment(tmp_path: Path) -> None:
    """R51, R54: the first row of a search under its grant tells; later rows of it repeat what the grant says, rows before it do not."""
    engine, content = open_store(tmp_path / DATABASE_FILE), two_agency_claims()
    search_id = str(content.search_id)
    with engine.begin() as connection:
        record(connection, NOW, search_id, "refused grant", actor="lakeside-sheriff", outcome="refused")
        record(connection, NOW, search_id, "grant taken", about=About.of(content), actor=str(NORTHPORT))
        with acting_as("account 7", "command node release"):
            record(connection, NOW, search_id, "shown", recipient=str(NORTHPORT))
        record(connection, NOW, "0" * 32, "another search")
    first, taken, shown, other = ledger_rows(engine)
    assert first["grant_digest"] == other["grant_digest"] == ""
    for row in (taken, shown):
        assert (row["requester"], row["secondary"]) == ("northport-pd", "eastfield-pd")
        assert (row["grant_digest"], row["case_commitment"]) == (content.digest.hex(), content.case_commitment.hex())
    assert (shown["actor"], shown["source"], shown["recipient"]) == ("account 7", "command node release", "northport-pd")
    assert (taken["actor"], taken["source"]) == ("northport-pd", "serve")


@pytest.mark.rule("R51")
async def test_a_search_leaves_who_asked_what_was_answered_and_who_decided(tmp_path: Path) -> None:
    """R51 at requester, holder and custodian: every row of the search names its grant; nothing of case, order or offence stands there."""
    world = World(tmp_path)
    for agency in (OVERSIGHT, LAKESIDE):
        await world.node(agency)
    content = await world.released()
    rows = {agency: ledger_rows(world.nodes[agency].engine, content.search_id) for agency in (NORTHPORT, LAKESIDE, OVERSIGHT)}
    for found in rows.values():
        assert {row["grant_digest"] for row in found} == {content.digest.hex()}
        assert {row["requester"] for row in found} == {"northport-pd"}
        text = json.dumps(found)
        assert not [one for one in ("26-CF-101", "Wis. Stat", "Circuit", "warrant", "13A") if one in text]
    by_event = {agency: {str(row["event"]): row for row in found} for agency, found in rows.items()}
    assert by_event[NORTHPORT]["drafted"]["actor"] == INVESTIGATOR
    assert by_event[NORTHPORT]["granted"]["actor"] == REVIEWER
    taken, answered = by_event[LAKESIDE]["grant taken"], by_event[LAKESIDE]["answered"]
    assert taken["detail"] == f"investigator {INVESTIGATOR}, reviewer {REVIEWER}"
    for agency, place in ((NORTHPORT, "requesting"), (LAKESIDE, "holding"), (OVERSIGHT, "custody")):
        decided = by_event[agency]["policy"]
        assert (decided["detail"], decided["outcome"]) == (f"{place} {LAKESIDE}: permit-granted-search R32", "allowed")
    assert (answered["recipient"], str(answered["subject"])[:7]) == ("northport-pd", "answer ")
    assert by_event[LAKESIDE]["handled probe"]["actor"] == "northport-pd"
    for agency, engine in ((one, world.nodes[one].engine) for one in rows):
        assert check_ledger(engine, roster(), agency).findings == ()
    world.close()


@pytest.mark.rule("R50")
async def test_a_refusal_names_who_asked_with_which_grant_and_why(tmp_path: Path) -> None:
    """R50, R51: what was refused stands there as well, with the code or rule."""
    world = World(tmp_path)
    content = search_claims()
    world.broker.enter_grant(content.digest)
    await world.requester_with_key(content)
    node = await world.node(LAKESIDE)
    message = world.grant(content, LAKESIDE, token=b"{}")
    await world.hand_in(LAKESIDE, message)
    (row,) = [one for one in ledger_rows(node.engine) if one["event"] == "refused grant"]
    assert (row["actor"], row["outcome"], row["subject"]) == ("northport-pd", "refused", f"grant {content.digest.hex()}")
    assert row["source"] == f"message {message.message_id}"
    assert row["detail"]
    assert row["requester"] == "", "a grant that does not verify tells nothing"
    world.close()


def test_two_processes_write_one_chain(tmp_path: Path) -> None:
    """Commands and the serving node write at once: the write lock makes one order of them, and no row is lost."""
    open_store(tmp_path / DATABASE_FILE).dispose()
    program = (
        "import sys; from datetime import UTC, datetime; from pathlib import Path\n"
        "from agency_node.journal import record; from agency_node.store import open_store\n"
        "engine = open_store(Path(sys.argv[1]))\n"
        "for number in range(150):\n"
        "    with engine.begin() as connection: record(connection, datetime.now(UTC), '', sys.argv[2], str(number))\n"
    )
    argv = [sys.executable, "-c", program, str(tmp_path / DATABASE_FILE)]
    writers = [subprocess.Popen([*argv, name]) for name in ("one", "other")]  # noqa: S603  # our own program
    assert [one.wait(120) for one in writers] == [0, 0]
    engine = open_store(tmp_path / DATABASE_FILE)
    rows = ledger_rows(engine)
    assert [row["sequence"] for row in rows] == list(range(1, 301))
    for name in ("one", "other"):
        assert [row["detail"] for row in rows if row["event"] == name] == [str(number) for number in range(150)]
    assert says(engine) == []


def test_what_the_journal_held_is_chained(tmp_path: Path) -> None:
    engine = older_store(tmp_path, "0003")
    with engine.begin() as connection:
        for number in range(3):
            values = (stamp(NOW), "ab" * 16, "old", str(number))
            connection.exec_driver_sql("INSERT INTO journal (at, search_id, event, detail) VALUES (?, ?, ?, ?)", values)
    engine.dispose()
    opened = filled(tmp_path, 1)
    assert [(row["event"], row["detail"]) for row in ledger_rows(opened)] == [
        ("old", "0"),
        ("old", "1"),
        ("old", "2"),
        ("event", "number 0"),
    ]
    assert says(opened) == []


@pytest.mark.rule("R50")
def test_a_changed_setting_is_seen_at_the_next_start(tmp_path: Path) -> None:
    """R50: privileged acts; the digest of node.toml stands in the row of every start."""
    folder = made_node(tmp_path)
    node = open_node(folder, lambda: NOW)
    note_start(node)
    note_start(node)
    path = folder / "node.toml"
    path.write_text(path.read_text() + 'administrator = "northport-pd:it"\n')
    note_start(node)
    assert [row["event"] for row in ledger_rows(node.engine)] == ["started", "started", "configuration changed", "started"]
    subjects = [row["subject"] for row in ledger_rows(node.engine)]
    assert subjects[0] == subjects[1] != subjects[2] == subjects[3]


# --- whoever has the file ---------------------------------------------------------------------------------------------


def opened_up(folder: Path) -> sqlite3.Connection:
    """The database in the hands of its administrator: triggers gone."""
    connection = sqlite3.connect(folder / DATABASE_FILE, isolation_level=None)
    connection.row_factory = sqlite3.Row
    for name in TRIGGERS:
        connection.execute(f"DROP TRIGGER {name}")
    return connection


def put_back(folder: Path, triggers: list[str]) -> None:
    with sqlite3.connect(folder / DATABASE_FILE) as connection:
        for one in triggers:
            connection.execute(one)


def rechain(connection: sqlite3.Connection) -> None:
    """Compute every hash anew, in the order of the rows, and number them without a gap."""
    rows: list[dict[str, Any]] = [dict(row) for row in connection.execute("SELECT * FROM ledger ORDER BY sequence")]
    connection.execute("DELETE FROM ledger")
    previous = FIRST_PREVIOUS
    for number, row in enumerate(rows, start=1):
        row |= {"sequence": number, "previous": previous}
        row["hash"] = previous = row_hash(row)
        connection.execute(f"INSERT INTO ledger ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})", list(row.values()))  # noqa: S608


def changed(connection: sqlite3.Connection) -> None:
    connection.execute("UPDATE ledger SET detail = 'other' WHERE sequence = 3")


def removed(connection: sqlite3.Connection) -> None:
    connection.execute("DELETE FROM ledger WHERE sequence = 3")


def removed_and_renumbered(connection: sqlite3.Connection) -> None:
    removed(connection)
    for number in (4, 5, 6):
        connection.execute("UPDATE ledger SET sequence = ? WHERE sequence = ?", (number - 1, number))


def inserted(connection: sqlite3.Connection) -> None:
    for number in (6, 5, 4, 3):
        connection.execute("UPDATE ledger SET sequence = ? WHERE sequence = ?", (number + 1, number))
    row = dict(connection.execute("SELECT * FROM ledger WHERE sequence = 2").fetchone()) | {"sequence": 3, "detail": "slipped in"}
    row["previous"] = row["hash"]
    row["hash"] = row_hash(row)
    connection.execute(f"INSERT INTO ledger ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})", list(row.values()))  # noqa: S608


def reordered(connection: sqlite3.Connection) -> None:
    for before, after in ((3, 100), (4, 3), (100, 4)):
        connection.execute("UPDATE ledger SET sequence = ? WHERE sequence = ?", (after, before))


@pytest.mark.rule("R50")
@pytest.mark.rule("R53")
@pytest.mark.parametrize(
    ("attack", "sequence", "sentence"),
    [
        (changed, 3, "row 3 was changed"),
        (removed, 3, "row 3 is missing: after row 2 comes row 4"),
        (removed_and_renumbered, 3, "row 3 does not follow row 2"),
        (inserted, 4, "row 4 does not follow row 3"),
        (reordered, 3, "row 3 does not follow row 2"),
    ],
)
def test_tampering_is_caught_and_placed(tmp_path: Path, attack: Callable[[sqlite3.Connection], None], sequence: int, sentence: str) -> None:
    """Also when the triggers are put back: the chain tells, and where. R53: alert on tamper."""
    engine = filled(tmp_path)
    assert says(engine) == []
    with sqlite3.connect(tmp_path / DATABASE_FILE) as connection:
        own = [row[0] for row in connection.execute("SELECT sql FROM sqlite_master WHERE type = 'trigger' AND tbl_name LIKE 'ledger%'")]
    hand = opened_up(tmp_path)
    assert sorted(one for place, one in says(engine) if place == 0) == [
        f"the trigger {name} is gone: somebody opened the way to change the ledger" for name in TRIGGERS
    ]
    attack(hand)
    hand.close()
    put_back(tmp_path, own)
    ((where, said),) = says(engine)
    assert where == sequence
    assert said.startswith(sentence)


@pytest.mark.rule("R53")
@pytest.mark.parametrize("attack", [changed, removed, reordered])
def test_a_chain_computed_anew_does_not_end_a_signed_week(tmp_path: Path, attack: Callable[[sqlite3.Connection], None]) -> None:
    """R53: what a person signed for cannot be computed; the finding says between which rows the change lies."""
    engine = filled(tmp_path)
    sign_off(engine, roster(), LAKESIDE, WEEK, lakeside_reviewer(), AFTER)
    with engine.begin() as connection:
        record(connection, AFTER, "", "later")
    assert says(engine) == []
    hand = opened_up(tmp_path)
    attack(hand)
    rechain(hand)
    hand.close()
    found = [one for one in says(engine) if one[0]]
    assert found[0][0] == 1
    assert "rows 1 to 6 are not those for which lakeside-sheriff:counsel-1 signed for week 2026-W48" in found[0][1]
    assert len(found) == 1, "the chain itself is whole: only the signature tells"


@pytest.mark.rule("R53")
def test_a_cut_after_a_sign_off_is_caught(tmp_path: Path) -> None:
    """R53: rows that a person signed for are missing at the end; with the sign-off gone too, the signer's own copy tells."""
    engine = filled(tmp_path)
    document = sign_off(engine, roster(), LAKESIDE, WEEK, lakeside_reviewer(), AFTER)
    hand = opened_up(tmp_path)
    hand.execute("DELETE FROM ledger WHERE sequence > 4")
    found = [one for one in says(engine) if one[0]]
    assert found == [
        (
            6,
            "row 6, to which lakeside-sheriff:counsel-1 signed for week 2026-W48, is not here in a whole chain: "
            "the ledger was cut or broken",
        )
    ]
    hand.execute("DELETE FROM ledger_sign_offs")
    hand.close()
    assert [one for one in says(engine) if one[0]] == [], "nothing in the store tells any more"
    assert [one[0] for one in says(engine, [document]) if one[0]] == [6]


@pytest.mark.rule("R53")
def test_a_sign_off_is_not_forged_nor_made_for_another_ledger(tmp_path: Path) -> None:
    engine = filled(tmp_path)
    document = sign_off(engine, roster(), LAKESIDE, WEEK, lakeside_reviewer(), AFTER)
    signed = SignOff.read(document, roster())
    assert (signed.agency, signed.week, signed.sequence, signed.rows, signed.person) == (LAKESIDE, WEEK, 6, 6, LAKESIDE_REVIEWER)
    with pytest.raises(GrantSignatureError):
        SignOff.read(document.replace(b'"rows":6', b'"rows":5'), roster())
    with pytest.raises(UnknownKeyError):
        SignOff.read(replace(signed, person=PersonId("lakeside-sheriff:other")).sign(signing_key(LAKESIDE_REVIEWER)), roster())
    with pytest.raises(UnknownKeyError):
        SignOff.read(signed.sign(signing_key("nobody")), roster())
    with pytest.raises(AgencyRoleError):
        SignOff.read(replace(signed, person=INVESTIGATOR).sign(signing_key(INVESTIGATOR)), roster())
    other = replace(signed, agency=AgencyId("northport-pd"), person=REVIEWER).sign(signing_key(REVIEWER))
    assert [one[1] for one in says(engine, [other])] == ["the sign-off that was given is of another agency's ledger"]
    wrong_hash = replace(signed, hash=bytes(32)).sign(signing_key(LAKESIDE_REVIEWER))
    assert [one[0] for one in says(engine, [wrong_hash])] == [7], "what it would be the end of holds up to 6"


@pytest.mark.rule("R53")
def test_who_signs_for_which_week(tmp_path: Path) -> None:
    """R53, R16: a week that is over, once, by a trained reviewer of the own office or the officer; unsigned weeks are seen."""
    engine, own = filled(tmp_path), with_officer()
    early = end_of(WEEK) - timedelta(hours=1)
    with pytest.raises(RequestError, match="is not over"):
        sign_off(engine, own, LAKESIDE, WEEK, lakeside_reviewer(), early)
    for wrong in (investigator(), reviewer()):
        with pytest.raises(AgencyRoleError):
            sign_off(engine, own, LAKESIDE, WEEK, wrong, AFTER)
    lapsed = with_agency(
        own,
        LAKESIDE,
        persons=(person(LAKESIDE_REVIEWER, credential(LAKESIDE_REVIEWER, PersonRole.REVIEWER), trained_until=date(2026, 11, 1)),),
    )
    with pytest.raises(TrainingExpiredError):
        sign_off(engine, lapsed, LAKESIDE, WEEK, lakeside_reviewer(), AFTER)
    with pytest.raises(RequestError, match="nothing was recorded"):
        sign_off(engine, own, LAKESIDE, Week("2026-W40"), lakeside_reviewer(), AFTER)
    assert weeks_to_review(engine, early) == []
    assert [(one.week, one.rows, one.overdue) for one in weeks_to_review(engine, AFTER)] == [("2026-W48", 6, False)]
    assert [one.overdue for one in weeks_to_review(engine, AFTER + timedelta(days=7))] == [True]
    sign_off(engine, own, OVERSIGHT, WEEK, person_key(OFFICER, PersonRole.OFFICER), AFTER)
    with pytest.raises(RequestError, match="is signed for"):
        sign_off(engine, own, OVERSIGHT, WEEK, person_key(OFFICER, PersonRole.OFFICER), AFTER)
    assert weeks_to_review(engine, AFTER) == []
    assert [row["actor"] for row in ledger_rows(engine) if row["event"] == "ledger signed off"] == [OFFICER]
    assert check_ledger(engine, own, OVERSIGHT).findings == ()


# --- the command ------------------------------------------------------------------------------------------------------


def made_node(folder: Path) -> Path:
    line = [
        *("node", "init", str(folder / "n"), "--agency", "northport-pd", "--name", "N", "--jurisdiction", "us-wi-northport"),
        *("--role", "requester", "--officer", "O", "--legal-office", "northport-attorney", "--broker", "http://127.0.0.1:1"),
        *("--root-fingerprint", "00" * 32, "--mode", "test", "--embedder", "synthetic-128", "--json"),
    ]
    result = CliRunner().invoke(app, line)
    assert result.exit_code == 0, result.output
    return folder / "n"


@pytest.mark.rule("R50")
def test_reading_the_ledger_is_a_row_of_it(tmp_path: Path) -> None:
    """R50: reading, checking and failing to read are acts; the operator without a key is the account."""
    folder = made_node(tmp_path)
    engine = filled(folder, 3)

    def typed(*words: str) -> Any:
        return CliRunner().invoke(app, ["node", "ledger", str(folder), *words])

    assert [row["detail"] for row in json.loads(typed("--json").stdout)["rows"]] == ["number 0", "number 1", "number 2"]
    assert len(json.loads(typed("--day", "2026-11-23", "--json").stdout)["rows"]) == 3
    assert "number 2" in typed().stdout
    assert typed("--search", "ab").exit_code == 2
    checked = json.loads(typed("--verify", "--json").stdout)
    assert (checked["ok"], checked["rows"], checked["findings"]) == (True, 7, [])
    rows = [row for row in ledger_rows(engine) if row["event"] == "command node ledger"]
    assert [row["outcome"] for row in rows] == ["done", "done", "done", "failed", "done"]
    assert {str(row["actor"]).split()[0] for row in rows} == {"account"}
    hand = opened_up(folder)
    changed(hand)
    hand.close()
    broken = typed("--verify")
    assert broken.exit_code == 1
    assert "NOT WHOLE" in broken.stdout
    assert "row 3 was changed" in broken.stdout
    assert ledger_rows(engine)[-1]["detail"] == "not whole from row 0", "missing triggers stand before any row"


def test_claims_of_the_sample_name_no_second_recipient() -> None:
    assert About.of(claims()).secondary == ""
