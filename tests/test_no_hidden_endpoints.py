"""Every door of the system stands here with its reason: routes of the broker, commands, messages. A new one is red until it has one.

There is no live or continuous search (R12), no batch, watch-list or export of scores (R13), no second run of a grant, and nobody enrols at
another's node (R57, R27). Left to others: what each door checks (the tests of its module).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from fastapi.routing import APIRoute

from agency_node.cli import app as cli
from agency_node.requester.leads import Lead
from broker.app import create_app
from crypto.message_types import MESSAGES, MessageType
from crypto.probe import Probe
from tests.broker_world import make_broker

ROOT = Path(__file__).resolve().parent.parent

ROUTES = {
    "GET /healthz": "whether the broker is up; says its log's size",
    "GET /v1/log/checkpoint": "the public log's head",
    "GET /v1/log/pending": "the head that waits for a witness",
    "GET /v1/log/leaves": "the public log's leaves: salted commitments",
    "GET /v1/log/consistency": "a proof between two heads",
    "GET /v1/log/inclusion": "a proof for one leaf",
    "GET /checkpoint": "the public log's head, where C2SP's tlog-tiles has it: for verifiers that others wrote",
    "GET /tile/{path:path}": "hashes and entries of the public log as C2SP's tiles: the same salted commitments",
    "GET /v1/log/openings": "fields of leaves that their authors opened: closed forms, no case text",
    "GET /v1/log/counts": "counts over leaves, and over opened fields in cells of at least five",
    "GET /v1/roster": "the signed roster",
    "GET /v1/roster/{version}": "an earlier signed roster, so that a node follows from the one that it pinned",
    "PUT /v1/statements/manifest": "a holder's signed word on its gallery: counts, no record",
    "PUT /v1/statements/sealing-key": "a party's public key of a week or a search",
    "GET /v1/statements/manifest/{agency}": "that word",
    "GET /v1/statements/sealing-key/{agency}/{use}": "that key",
    "POST /v1/grants": "one grant's signed terms, into the log: one grant, one probe, one search",
    "POST /v1/log/entries": "one salted entry into the log",
    "POST /v1/log/pack-changes": "one salted entry: an agency decides by another pack, for which two persons signed",
    "POST /v1/log/expunctions": "one salted entry: a holder destroyed a record; not which",
    "POST /v1/log/manifests": "one salted entry: a holder's gallery changed, and it signed what it holds; not what",
    "POST /v1/log/openings": "opened fields of one's own leaf, checked against its commitments",
    "POST /v1/log/cosignatures": "a witness's signature",
    "PUT /v1/messages/{message_id}/parts/{number}": "a part of one sealed message to one addressee",
    "GET /v1/messages/{message_id}": "how much of one's own message has come",
    "GET /v1/messages/{message_id}/parts/{number}": "a part of a message that was leased",
    "POST /v1/mailbox/leases": "messages that wait for the caller",
    "DELETE /v1/mailbox/leases": "what the caller had taken before it died may be leased again",
    "POST /v1/mailbox/leases/{lease_id}/acknowledgement": "the message was taken: delete it",
}

COMMANDS = {
    "parameters": "prints figures",
    "plan": "prints what a department needs",
    "demo": "a federation on this machine, of synthetic records and two portraits; opens no node of a department",
    "bench scan": "measures, on synthetic vectors",
    "bench growth": "measures, on synthetic vectors",
    "bench answer": "measures, on synthetic vectors",
    "bench intake": "writes photographs to try an intake with",
    "bench peers": "measures, on synthetic vectors",
    "bench holder": "measures, on synthetic vectors",
    "bench plot": "draws measurements",
    "bench policy": "measures decisions about examples; opens no node",
    "bench log": "measures appends and verification, on synthetic entries",
    "bench search": "measures a search between processes, on synthetic records",
    "broker init": "makes a broker's folder",
    "broker roster": "installs a signed roster",
    "broker serve": "the routes above",
    "broker status": "counts",
    "calibration show": "reads one table of impostors: no score of a search",
    "calibration check": "reads one table",
    "calibration synthetic": "writes the table that production refuses",
    "faces measure": "measures a pack of face models on public faces",
    "faces check": "reads a pack of face models",
    "log verify": "reads the public log",
    "log export": "writes the public log as files: salted commitments, hashes, the signed roster",
    "log evidence": "writes which grants, answers, releases and disclosures a node knows: digests and counts, no score",
    "log opened": "reads what was opened of it",
    "log counts": "counts it, in cells of at least five",
    "log monitor": "looks at it once and says what is wrong",
    "node init": "makes a node's folder",
    "node serve": "carries out what persons decided; dials out and listens on nothing",
    "node enrol": "an agency's own photographs, at its own node, by a person there",
    "node expunge": "destroys one record",
    "gallery manifest": "shows and signs what is held, as counts and a root; no record",
    "gallery prove": "signs that no record of a number is held; nothing of one that is",
    "gallery absent": "checks such a proof from a file",
    "gallery dispositions": "withdraws records from searches by how their cases ended",
    "gallery purge": "destroys the records that are due",
    "gallery check": "checks the report of a purge, a manifest, or differentials, from a file",
    "gallery differentials": "rates over the gallery's own records, by groups; takes no picture and names no record",
    "node backup": "one sealed file of this node, which opens at this agency",
    "node reembed": "templates made anew from this node's own photographs, in place",
    "node rotate": "this node's own store under a new key",
    "node restore-key": "makes the key of the machine to which this agency's own node comes",
    "node restore": "this agency's own node from its backup, less what was expunged since",
    "node status": "states and counts",
    "node ledger": "shows, checks and signs this node's own ledger",
    "node preflight": "lists what keeps a node from production",
    "node leave": "destroys a node's gallery and keys, and signs a receipt of counts",
    "node receipt": "checks such a receipt: counts, no record",
    "node subject": "answers one person about one record, by its number; a photograph is compared with that record's alone",
    "node statement": "signs a month's count of federal queries",
    "node evaluated": "signs that a model was tested here",
    "node ratify": "a second reviewer ratifies one exigent grant",
    "node originate": "carries one draft to the agency whose case it is, whose reviewer signs it",
    "node unseal": "opens one lapsed search for a court's order, with the legal office's own key",
    "node search": "drafts one search for one still, which an investigator signs",
    "node review": "a reviewer looks at one draft and decides",
    "node release": "ranks and bands of one search's leads",
    "node open": "opens what this agency logged of one search: agencies, offence, basis, counts, outcome",
    "node cancel": "takes one search back",
    "node cases": "lists what is kept of which case, and until when",
    "node hold": "legal staff keeps one case from being destroyed, or lets it go",
    "node provenance": "shows and checks where one search's still comes from",
    "node accept": "an investigator signs what a reviewer took away from one draft",
    "node revoke": "a reviewer takes one grant back",
    "node disclose": "asks for, or decides about, one lead's photograph",
    "person init": "makes a person's key",
    "person discovery": "makes a legal office's key",
    "roster office-key": "makes a legal office's key, which vouches for reviewers",
    "roster countersign": "a legal office vouches for one reviewer's key",
    "policy explain": "says why an example or one stored decision was allowed or refused; searches nothing",
    "policy test": "runs the examples of packs",
    "policy diff": "compares two packs over their examples",
    "policy list": "lists the delivered packs",
    "policy approve": "one person signs for a pack",
    "policy adopt": "keeps an approval that two persons signed",
    "roster root-key": "makes a root holder's key",
    "roster root-set": "makes a root set",
    "roster draft": "makes a roster to be signed",
    "roster sign": "adds a root holder's signature",
    "roster show": "prints a roster",
}

MESSAGE_REASONS = {
    "grant": "one grant, for one probe",
    "probe": "one encrypted still",
    "answer": "one holder's masked answer to one probe",
    "mask-share": "what unmasks one answer, to a custodian",
    "opened-scores": "one answer, opened and still masked",
    "mask-handover": "a share between custodians of one search",
    "holder-release": "positions of one search's leads",
    "requester-release": "ranks and bands, at most the cap, no score",
    "discovery-release": "scores of the leads alone, to the legal office's key (R35)",
    "stubs": "handles and days of the leads",
    "disclosure-request": "one lead's photograph is asked for",
    "disclosure": "that photograph, or none",
    "refusal": "a code",
    "deletion-receipt": "what was deleted",
    "revocation-query": "does the grant stand?",
    "revocation-statement": "it does, or not",
    "checkpoint-gossip": "a head of the log",
    "ratification": "a second reviewer stands by one exigent grant",
}

FORBIDDEN = re.compile(
    r"stream|batch|bulk|watch|subscribe|live|rerun|re-run|repeat|again|export|scores?\b|compare|match|import|remote|websocket"
)
"""Names that such a door would have; `opened-scores` is the one message that has to bear one."""


# --- routes -----------------------------------------------------------------------------------------------------------


def routes_of(application: Any) -> Iterator[str]:
    """`METHOD path` of every route; an AssertionError for anything that is no plain HTTP route: a socket, a mount, static files."""
    for route in application.routes:
        included = getattr(route, "original_router", None)
        if included is not None:
            assert not route.include_context.prefix
            yield from routes_of(included)
            continue
        assert isinstance(route, APIRoute), f"{type(route).__name__} at {getattr(route, 'path', '?')}"
        for method in sorted(route.methods or ()):
            yield f"{method} {route.path}"


@pytest.mark.rule("R12")
@pytest.mark.rule("R13")
@pytest.mark.rule("R57")
def test_the_broker_has_these_routes_and_no_other(tmp_path: Path) -> None:
    """R12, R13, R57."""
    found = list(routes_of(create_app(make_broker(tmp_path))))
    assert sorted(found) == sorted(ROUTES)
    assert [route for route in found if FORBIDDEN.search(route)] == []


def test_control_a_new_route_and_a_socket_turn_it_red(tmp_path: Path) -> None:
    application = create_app(make_broker(tmp_path))
    application.add_api_route("/v1/searches/batch", lambda: None, methods=["POST"])
    new = set(routes_of(application)) - set(ROUTES)
    assert new == {"POST /v1/searches/batch"}
    assert FORBIDDEN.search(new.pop())

    async def live(websocket: Any) -> None:
        del websocket

    application.add_api_websocket_route("/v1/live", live)
    with pytest.raises(AssertionError, match="/v1/live"):
        list(routes_of(application))


# --- commands ---------------------------------------------------------------------------------------------------------


def commands_of(command: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every command below a group, hidden ones too, by its words."""
    below = getattr(command, "commands", None)
    if below is None:
        yield name, command
        return
    for word, inner in below.items():
        yield from commands_of(inner, f"{name} {word}".strip())


