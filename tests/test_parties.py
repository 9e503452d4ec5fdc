"""Whom a node trusts, with brokers and root holders that break the rules."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine

from agency_node.errors import BrokerRefusedError, BrokerUnreachableError, ConfigError, StoreError
from agency_node.facts import Fact, halted
from agency_node.parties import FRESH, MAX_CHAIN, Parties
from crypto.canonical import AgencyId, SearchId
from crypto.errors import (
    AgencyStatementError,
    EncodingError,
    RosterExpiredError,
    RosterForkError,
    RosterPinError,
    RosterRollbackError,
    RosterSignatureError,
    RosterThresholdError,
    UnknownAgencyError,
)
from crypto.keys import SealingPrivateKey
from crypto.manifest import GalleryManifest
from crypto.roster import Roster
from crypto.sealing_key import SealingKeyStatement, Week
from tests.node_samples import Clock, MemoryBroker, fact, store
from tests.sample_federation import (
    BOARD,
    LAKESIDE,
    NORTHPORT,
    NOW,
    OVERSIGHT,
    manifest,
    root_set,
    roster,
    secret,
    sign_roster,
    signing_key,
    with_agency,
)

SEARCH = SearchId("ffeeddccbbaa99887766554433221100")
THIS_WEEK = Week.at(NOW)
FINGERPRINT = root_set().fingerprint


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return store(tmp_path)


@pytest.fixture
def broker() -> MemoryBroker:
    return MemoryBroker()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def parties(engine: Engine, broker: MemoryBroker, clock: Clock) -> Parties:
    made = Parties(engine, broker, FINGERPRINT, clock)
    await made.refresh()
    return made


def node_key_of(agency: AgencyId) -> str:
    return f"{agency} node"


def sealing_key(agency: AgencyId = BOARD, use: Week | SearchId = THIS_WEEK, signer: str | None = None, name: str = "") -> bytes:
    key = SealingPrivateKey.from_secret(secret(f"{agency} {use} sealing {name}")).public_key
    return SealingKeyStatement(agency, use, key).sign(signing_key(signer or node_key_of(agency)))


def signed_manifest(signer: str | None = None, **changes: object) -> bytes:
    content = replace(manifest(), **changes)  # type: ignore[arg-type]
    return content.sign(signing_key(signer or node_key_of(content.agency)))


# --- the roster -------------------------------------------------------------------------------------------------------


async def test_nothing_is_trusted_before_the_first_roster_was_pinned(engine: Engine, broker: MemoryBroker, clock: Clock) -> None:
    parties = Parties(engine, broker, FINGERPRINT, clock)
    for ask in (parties.roster, lambda: parties.trusted):
        with pytest.raises(ConfigError, match="pinned"):
            ask()
    for fetch in (parties.manifest(LAKESIDE), parties.week_key(BOARD), parties.search_key(BOARD, SEARCH)):
        with pytest.raises(ConfigError):
            await fetch
    assert broker.asked == []
    assert (await parties.refresh()).version == parties.roster().version == 1


async def test_the_pinned_roster_is_here_again_after_a_restart(parties: Parties, engine: Engine, clock: Clock) -> None:
    again = Parties(engine, MemoryBroker(), FINGERPRINT, clock)
    assert again.roster() == parties.roster() == roster()


async def test_a_roster_of_another_root_set_is_never_pinned(engine: Engine, broker: MemoryBroker, clock: Clock) -> None:
    broker.rosters = {1: sign_roster(roster(generation=2), 2)}
    parties = Parties(engine, broker, FINGERPRINT, clock)
    with pytest.raises(RosterPinError):
        await parties.refresh()
    assert fact(engine, Fact.ROSTER) is None
    with pytest.raises(ConfigError):
        parties.roster()


def swapped(content: Roster) -> Roster:
    """What a broker would like: its own key as a custodian's."""
    return with_agency(content, BOARD, node_key=signing_key("broker's own").verifying_key)


