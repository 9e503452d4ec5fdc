"""A whole search is measured for real at a small size: its figures fit together, and what is planned is what was moved and stored.

One federation of processes, on lines of a test's own, serves every test here. No test asserts how long anything takes.
"""

from __future__ import annotations

import io
import itertools
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from agency_node.bench import search as search_module
from agency_node.bench.capacity import MEASURED, Department
from agency_node.bench.errors import MemoryShortError, WrongResultError
from agency_node.bench.moments import STEPS, Message, carried, read_only, step_seconds
from agency_node.bench.parties import BATCH_ROWS, BenchParties
from agency_node.bench.progress import Steps
from agency_node.bench.search import bench_search
from agency_node.bench.search_result import SearchPlan, SearchResult
from agency_node.bench.search_tables import print_search
from agency_node.cli import app
from crypto.binary import packed_size

PLAN = SearchPlan(records=3000, dimensions=128, holders=2, runs=2, threads=2, uplink_mbit=200, delay_ms=1)
NOTE_LINE_BYTES = len("— ".encode()) + len(" ") + len("\n")


@dataclass
class Measured:
    """A result, and the folder in which the parties' stores still lie."""

    result: SearchResult
    folder: Path


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Measured:
    folder = tmp_path_factory.mktemp("bench")
    return Measured(bench_search(PLAN, folder, datetime.now(UTC), Steps(Console(file=io.StringIO()))), folder)


@pytest.fixture
def broker(measured: Measured) -> Iterator[sqlite3.Connection]:
    with closing(read_only(measured.folder / "broker" / "broker.sqlite")) as connection:
        yield connection


# --- figures --------------------------------------------------------------------------------------------------------------


def test_the_figures_of_a_search_fit_together(measured: Measured) -> None:
    found: dict[str, Any] = json.loads(json.dumps(measured.result.as_json()))
    assert (found["benchmark"], found["records"], found["dimensions"], found["holders"]) == ("search", 3000, 128, 2)
    assert (found["runs"], found["checked"], found["uplink_mbit"], found["delay_ms"]) == (2, True, 200, 1)
    assert found["ratio"] == found["search_s"] / found["faiss_s"]
    assert [step["name"] for step in found["steps"]] == [step.name for step in STEPS]
    for run in found["each"]:
        assert sum(run["steps"]) == pytest.approx(run["seconds"])
        assert min(run["steps"]) >= 0
    assert sum(step["share"] for step in found["steps"]) == pytest.approx(1)
    assert sum(step["bytes"] for step in found["steps"]) == found["bytes"]
    assert found["bytes_per_record"] == found["bytes"] / 6000
    assert found["renewals"] == []
    assert found["log_bytes"] > 0


def test_every_party_has_its_bytes_and_its_memory(measured: Measured) -> None:
    parties = measured.result.parties
    assert [one.role for one in parties.values()] == ["broker", "requester", "custodian", "holder", "holder"]
    nodes = [one for one in parties.values() if one.role != "broker"]
    assert sum(one.sent for one in nodes) == sum(one.received for one in nodes) == measured.result.message_bytes
    for one in nodes:
        assert one.wire_sent is not None
        assert one.wire_received is not None
        assert one.wire_sent > one.sent
        assert one.wire_received > one.received
    assert all(one.peak_memory_bytes > 1 << 26 for one in parties.values())
    assert all(run.seconds >= measured_delays() for run in measured.result.runs)


def measured_delays() -> float:
    """Five messages one behind the other, up and down."""
    return 10 * PLAN.delay_ms / 1000


def test_the_tables_say_what_the_object_says(measured: Measured) -> None:
    console = Console(file=io.StringIO(), width=140)
    print_search(measured.result, console)
    text = console.file.getvalue()  # type: ignore[attr-defined] # it is the StringIO from above
    for step in STEPS:
        assert step.name in text
    for word in ("northport-pd", "holder-2-pd", "lines of 200 Mbit/s and 1 ms", f"{measured.result.ratio:.2f}"):
        assert word in text


def test_every_run_is_a_case_a_probe_and_a_record_of_its_own(measured: Measured) -> None:
    with closing(read_only(measured.folder / "eastfield-pd" / "node.sqlite")) as connection:
        ((searches, probes, layouts),) = connection.execute(
            "SELECT count(*), count(DISTINCT probe_digest), count(DISTINCT layout_id) FROM answers"
        )
    assert (searches, probes, layouts) == (PLAN.runs + 1, PLAN.runs + 1, 1)