def all_commands() -> dict[str, Any]:
    return dict(commands_of(typer.main.get_command(cli)))


@pytest.mark.rule("R12")
@pytest.mark.rule("R13")
@pytest.mark.rule("R57")
def test_there_are_these_commands_and_no_other() -> None:
    """R12, R13, R57."""
    assert sorted(all_commands()) == sorted(COMMANDS)
    assert [name for name in COMMANDS if FORBIDDEN.search(name)] == ["log export"]  # the public log: salted commitments, no score


@pytest.mark.rule("R12")
def test_a_search_takes_one_still_and_a_node_folder_of_one_s_own() -> None:
    """R12: one picture, given once; no address, camera, folder of pictures or interval among the options of whatever searches."""
    parameters = {one.name: one for one in all_commands()["node search"].params}
    image = parameters["image"]
    assert (image.multiple, image.nargs) == (False, 1)
    assert {name for name, one in parameters.items() if one.multiple} == {"holder", "custodian", "edit"}
    pictures = {
        "node search": {"image"},
        "node review": {"save_still"},
        "node enrol": {"photographs", "table", "itl", "refused", "embeddings"},
    }
    for name, expected in pictures.items():
        options = {one.name for one in all_commands()[name].params}
        assert expected <= options
        found = {one for one in options if re.search(r"url|camera|every|interval|stream|watch|frames|video", one or "")}
        assert found == ({"watch"} if name == "node enrol" else set()), "a folder of drops is enrolled; nothing in it is searched"