@pytest.mark.parametrize(
    ("document", "error"),
    [
        (sign_roster(swapped(roster(2)), 1, holders=()), RosterThresholdError),
        (sign_roster(swapped(roster(2)), 1, holders=(OVERSIGHT,)), RosterThresholdError),
        (sign_roster(swapped(roster(2, generation=2)), 2), RosterThresholdError),
        (sign_roster(roster(2)).replace(b'"version":2', b'"version":3'), RosterSignatureError),
        (sign_roster(replace(roster(2), expires=NOW)), RosterExpiredError),
        (sign_roster(roster(2))[:-1], EncodingError),
        (b"", EncodingError),
        (b"<html>", EncodingError),
    ],
)
async def test_a_roster_that_does_not_follow_changes_nothing(
    parties: Parties, engine: Engine, broker: MemoryBroker, document: bytes, error: type[Exception]
) -> None:
    before = fact(engine, Fact.ROSTER)
    broker.rosters = {2: document}
    with pytest.raises(error):
        await parties.refresh()
    assert fact(engine, Fact.ROSTER) == before
    assert parties.roster() == roster()
    assert halted(engine) is None


async def test_a_rollback_is_refused_and_not_stored(parties: Parties, engine: Engine, broker: MemoryBroker) -> None:
    broker.rosters[2] = sign_roster(roster(2))
    await parties.refresh()
    del broker.rosters[2]
    with pytest.raises(RosterRollbackError):
        await parties.refresh()
    assert fact(engine, Fact.ROSTER) == sign_roster(roster(2))
    assert parties.roster().version == 2
    assert halted(engine) is None


async def test_two_duly_signed_rosters_of_one_version_halt_the_node_with_both_as_evidence(
    parties: Parties, engine: Engine, broker: MemoryBroker
) -> None:
    other = sign_roster(swapped(roster()))
    broker.rosters = {1: other}
    with pytest.raises(RosterForkError):
        await parties.refresh()
    assert fact(engine, Fact.ROSTER) == fact(engine, Fact.EVIDENCE_HELD) == sign_roster(roster())
    assert fact(engine, Fact.EVIDENCE_SHOWN) == other
    assert "root holders" in (halted(engine) or "")
    assert parties.roster() == roster()


async def test_an_expired_roster_decides_nothing_and_can_still_be_updated(
    parties: Parties, engine: Engine, broker: MemoryBroker, clock: Clock
) -> None:
    broker.sealing_keys[BOARD, SEARCH] = sealing_key(use=SEARCH)
    await parties.search_key(BOARD, SEARCH)
    clock.now = datetime(2027, 1, 1, tzinfo=UTC)
    for fetch in (parties.refresh(), parties.search_key(BOARD, SEARCH), parties.week_key(BOARD), parties.manifest(LAKESIDE)):
        with pytest.raises(RosterExpiredError):
            await fetch
    with pytest.raises(RosterExpiredError):
        Parties(engine, broker, FINGERPRINT, clock).roster()
    broker.rosters[2] = sign_roster(replace(roster(2), expires=datetime(2028, 1, 1, tzinfo=UTC)))
    await parties.refresh()
    assert parties.roster().version == 2


def rotated(version: int, generation: int) -> bytes:
    """The root set of `generation`, handed over by the one before."""
    content = replace(roster(version, generation), outgoing_root_keys=root_set(generation - 1).keys)
    return sign_roster(content, generation - 1, generation)


async def test_after_a_rotation_the_new_root_set_is_what_the_node_resumes_with(
    parties: Parties, engine: Engine, broker: MemoryBroker, clock: Clock
) -> None:
    broker.rosters[2] = rotated(2, 2)
    await parties.refresh()
    again = Parties(engine, broker, FINGERPRINT, clock)
    assert again.trusted.fingerprint == root_set(2).fingerprint
    broker.rosters[3] = sign_roster(roster(3, generation=2), 2)
    assert (await again.refresh()).version == 3
    broker.rosters[4] = sign_roster(roster(4), 1)  # the old root holders have no power any more
    with pytest.raises(RosterThresholdError):
        await again.refresh()


