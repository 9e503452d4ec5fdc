"""A holder's budgets (R57, R60): counted before a scan, once, whoever tries how; refused with the rule, told to the custodian, shown.

The holder of `node_world` takes real grants and probes; the rest is Lakeside's own store and courier. Left to others: claims that are
repeated or withdrawn (`test_adversary_grants`, `test_cancel`).
"""

from __future__ import annotations

import json
import sqlite3
import tomllib
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, insert
from typer.testing import CliRunner

from agency_node.cli import app
from agency_node.config import BudgetLimits, Mode, NodeConfig
from agency_node.config import Role as NodeRole
from agency_node.errors import ConfigError
from agency_node.holder.answering import CLAIMED
from agency_node.holder.budgets import Budgets, Scope, names_of
from agency_node.node import create_node, open_node
from agency_node.refusals import RefusedByUsError
from agency_node.store import DATABASE_FILE, open_store
from agency_node.tables import answers, budget_uses, custody_parts, held_grants, inbox, outbox
from agency_node.vault import Vault
from crypto.canonical import GrantId, PersonId, SearchId
from crypto.entries import EntryKind
from crypto.grant_claims import GrantClaims
from crypto.lawful_steps import explain_refusal
from crypto.messages import Message
from crypto.notices import Refusal, RefusalReason
from tests.node_samples import older_store, store
from tests.node_world import OnePass, World, WorldNode, search_claims, the_refusal
from tests.sample_federation import EASTFIELD, INVESTIGATOR, LAKESIDE, NORTHPORT, NOW, ORIGINATOR, OVERSIGHT, digest, token_of

FEW = BudgetLimits(officer_per_day=2, case_per_day=2, agency_per_day=3)
MIDNIGHT = datetime(2026, 11, 25, tzinfo=UTC)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


async def lakeside(world: World, limits: BudgetLimits) -> WorldNode:
    node = world.nodes[LAKESIDE] = WorldNode(
        world.folder / LAKESIDE, LAKESIDE, (NodeRole.HOLDER,), world.broker, world.clock, budgets=limits
    )
    await node.start()
    for party in (NORTHPORT, OVERSIGHT):
        await world.node(party)
    return node


async def asked(world: World, content: GrantClaims, number: int) -> Message:
    """Lakeside is sent a good grant and its probe, and does what it does with them."""
    await world.holder_with_grant(content)
    probe = world.probe(content, number=number)
    await world.hand_in(LAKESIDE, probe)
    return probe


def claimed(node: WorldNode) -> list[str]:
    return [row.search_id for row in node.rows(answers)]


def uses(node: WorldNode, scope: Scope) -> int:
    return len(node.rows(budget_uses, scope=scope.value))


# --- through the whole holder -----------------------------------------------------------------------------------------


@pytest.mark.rule("R57")
async def test_many_cheap_grants_of_one_officer_under_different_cases(world: World) -> None:
    """R57: the third one is refused before a scan, though every grant of it is good and of another case."""
    node = await lakeside(world, FEW)
    for number in range(2):
        assert node.state_of(await asked(world, search_claims(number), number))[0] == "done"
    content = search_claims(2)
    probe = await asked(world, content, 2)
    state, note = node.state_of(probe)
    assert state == "refused"
    assert "2 searches a day for one officer" in note
    assert explain_refusal(RefusalReason.BUDGET).step in note
    assert "00:00 UTC" in explain_refusal(RefusalReason.BUDGET).step
    assert the_refusal(node, probe) is RefusalReason.BUDGET
    assert len(claimed(node)) == uses(node, Scope.OFFICER) == 2
    assert str(content.search_id) not in claimed(node)
    assert node.rows(inbox, message_id=str(probe.message_id))[0].data is None  # the probe is not kept (R22)