def test_a_lead_that_is_not_the_record_sought_is_no_figure(measured: Measured) -> None:
    """The check asks the holder's own store: another row, another holder, a handle of nobody are all found out."""
    parties = BenchParties.__new__(BenchParties)
    parties.__dict__.update(_plan=PLAN, holders=["eastfield-pd", "holder-2-pd"])
    assert parties.place_of(0) == ("eastfield-pd", "S00000-000001")
    assert parties.place_of(2999) == ("eastfield-pd", "S00000-003000")
    assert parties.place_of(3000) == ("holder-2-pd", "S00000-000001")
    parties.__dict__.update(_plan=replace(PLAN, records=3 * BATCH_ROWS))
    assert parties.place_of(BATCH_ROWS + 4) == ("eastfield-pd", "S00001-000005")

    class Other:
        """Parties whose first lead is record 7 of eastfield."""

        def __init__(self, row: int) -> None:
            self.row = row
            self.requester = self

        engine = vault = None

        def place_of(self, row: int) -> tuple[str, str]:
            return "eastfield-pd", str(row)

        def record_number(self, holder: str, handle: str) -> str:
            return str(self.row)

    class Lead:
        rank, agency, handle = 1, "eastfield-pd", "0f"

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(search_module, "list_leads", lambda *_: [Lead()])
        search_module._check_first_lead(Other(7), "search", 7)  # type: ignore[arg-type]  # all that the check asks of them
        with pytest.raises(WrongResultError, match="not the record that was sought"):
            search_module._check_first_lead(Other(7), "search", 8)  # type: ignore[arg-type]
        patched.setattr(search_module, "list_leads", lambda *_: [])
        with pytest.raises(WrongResultError, match="not the record that was sought"):
            search_module._check_first_lead(Other(7), "search", 7)  # type: ignore[arg-type]


def test_runs_in_which_a_layout_was_renewed_are_named(measured: Measured) -> None:
    first, second = measured.result.runs
    renewed = replace(measured.result, runs=(first, replace(second, renewed=True)))
    assert renewed.as_json()["renewals"] == [1]


def test_nothing_of_the_federation_runs_on(measured: Measured) -> None:
    """The result is there, so every process of it has been ended."""
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = process.read_bytes()
        except OSError:
            continue  # it has ended meanwhile
        assert str(measured.folder).encode() not in words


def test_a_step_without_a_moment_is_an_error(measured: Measured) -> None:
    stores = {role: [measured.folder / "civic-board" / "node.sqlite"] for role in ("requester", "holder", "custodian")}
    with pytest.raises(WrongResultError, match="no requester has noted when"):
        step_seconds(stores, "0f" * 16, 0.0, 1.0)


def test_a_gallery_that_does_not_fit_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(MemoryShortError, match="take fewer --records"):
        bench_search(replace(PLAN, records=16_000_000, dimensions=512), tmp_path, datetime.now(UTC), Steps(Console(file=io.StringIO())))
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_no_node_has_is_refused() -> None:
    done = CliRunner().invoke(app, ["bench", "search", "--dimensions", "256"])
    assert done.exit_code == 2
    assert "take 128 or 512" in " ".join(done.output.replace("│", " ").split())


# --- the plan against what was moved and stored -----------------------------------------------------------------------------


def planned(holder: str) -> Department:
    return Department(PLAN.records, PLAN.dimensions, PLAN.holders, agency_id_chars=len(holder), record_number_chars=13, checkpoint_bytes=0)