async def test_a_node_that_was_away_follows_every_rotation(parties: Parties, broker: MemoryBroker) -> None:
    broker.rosters |= {2: rotated(2, 2), 3: rotated(3, 3), 4: rotated(4, 4)}
    assert (await parties.refresh()).fingerprint == root_set(4).fingerprint
    assert broker.asked == ["roster 2", "roster 3"]


async def test_a_chain_with_a_gap_or_a_false_link_is_not_followed(parties: Parties, broker: MemoryBroker) -> None:
    broker.rosters |= {2: sign_roster(roster(2)), 3: rotated(3, 3)}
    with pytest.raises(RosterThresholdError):
        await parties.refresh()
    broker.rosters = {1: broker.rosters[1], 3: rotated(3, 3)}
    with pytest.raises(BrokerRefusedError):
        await parties.refresh()
    assert parties.roster() == roster()
    broker.rosters = {MAX_CHAIN + 3: rotated(MAX_CHAIN + 3, 3)}
    broker.asked.clear()
    with pytest.raises(RosterThresholdError):
        await parties.refresh()
    assert broker.asked == []


async def test_another_fingerprint_in_the_configuration_does_not_take_over_what_is_stored(
    parties: Parties, engine: Engine, broker: MemoryBroker, clock: Clock
) -> None:
    broker.rosters[2] = rotated(2, 2)
    await parties.refresh()
    with pytest.raises(ConfigError, match="root_fingerprint"):
        Parties(engine, broker, root_set(3).fingerprint, clock)


async def test_a_stored_roster_that_was_tampered_with_is_no_roster(
    engine: Engine, parties: Parties, broker: MemoryBroker, clock: Clock
) -> None:
    forged = sign_roster(roster()).replace(b"us-wi-lakeside", b"us-wi-eastside")
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE facts SET value = ? WHERE name = 'roster'", (forged,))
    with pytest.raises(StoreError):
        Parties(engine, broker, FINGERPRINT, clock)


async def test_another_process_may_store_a_newer_roster_meanwhile(
    parties: Parties, engine: Engine, broker: MemoryBroker, clock: Clock
) -> None:
    other = Parties(engine, broker, FINGERPRINT, clock)
    broker.rosters[2] = sign_roster(roster(2))
    await other.refresh()
    broker.rosters = {1: broker.rosters[1]}
    with pytest.raises(RosterRollbackError):
        await parties.refresh()
    assert parties.roster().version == 2


# --- sealing keys and manifests ---------------------------------------------------------------------------------------


async def test_a_week_key_is_taken_when_its_agency_signed_it_for_this_week(parties: Parties, broker: MemoryBroker, clock: Clock) -> None:
    broker.sealing_keys[BOARD, THIS_WEEK.text] = sealing_key()
    statement = await parties.week_key(BOARD)
    assert (statement.agency, statement.use) == (BOARD, THIS_WEEK)
    assert await parties.week_key(BOARD) == statement
    assert len(broker.asked) == 1
    clock.pass_by(weeks=1)
    with pytest.raises(BrokerRefusedError):
        await parties.week_key(BOARD)
    following = Week.at(clock())
    broker.sealing_keys[BOARD, following.text] = sealing_key(use=following)
    assert (await parties.week_key(BOARD)).use == following