@pytest.mark.rule("R60")
async def test_the_custodian_and_the_log_are_told(world: World) -> None:
    """R60: the holder's word is final and nobody guesses at it: the release will say `refused`, rule 57; the log has an entry."""
    node = await lakeside(world, BudgetLimits(agency_per_day=0))
    content = search_claims(0)
    probe = await asked(world, content, 0)
    told = [one for one in node.queued() if one.header.recipient == OVERSIGHT]
    assert [Refusal.from_bytes(one.body) for one in told] == [Refusal(probe.message_id, RefusalReason.BUDGET, 57)]
    assert EntryKind.REFUSAL.value in node.types_queued()
    assert claimed(node) == []
    custodian = await world.hand_in(OVERSIGHT, world.grant(content, OVERSIGHT))
    await node.send()
    await custodian.turn()
    assert [(row.kind, row.note) for row in custodian.rows(custody_parts, holder=LAKESIDE)] == [("refusal", "13:57")]


@pytest.mark.rule("R57")
async def test_a_message_that_comes_again_is_counted_once(world: World) -> None:
    """R57: the same bytes, and the same probe under another number."""
    node = await lakeside(world, FEW)
    content = search_claims(0)
    probe = await asked(world, content, 0)
    again = world.probe(content)
    await world.hand_in(LAKESIDE, probe, again)
    assert the_refusal(node, again) is RefusalReason.REPLAYED
    assert uses(node, Scope.OFFICER) == uses(node, Scope.CASE) == uses(node, Scope.AGENCY) == 1


@pytest.mark.rule("R57")
async def test_a_crash_between_claim_and_answer_takes_once_and_gives_nothing_back(world: World) -> None:
    """R57: the process dies with the search claimed and starts on the next day: the search is scanned, on the day it was claimed."""
    node = await lakeside(world, BudgetLimits(officer_per_day=1))
    world.clock.now = MIDNIGHT - timedelta(minutes=2)
    content = search_claims(0, not_before=world.clock() - timedelta(hours=1), answer_deadline=MIDNIGHT + timedelta(hours=2))
    content = replace(content, expires=MIDNIGHT + timedelta(hours=9))
    world.broker.cosign_again()
    await world.holder_with_grant(content)
    probe = world.probe(content)
    world.post(LAKESIDE, probe)
    await node.receive()
    await node.courier.work(OnePass())
    await node.answering.scanned()
    with node.engine.begin() as connection:  # as if it had died before the answer was stored
        connection.execute(answers.update().values(state=CLAIMED, answer_digest=None, sealed_root=None, layout_id=None))
        connection.execute(inbox.update().where(inbox.c.message_id == str(probe.message_id)).values(state="done", data=probe.to_bytes()))
        connection.execute(delete(outbox))
    before = [(row.scope, row.claimed_at) for row in node.rows(budget_uses)]
    world.clock.now = MIDNIGHT + timedelta(minutes=2)
    world.broker.cosign_again()
    node.assemble()
    await node.start()
    await node.work()
    assert [row.state for row in node.rows(answers)] == ["answered"]
    assert [(row.scope, row.claimed_at) for row in node.rows(budget_uses)] == before
    assert {at[:10] for _, at in before} == {"2026-11-24"}
    hour = timedelta(hours=1)
    later = search_claims(1, not_before=world.clock() - hour, answer_deadline=world.clock() + hour, expires=world.clock() + 2 * hour)
    assert node.state_of(await asked(world, later, 1))[0] == "done"  # the new day is whole


# --- the count itself -------------------------------------------------------------------------------------------------