@pytest.mark.rule("R13")
def test_what_a_requester_is_shown_of_a_lead_holds_no_score() -> None:
    """R13, R35: rank, band, agency, days, handle."""
    assert set(Lead.__dataclass_fields__) == {"rank", "band", "agency", "captured", "age_days", "handle"}


# --- messages ---------------------------------------------------------------------------------------------------------


@pytest.mark.rule("R57")
def test_there_are_these_messages_and_no_other() -> None:
    """R57: what no message says no party can ask another for; none enrols, none asks for scores, none searches without a grant."""
    assert sorted(str(kind) for kind in MessageType) == sorted(str(kind) for kind in MESSAGES) == sorted(MESSAGE_REASONS)
    assert {kind for kind in MESSAGE_REASONS if FORBIDDEN.search(kind)} == {"opened-scores"}


@pytest.mark.rule("R12")
def test_a_probe_is_one_face() -> None:
    """R12: one vector, whose words the message's length allows once."""
    assert MESSAGES[MessageType.PROBE].body is Probe


# --- nodes listen on nothing ------------------------------------------------------------------------------------------

SERVERS = {"fastapi", "starlette", "uvicorn", "http.server", "socketserver", "aiohttp", "websockets"}
LISTENING = {"start_server", "create_server", "listen"}
LISTENERS = {"agency_node/demo/wiretap.py", "agency_node/bench/link_proxy.py"}
"""Relays of the demonstration and the benchmarks, on the loopback address."""


def doors_in(source: str) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {one.name for one in node.names} & SERVERS
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module or ""} & SERVERS
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in LISTENING:
            found.add(node.func.attr)
    return found


@pytest.mark.rule("R27")
def test_a_node_listens_on_nothing() -> None:
    """R27: there is no address at which a gallery could be asked for."""
    files = {str(path.relative_to(ROOT)): doors_in(path.read_text()) for path in sorted((ROOT / "agency_node").rglob("*.py"))}
    assert {name for name, doors in files.items() if doors} == LISTENERS
    assert doors_in("import asyncio\nasyncio.start_server(print)") == {"start_server"}
    assert doors_in("from fastapi import FastAPI") == {"fastapi"}


@pytest.mark.parametrize("allowed", [ROUTES, COMMANDS, MESSAGE_REASONS], ids=["routes", "commands", "messages"])
def test_every_door_has_a_reason(allowed: dict[str, str]) -> None:
    assert all(len(reason) > 5 for reason in allowed.values())