@pytest.mark.parametrize(
    "document",
    [
        sealing_key(signer="broker's own"),
        sealing_key(signer=node_key_of(OVERSIGHT)),
        sealing_key(OVERSIGHT),
        sealing_key(use=Week("2026-W47")),
        sealing_key(use=SEARCH),
        sealing_key(signer="log"),
        sealing_key(AgencyId("nobody-pd")),
        sealing_key()[:-1],
        signed_manifest(),
        b"",
    ],
    ids=[
        "swapped",
        "signed by another",
        "another agency's",
        "last week's",
        "a search's",
        "log key",
        "stranger",
        "cut",
        "manifest",
        "empty",
    ],
)
async def test_no_week_key_is_taken_that_the_agency_did_not_sign_for_this_week(
    parties: Parties, engine: Engine, broker: MemoryBroker, document: bytes
) -> None:
    broker.sealing_keys[BOARD, THIS_WEEK.text] = document
    for _ in range(2):
        with pytest.raises((AgencyStatementError, UnknownAgencyError, EncodingError)):
            await parties.week_key(BOARD)
    with engine.begin() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM statements").scalar() == 0


async def test_a_search_key_is_asked_for_once_and_belongs_to_its_search(parties: Parties, broker: MemoryBroker, clock: Clock) -> None:
    other_search = SearchId("0123456789abcdef0123456789abcdef")
    broker.sealing_keys[NORTHPORT, other_search] = sealing_key(NORTHPORT, SEARCH)
    with pytest.raises(AgencyStatementError):
        await parties.search_key(NORTHPORT, other_search)
    broker.sealing_keys[NORTHPORT, SEARCH] = sealing_key(OVERSIGHT, SEARCH)
    with pytest.raises(AgencyStatementError):
        await parties.search_key(NORTHPORT, SEARCH)
    broker.sealing_keys[NORTHPORT, SEARCH] = sealing_key(NORTHPORT, SEARCH)
    statement = await parties.search_key(NORTHPORT, SEARCH)
    broker.sealing_keys[NORTHPORT, SEARCH] = sealing_key(NORTHPORT, SEARCH, name="another")
    clock.pass_by(weeks=2)
    assert await parties.search_key(NORTHPORT, SEARCH) == statement


async def test_a_stored_key_is_refused_once_the_roster_gives_its_agency_another_node_key(
    parties: Parties, broker: MemoryBroker, clock: Clock
) -> None:
    broker.sealing_keys[BOARD, SEARCH] = sealing_key(use=SEARCH)
    await parties.search_key(BOARD, SEARCH)
    broker.rosters[2] = sign_roster(with_agency(roster(2), BOARD, node_key=signing_key("new node key").verifying_key))
    await parties.refresh()
    with pytest.raises(AgencyStatementError):
        await parties.search_key(BOARD, SEARCH)
    broker.sealing_keys[BOARD, SEARCH] = sealing_key(use=SEARCH, signer="new node key")
    assert (await parties.search_key(BOARD, SEARCH)).agency == BOARD


async def test_a_manifest_is_asked_for_anew_and_what_is_stored_serves_when_there_is_no_answer(
    parties: Parties, broker: MemoryBroker, clock: Clock, engine: Engine
) -> None:
    broker.manifests[LAKESIDE] = signed_manifest()
    assert await parties.manifest(LAKESIDE) == manifest()
    broker.manifests[LAKESIDE] = signed_manifest(version=4)
    assert (await parties.manifest(LAKESIDE)).version == 3
    clock.now += FRESH
    assert (await parties.manifest(LAKESIDE)).version == 4
    clock.now += FRESH

    async def no_answer(agency: AgencyId) -> bytes:
        raise BrokerUnreachableError("down")

    broker.manifest = no_answer  # type: ignore[method-assign]
    assert (await parties.manifest(LAKESIDE)).version == 4
    assert (await Parties(engine, broker, FINGERPRINT, clock).manifest(LAKESIDE)).version == 4
    clock.pass_by(days=30)
    with pytest.raises(BrokerUnreachableError):
        await parties.manifest(LAKESIDE)