class Counter:
    """Budgets over a real store; a claim is the row and the count in one transaction, as `Answering._claim` makes them."""

    def __init__(self, folder: Path, limits: BudgetLimits) -> None:
        self.engine = store(folder)
        self.vault = Vault(digest("at rest"))
        self.budgets = Budgets(limits, self.vault)

    def claim(self, content: GrantClaims, now: datetime = NOW) -> bool:
        """Whether the search was within budget."""
        values = {
            "search_id": str(content.search_id),
            "grant_id": str(content.grant_id),
            "probe_digest": content.probe_digest,
            "face_commit": content.face_commit,
            "state": CLAIMED,
            "claimed_at": "",
        }
        try:
            with self.engine.begin() as connection:
                connection.execute(insert(answers).values(**values))
                self.budgets.spend(connection, content, now)
        except RefusedByUsError as error:
            return (error.reason, error.rule) != (RefusalReason.BUDGET, 57)
        return True

    def rows(self) -> int:
        with closing(sqlite3.connect(str(self.engine.url.database))) as connection:
            return int(connection.execute("SELECT count(*) FROM answers").fetchone()[0])


def of(number: int, **changes: Any) -> GrantClaims:
    """A grant; every number is another search, case and face. No probe is made for it."""
    return replace(
        search_claims(0),
        grant_id=GrantId(digest(f"g {number}")[:16].hex()),
        search_id=SearchId(digest(f"s {number}")[:16].hex()),
        probe_digest=digest(f"p {number}"),
        face_commit=digest(f"f {number}"),
        **{"case_commitment": digest(f"c {number}"), **changes},
    )


def officer(number: int) -> PersonId:
    return PersonId(f"northport-pd:detective-{number}")


@pytest.mark.rule("R57")
def test_one_case_by_different_officers(tmp_path: Path) -> None:
    """R57: changing hands does not help a case, and another case of the same officers is not held back by it."""
    counter = Counter(tmp_path, BudgetLimits(case_per_day=2))
    case = digest("one case")
    assert [counter.claim(of(n, investigator=officer(n), case_commitment=case)) for n in range(4)] == [True, True, False, False]
    assert counter.claim(of(9, investigator=officer(3)))
    assert counter.rows() == 3  # what was refused left no claim


@pytest.mark.rule("R57")
def test_one_agency_by_different_officers_and_cases(tmp_path: Path) -> None:
    counter = Counter(tmp_path, BudgetLimits(agency_per_day=3))
    assert [counter.claim(of(n, investigator=officer(n))) for n in range(5)] == [True, True, True, False, False]
    assert counter.claim(of(9, requesting_agency=EASTFIELD, originating_agency=EASTFIELD, holders=(LAKESIDE,)))


@pytest.mark.rule("R6")
def test_an_agency_does_not_get_another_budget_by_asking_a_neighbour(tmp_path: Path) -> None:
    """R6: a search for another agency counts for both, and is refused when either has used its own up."""
    counter = Counter(tmp_path, BudgetLimits(agency_per_day=1))
    assert counter.claim(of(0))
    proxy = of(1, requesting_agency=EASTFIELD, originating_agency=NORTHPORT, originator=ORIGINATOR, holders=(LAKESIDE,))
    assert not counter.claim(proxy)
    assert [name for scope, name in names_of(proxy) if scope is Scope.AGENCY] == [b"eastfield-pd", b"northport-pd"]
    assert counter.claim(of(2, requesting_agency=EASTFIELD, originating_agency=EASTFIELD, holders=(LAKESIDE,)))


@pytest.mark.rule("R57")
def test_the_day_is_the_utc_day_whatever_the_clock_s_zone(tmp_path: Path) -> None:
    counter = Counter(tmp_path, BudgetLimits(officer_per_day=1))
    hundredth = timedelta(milliseconds=10)
    assert counter.claim(of(0), MIDNIGHT - hundredth)
    assert not counter.claim(of(1), MIDNIGHT - hundredth)
    assert counter.claim(of(2), MIDNIGHT)
    assert not counter.claim(of(3), MIDNIGHT + timedelta(hours=24) - hundredth)
    far_east = timedelta(hours=14)
    local = (MIDNIGHT + timedelta(hours=12)).astimezone(timezone(far_east))
    assert local.date() != MIDNIGHT.date()
    assert not counter.claim(of(4), local)  # already the next day there, and not in UTC