def head_lengths(broker: sqlite3.Connection) -> set[int]:
    """Every length that a head of this run's log can have, with any of its cosignatures."""
    lengths = set()
    for size, note in broker.execute("SELECT size, note FROM heads"):
        rows = broker.execute("SELECT name, key_id, signature FROM cosignatures WHERE size = ?", (size,)).fetchall()
        lines = [NOTE_LINE_BYTES + len(name) + 4 * -(-(len(key) + len(signature)) // 3) for name, key, signature in rows]
        for some in itertools.chain.from_iterable(itertools.combinations(lines, count) for count in range(len(lines) + 1)):
            lengths.add(len(note) + sum(some))
    return lengths


@pytest.mark.parametrize("kind", ["grant", "probe", "answer", "mask-share", "opened-scores", "stubs"])
def test_planned_bytes_of_a_message_are_those_that_passed(broker: sqlite3.Connection, kind: str) -> None:
    """All but the log's head in it, whose signatures differ from message to message: the rest is one of the heads of this log."""
    heads, seen = head_lengths(broker), 0
    department = planned("eastfield-pd")
    body = {
        "grant": department.grant_message,
        "probe": department.probe_message,
        "answer": department.answer_message,
        "mask-share": department.mask_share_message,
        "opened-scores": department.opened_message,
        "stubs": department.stubs_message,
    }[kind]
    for sender, recipient, size in broker.execute("SELECT sender, recipient, total_bytes FROM messages WHERE message_type = ?", (kind,)):
        names = 2 * (len(sender) + len(recipient) - 2 * len("eastfield-pd"))  # in envelope and frame
        holder = len(sender) if kind == "answer" else len("eastfield-pd")
        statements = {holder - len("eastfield-pd")} if kind != "opened-scores" else {0, len("holder-2-pd") - len("eastfield-pd")}
        assert {size - body - names - one for one in statements} & heads, (sender, recipient)
        seen += 1
    assert seen >= PLAN.holders * (PLAN.runs + 1)


def test_the_plan_adds_up_what_each_party_sends_and_receives(measured: Measured) -> None:
    """Within the heads, the releases and the receipts, which it leaves out."""
    department = replace(planned("eastfield-pd"), checkpoint_bytes=450)
    parties = measured.result.parties
    pairs = [
        (department.sent_by_requester, parties["northport-pd"].sent),
        (department.received_by_requester, parties["northport-pd"].received),
        (department.sent_by_holder, parties["eastfield-pd"].sent),
        (department.received_by_holder, parties["eastfield-pd"].received),
        (department.received_by_custodian, parties["civic-board"].received),
        (department.total_bytes, measured.result.message_bytes),
    ]
    for plan, passed in pairs:
        assert plan == pytest.approx(passed, abs=10_000)


def test_planned_bytes_of_the_database_are_those_that_are_stored(measured: Measured) -> None:
    department = replace(planned("eastfield-pd"), record_number_chars=len("S00000-000001"))
    path = measured.folder / "eastfield-pd" / "node.sqlite"
    with closing(read_only(path)) as connection:
        ((columns, class_bytes),) = connection.execute(
            "SELECT sum(length(tag) + length(sealed_record) + length(captured) + length(enrolled_at)), count(*) FROM records"
        )
        ((templates,),) = connection.execute("SELECT sum(length(sealed_templates)) FROM template_blocks")
        ((pages,),) = connection.execute(
            "SELECT sum(pgsize) FROM dbstat WHERE name IN ('records', 'sqlite_autoindex_records_1', 'template_blocks')"
        )
    shorter = len("criminal_booking") - len("synthetic") - (len("null") - len("1"))  # synthetic records have no photograph
    assert columns == class_bytes * (department.record_content_bytes - shorter)
    assert templates == department.template_content_bytes
    assert pages == pytest.approx(department.database_bytes, rel=0.15)


def test_planned_memory_is_what_a_holder_held(measured: Measured) -> None:
    """Within a third: at this size the base of a process is most of it."""
    assert planned("eastfield-pd").starting_bytes == pytest.approx(measured.result.parties["eastfield-pd"].peak_memory_bytes, rel=1 / 3)


# --- the plan by itself -------------------------------------------------------------------------------------------------------


def test_the_plan_follows_its_formulas() -> None:
    one = Department(2_500_000, 512, 1, uplink_mbit=100)
    assert one.probe_bytes == 46 + packed_size(513 * 1024, 26)
    assert one.chunks == 2489
    assert one.slots == 2489 * 1024
    assert one.answer_message < 9.3e6
    slow = replace(one, uplink_mbit=10.0, delay_ms=0.0)
    assert slow.line_s == pytest.approx(10 * replace(one, delay_ms=0.0).line_s)
    assert replace(one, delay_ms=130.0).line_s == pytest.approx(one.line_s + 0.2 * MEASURED.round_trips)
    many = replace(one, holders=3)
    assert many.sent_by_holder == one.sent_by_holder
    assert many.received_by_requester == 3 * one.received_by_requester
    assert many.sent_by_requester - one.sent_by_requester == 2 * (one.grant_message + one.probe_message + one.opened_message)
    assert many.machine_s > one.machine_s
    assert one.renewing_bytes > one.starting_bytes > one.packed_bytes


def test_the_plan_is_printed_and_is_one_object() -> None:
    run = CliRunner().invoke(app, ["plan", "--records", "2500000", "--holders", "3", "--uplink", "20", "--json"])
    assert run.exit_code == 0, run.output
    found = json.loads(run.stdout)
    assert found == json.loads(json.dumps(Department(2_500_000, 512, 3, 20.0).as_json()))
    assert {"machine", "date"} <= found["measured"].keys()
    shown = CliRunner().invoke(app, ["plan", "--records", "2500000", "--holders", "3", "--uplink", "20"])
    assert f"{found['search']['holder_sends_bytes'] / 1e6:,.2f} MB" in shown.output
    assert found["measured"]["date"] in " ".join(shown.output.split())


@pytest.mark.parametrize("wrong", [["--dimensions", "500"], ["--records", "16000000", "--dimensions", "8"]])
def test_a_plan_that_cannot_be_is_refused(wrong: list[str]) -> None:
    run = CliRunner().invoke(app, ["plan", "--records", "1000", *wrong])
    assert run.exit_code == 2
    assert "take" in run.output


def test_carried_names_every_message_of_one_search_only(measured: Measured, broker: sqlite3.Connection) -> None:
    ((search_id,),) = broker.execute("SELECT search_id FROM grants ORDER BY position LIMIT 1")
    found = carried(measured.folder / "broker" / "broker.sqlite", search_id)
    assert sorted(one.kind for one in found).count("probe") == PLAN.holders
    assert all(isinstance(one, Message) for one in found)
    assert carried(measured.folder / "broker" / "broker.sqlite", "0f" * 16) == []