@pytest.mark.parametrize(
    "document",
    [
        signed_manifest(version=2),
        signed_manifest(records=1000),
        signed_manifest(version=4, signer="broker's own"),
        signed_manifest(version=4, agency=NORTHPORT),
        signed_manifest(version=4, valid_until=NOW),
        signed_manifest(version=4, agency=BOARD, trusted_custodians=(OVERSIGHT,)),
        sealing_key(LAKESIDE),
    ],
    ids=["rolled back", "same version, other content", "not its key", "another holder's", "lapsed", "no holder", "another kind"],
)
async def test_a_manifest_that_does_not_follow_is_refused_and_not_stored(
    parties: Parties, engine: Engine, broker: MemoryBroker, clock: Clock, document: bytes
) -> None:
    broker.manifests[LAKESIDE] = signed_manifest()
    await parties.manifest(LAKESIDE)
    broker.manifests[LAKESIDE] = document
    clock.now += FRESH - timedelta(minutes=1)
    assert await parties.manifest(LAKESIDE) == manifest()
    clock.pass_by(minutes=1)
    with pytest.raises((AgencyStatementError, UnknownAgencyError, EncodingError)):
        await parties.manifest(LAKESIDE)
    with engine.begin() as connection:
        assert connection.exec_driver_sql("SELECT document FROM statements").scalar() == signed_manifest()


async def test_a_manifest_cannot_go_back_under_a_new_node_key_either(parties: Parties, broker: MemoryBroker) -> None:
    broker.manifests[LAKESIDE] = signed_manifest()
    await parties.manifest(LAKESIDE)
    broker.rosters[2] = sign_roster(with_agency(roster(2), LAKESIDE, node_key=signing_key("new node key").verifying_key))
    await parties.refresh()
    broker.manifests[LAKESIDE] = signed_manifest("new node key", version=2)
    with pytest.raises(AgencyStatementError, match="follow"):
        await parties.manifest(LAKESIDE)
    broker.manifests[LAKESIDE] = signed_manifest("new node key")
    assert isinstance(await parties.manifest(LAKESIDE), GalleryManifest)


# --- ahead ------------------------------------------------------------------------------------------------------------


async def asked_ahead(parties: Parties) -> None:
    parties.ask_ahead(NORTHPORT, SEARCH, [BOARD, OVERSIGHT])
    await asyncio.gather(*parties._asking)


async def test_keys_that_were_asked_for_ahead_are_here_when_they_are_needed(parties: Parties, broker: MemoryBroker) -> None:
    broker.sealing_keys = {
        (NORTHPORT, str(SEARCH)): sealing_key(NORTHPORT, SEARCH),
        **{(agency, THIS_WEEK.text): sealing_key(agency) for agency in (BOARD, OVERSIGHT)},
    }
    await asked_ahead(parties)
    assert len(broker.asked) == 3
    for found in (parties.search_key(NORTHPORT, SEARCH), parties.week_key(BOARD), parties.week_key(OVERSIGHT)):
        assert (await found).agency in (NORTHPORT, BOARD, OVERSIGHT)
    assert len(broker.asked) == 3


async def test_what_comes_to_nothing_ahead_is_no_ones_trouble_and_is_believed_no_more_than_else(
    parties: Parties, broker: MemoryBroker, clock: Clock
) -> None:
    broker.sealing_keys = {
        (NORTHPORT, str(SEARCH)): sealing_key(NORTHPORT, SEARCH, signer="broker's own"),
        (OVERSIGHT, THIS_WEEK.text): sealing_key(OVERSIGHT),
    }
    await asked_ahead(parties)  # one is not its agency's, one is not there
    assert len(broker.asked) == 3
    with pytest.raises(AgencyStatementError):
        await parties.search_key(NORTHPORT, SEARCH)
    with pytest.raises(BrokerRefusedError):
        await parties.week_key(BOARD)
    assert (await parties.week_key(OVERSIGHT)).agency == OVERSIGHT
    clock.now += timedelta(days=7)
    with pytest.raises(BrokerRefusedError):
        await parties.week_key(OVERSIGHT)  # what was fetched ahead is of a week that is over