@pytest.mark.rule("R57")
def test_a_clock_that_is_set_back_renews_nothing(tmp_path: Path) -> None:
    counter = Counter(tmp_path, BudgetLimits(officer_per_day=1))
    assert counter.claim(of(0), MIDNIGHT + timedelta(hours=1))
    assert not counter.claim(of(1), MIDNIGHT - timedelta(days=3))
    assert counter.claim(of(2), MIDNIGHT + timedelta(days=1))


@pytest.mark.rule("R57")
def test_claims_at_once_do_not_pass_the_limit_together(tmp_path: Path) -> None:
    """R57: twenty threads, each with a connection of its own to one store, and room for three."""
    first = Counter(tmp_path, BudgetLimits(officer_per_day=3))
    counters = [Counter(tmp_path, BudgetLimits(officer_per_day=3)) for _ in range(5)]
    with ThreadPoolExecutor(20) as pool:
        within = list(pool.map(lambda n: counters[n % 5].claim(of(n)), range(20)))
    assert sum(within) == first.rows() == 3


@pytest.mark.rule("R57")
def test_a_transaction_that_did_not_end_used_nothing(tmp_path: Path) -> None:
    """The process dies inside the claim: neither the claim nor its count is there."""
    counter = Counter(tmp_path, BudgetLimits(officer_per_day=1))
    with counter.engine.connect() as connection:
        connection.begin()
        counter.budgets.spend(connection, of(0), NOW)
        connection.close()  # the transaction never ended
    assert counter.claim(of(1))


@pytest.mark.rule("R57")
def test_counts_survive_a_restart_and_names_stand_nowhere_in_the_clear(tmp_path: Path) -> None:
    """R57, R28: a stolen disk shows that searches were counted, and not whose."""
    counter = Counter(tmp_path, BudgetLimits(officer_per_day=1))
    assert counter.claim(of(0))
    counter.engine.dispose()
    again = Counter(tmp_path, BudgetLimits(officer_per_day=1))
    assert not again.claim(of(1))
    again.engine.dispose()
    stored = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    for _, name in names_of(of(0)):
        assert name not in stored
        assert name.hex().encode() not in stored
    assert b"officer" in stored  # the control: the table is in these files


def test_a_higher_limit_holds_at_once_and_zero_closes(tmp_path: Path) -> None:
    """R60: the holder's own file decides."""
    assert not Counter(tmp_path, BudgetLimits(officer_per_day=0)).claim(of(0))
    assert Counter(tmp_path, BudgetLimits(officer_per_day=1)).claim(of(0))
    assert not Counter(tmp_path, BudgetLimits(officer_per_day=1)).claim(of(1))
    assert Counter(tmp_path, BudgetLimits(officer_per_day=2)).claim(of(1))


# --- settings and status ----------------------------------------------------------------------------------------------


def settings(**changes: Any) -> dict[str, Any]:
    values = {
        "agency": "lakeside-sheriff",
        "mode": "test",
        "roles": ["holder"],
        "broker": "http://127.0.0.1:1",
        "root_fingerprint": "0" * 64,
        "trusted_custodians": ["civic-board"],
    }
    return {**values, **changes}


def test_limits_come_from_node_toml_and_go_back_into_it(tmp_path: Path) -> None:
    config = NodeConfig.checked(settings(budgets={"case_per_day": 1}, near_duplicates={"days": 30}))
    assert config.budgets == BudgetLimits(officer_per_day=10, case_per_day=1, agency_per_day=100)
    (tmp_path / "node.toml").write_text(config.to_toml())
    assert NodeConfig.load(tmp_path) == config
    assert "[budgets]\ncase_per_day = 1\n" in config.to_toml()
    plain = NodeConfig.checked(settings())
    assert plain.mode is Mode.TEST
    assert "[" not in plain.to_toml().replace('["', "")


@pytest.mark.parametrize("budgets", [{"officer_per_day": -1}, {"per_hour": 3}, {"case_per_day": "many"}, {"agency_per_day": 10**9}])
def test_limits_that_are_none_stop_the_start(budgets: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"budgets\."):
        NodeConfig.checked(settings(budgets=budgets))


@pytest.mark.rule("R57")
def test_status_shows_what_was_used_today(tmp_path: Path) -> None:
    folder = tmp_path / "node"
    create_node(folder, NodeConfig.checked(settings(budgets={"officer_per_day": 4})), witness=False)
    node = open_node(folder, lambda: datetime.now(UTC))
    budgets, content = Budgets(node.config.budgets, node.vault), of(0)
    with node.engine.begin() as connection:
        budgets.spend(connection, content, datetime.now(UTC))
        connection.execute(insert(answers).values(**_answer_row(content)))
        connection.execute(insert(held_grants).values(**_grant_row(content, node.vault)))
    shown = json.loads(CliRunner().invoke(app, ["node", "status", str(folder), "--json"]).stdout)
    assert shown["budgets"] == [
        {"scope": "agency", "who": "northport-pd", "used": 1, "limit": 100},
        {"scope": "case", "who": content.case_commitment.hex()[:12], "used": 1, "limit": 5},
        {"scope": "officer", "who": str(INVESTIGATOR), "used": 1, "limit": 4},
    ]
    text = CliRunner().invoke(app, ["node", "status", str(folder)]).stdout
    assert "searches claimed this UTC day" in text
    assert str(INVESTIGATOR) in text
    with node.engine.begin() as connection:
        connection.execute(delete(answers))
    assert json.loads(CliRunner().invoke(app, ["node", "status", str(folder), "--json"]).stdout)["budgets"] == []


def _answer_row(content: GrantClaims) -> dict[str, object]:
    return {
        "search_id": str(content.search_id),
        "grant_id": str(content.grant_id),
        "probe_digest": content.probe_digest,
        "face_commit": content.face_commit,
        "state": CLAIMED,
        "claimed_at": datetime.now(UTC).isoformat(),
    }


def _grant_row(content: GrantClaims, vault: Vault) -> dict[str, object]:
    return {
        "search_id": str(content.search_id),
        "grant_digest": content.digest,
        "grant_id": str(content.grant_id),
        "probe_digest": content.probe_digest,
        "face_commit": content.face_commit,
        "sealed_token": vault.seal("grant-token", token_of(content), content.digest),
        "roles": "holder",
        "state": "standing",
        "note": "",
        "deadline": "",
        "expires": "",
        "received_at": "",
    }


def test_the_store_of_before_gets_the_tables(tmp_path: Path) -> None:
    """Migration 0006 and what follows it over what 0003 made."""
    older_store(tmp_path, "0003").dispose()
    with closing(sqlite3.connect(tmp_path / DATABASE_FILE)) as connection:
        assert not {name for (name,) in connection.execute("SELECT name FROM sqlite_master")} & {"budget_uses", "probe_faces"}
    open_store(tmp_path / DATABASE_FILE).dispose()
    with closing(sqlite3.connect(tmp_path / DATABASE_FILE)) as connection:
        names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    assert {"budget_uses", "budget_uses_by_name", "probe_faces"} <= names


def test_the_page_on_limits_shows_the_settings_that_there_are() -> None:
    """Its TOML, with a true digest in the placeholder's place, is what the defaults are."""
    page = (Path(__file__).resolve().parent.parent / "docs" / "limits.md").read_text(encoding="utf-8")
    shown = tomllib.loads(page.split("```toml\n")[1].split("```")[0])
    shown["calibration"]["sha256"] = "0" * 64
    config = NodeConfig.checked(settings(**shown))
    plain = NodeConfig.checked(settings())
    assert (config.budgets, config.near_duplicates) == (plain.budgets, plain.near_duplicates)
    assert set(shown["budgets"]) == set(type(config.budgets).model_fields)
    assert set(shown["near_duplicates"]) == set(type(config.near_duplicates).model_fields)
    assert set(shown["calibration"]) == set(type(config.calibration).model_fields)
