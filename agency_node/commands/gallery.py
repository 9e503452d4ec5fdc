"""`sealmatch gallery`: what a holder's gallery holds and no longer holds, with signed proof for whoever asks.

`manifest`, `prove`, `dispositions` and `purge` act at the holder's node; so does `differentials` (`gallery_differentials`). `absent` and
`check` are for everybody else: they read a file that somebody was given, hold it against a roster that the root holders signed and, if a
bundle of the public log is at hand, against the log.
"""

from __future__ import annotations

import csv
import json
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agency_node.commands.output import AsJson, Folder, clock, member, plain, print_json, sentences
from agency_node.commands.signed_files import read_document, write_new
from agency_node.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from agency_node.holder.candidates import RefusedRow
    from agency_node.holder.purging import Purging
    from agency_node.node import Node
    from crypto.record_manifest import RecordManifest
    from crypto.roster import TrustedRoster

app = typer.Typer(
    help="What a gallery holds, proof of what it does not hold, and purges.",
    no_args_is_help=True,
    epilog="Example: sealmatch gallery manifest ./lakeside",
)
NodeOption = Annotated[Path | None, typer.Option("--node", help="A node whose pinned roster is trusted.")]
RosterOption = Annotated[Path | None, typer.Option("--roster", help="The signed roster; with --log its own is taken if left out.")]
RootOption = Annotated[str, typer.Option("--root-fingerprint", help="64 hexadecimal digits, as the root holders publish them.")]
LogOption = Annotated[
    Path | None, typer.Option("--log", help="A bundle of the public log (`sealmatch log export`): is the manifest entered?")
]


@app.command(epilog="Example: sealmatch gallery manifest ./lakeside --save ./lakeside-records.json")
def manifest(
    folder: Folder,
    save: Annotated[Path | None, typer.Option(help="Where to write the signed manifest, for whoever asks.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show the signed manifest of what is enrolled now: counts by class, what no search finds and why, and the records' root."""
    with sentences(as_json):
        from agency_node.commands.acting import acting  # noqa: PLC0415
        from crypto.record_manifest import RecordManifest  # noqa: PLC0415

        purging, node = _purging(folder)
        with acting(node, "gallery manifest"):
            data = purging.register.newest(clock())
            if data is None:
                raise RequestError("nothing is enrolled here: there is no manifest yet")
            if save is not None:
                write_new(save, data)
        said = RecordManifest.read_own(data, node.keyring.node_key.verifying_key)
    if as_json:
        print_json(_told(said))
        return
    _show(said)


@app.command(epilog="Example: sealmatch gallery prove ./lakeside --record L-2021-000093 --save ./absent.json")
def prove(
    folder: Folder,
    record: Annotated[str, typer.Option("--record", metavar="NUMBER", help="The record number that is asked about.")],
    save: Annotated[Path, typer.Option(help="Where to write the signed proof; it holds the number.")],
    as_json: AsJson = False,
) -> None:
    """Prove that no record of a number is in the gallery, for the person whose number it is; refused when one is."""
    with sentences(as_json):
        from agency_node.commands.acting import acting  # noqa: PLC0415

        purging, node = _purging(folder)
        with acting(node, "gallery prove"):
            write_new(save, purging.register.prove_absent(record, clock()))
    if as_json:
        print_json({"ok": True, "saved": str(save)})
        return
    typer.echo(f"{node.agency} holds no record of that number; the proof is {save}: `sealmatch gallery absent` checks it")


@app.command(epilog="Example: sealmatch gallery absent ./absent.json --roster roster.json --root-fingerprint 5f1a…")
def absent(
    proof: Annotated[Path, typer.Argument(help="A proof that `sealmatch gallery prove` made.", show_default=False)],
    node: NodeOption = None,
    roster: RosterOption = None,
    root_fingerprint: RootOption = "",
    log: LogOption = None,
    as_json: AsJson = False,
) -> None:
    """Check, without a network, a proof that a gallery holds no record of a number; exit code 1 when it proves nothing."""
    with sentences(as_json):
        from crypto.record_manifest import ABSENCE_KIND, Absence  # noqa: PLC0415

        data = read_document(proof, ABSENCE_KIND.max_bytes)
        trusted = _trusted(node, roster, root_fingerprint, log)
        said, under = Absence.read(data, trusted.possibly_expired)
        entered = _entered(log, trusted, said.agency, said.manifest_digest)
    if as_json:
        told = {"ok": True, "agency": str(said.agency), "record_number": said.record_number, "manifest": _told(under), "entered": entered}
        print_json(told)
        return
    typer.echo(
        f"{said.agency} held no record {said.record_number} in its gallery of {under.records} records at {plain(under.made_at)}"
        f" (manifest {under.version}, root {under.records_root.hex()})"
    )
    _show_entered(entered)


@app.command(epilog="Example: sealmatch gallery dispositions ./lakeside ./feed.csv --refused ./refused.csv")
def dispositions(
    folder: Folder,
    feed: Annotated[Path, typer.Argument(help="CSV with the columns record_number, disposition, date.", show_default=False)],
    refused: Annotated[Path | None, typer.Option(help="Where to write the lines that were refused, and why.")] = None,
    as_json: AsJson = False,
) -> None:
    """Take a feed of how cases ended: records that must go are found by no search from now on; exit code 1 when lines were refused."""
    with sentences(as_json):
        from agency_node.commands.acting import acting  # noqa: PLC0415
        from agency_node.holder.dispositions import take_feed  # noqa: PLC0415

        purging, node = _purging(folder)
        with acting(node, "gallery dispositions") as act:
            report = take_feed(node.engine, purging.store, feed, clock())
            act.detail = f"{report.told} records told of, {report.withdrawn} withdrawn"
            if refused is not None:
                _write_refused(refused, report.refused)
    if as_json:
        print_json(report)
    else:
        typer.echo(
            f"told of {report.told}, withdrawn from searches {report.withdrawn}, found again {report.found_again}, "
            f"not here {report.not_here}, refused {len(report.refused)}"
        )
        for one in report.refused:
            typer.echo(f"line {one.line}: {one.code}: {one.reason}")
    if report.refused:
        raise typer.Exit(1)


@app.command(epilog="Example: sealmatch gallery purge ./lakeside --before 2026-10-01 --report ./purge-2026-10.json")
def purge(
    folder: Folder,
    report: Annotated[Path, typer.Option(help="Where to write the signed report; it names no record.")],
    before: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], metavar="DAY", help="What is due by how its case ended before this day.")
    ] = None,
    unchecked: Annotated[
        bool, typer.Option("--unchecked", help="With --before: also what was not heard of since before that day.")
    ] = False,
    record: Annotated[str, typer.Option("--record", metavar="NUMBER", help="One record instead, by order.")] = "",
    reason: Annotated[str, typer.Option(help="With --record: why, as `sealmatch node expunge` takes it.")] = "court-order",
    as_json: AsJson = False,
) -> None:
    """Destroy the records that are due, for good, and write a signed report; 1,000 at most, the rest in the next run."""
    with sentences(as_json):
        from agency_node.commands.acting import acting  # noqa: PLC0415
        from agency_node.holder.expunging import ExpungeReason  # noqa: PLC0415
        from agency_node.holder.purging import due_before, the_one  # noqa: PLC0415
        from agency_node.store import forget_deleted  # noqa: PLC0415

        if (before is None) == (not record):
            raise RequestError("name either --before DAY, for all that is due, or --record NUMBER, for one by order")
        if report.exists():
            raise RequestError(f"{report} is there already, and no signed document is overwritten: name another file")
        given = member(ExpungeReason, reason, "reason")
        purging, node = _purging(folder)
        with acting(node, "gallery purge") as act:
            chosen = the_one(purging.store, record, given) if before is None else due_before(before.date(), unchecked=unchecked)
            data = purging.purge(chosen, clock())
            write_new(report, data)
            said = json.loads(data)["signed"]
            act.detail = f"{sum(said['expunged'].values())} records, {said['left']} left"
        files_clean = forget_deleted(node.engine)
    if as_json:
        print_json({"expunged": said["expunged"], "left": said["left"], "ledger_entry": said["ledger_after"], "files_clean": files_clean})
        return
    typer.echo(f"expunged {_listed(said['expunged'])}; {said['left']} more are due")
    typer.echo(f"entry {said['ledger_after']} of {purging.ledger_file}: keep a copy of that file elsewhere; a restore asks for it")
    if not files_clean:
        typer.echo("the write-ahead log was in use: the serving node empties it in its next round")
    typer.echo(f"the signed report is {report}: `sealmatch gallery check` checks it")


@app.command(epilog="Example: sealmatch gallery check ./purge-2026-10.json --log ./bundle --root-fingerprint 5f1a…")
def check(
    document: Annotated[Path, typer.Argument(help="A report of a purge, a manifest, or differentials.", show_default=False)],
    node: NodeOption = None,
    roster: RosterOption = None,
    root_fingerprint: RootOption = "",
    log: LogOption = None,
    as_json: AsJson = False,
) -> None:
    """Check, without a network, the signed report of a purge, a manifest, or differentials; exit code 1 when it does not hold."""
    with sentences(as_json):
        import hashlib  # noqa: PLC0415

        from agency_node.commands.gallery_differentials import show, told_of  # noqa: PLC0415
        from crypto.differentials import DIFFERENTIALS_KIND, Differentials  # noqa: PLC0415
        from crypto.errors import VersionError  # noqa: PLC0415
        from crypto.record_manifest import PURGE_REPORT_KIND, PurgeReport, RecordManifest  # noqa: PLC0415

        data = read_document(document, max(PURGE_REPORT_KIND.max_bytes, DIFFERENTIALS_KIND.max_bytes))
        trusted = _trusted(node, roster, root_fingerprint, log)
        pinned = trusted.possibly_expired
        measured = None
        with suppress(VersionError):
            measured = Differentials.read(data, pinned)
        if measured is not None:
            print_json({"ok": True, **told_of(measured)}) if as_json else show(measured)
            return
        try:
            report, before, after = PurgeReport.read(data, pinned)
            newest = report.after_data
        except VersionError:
            report, before, after, newest = None, None, RecordManifest.read(data, pinned), data
        entered = _entered(log, trusted, after.agency, hashlib.sha256(newest).digest())
    if as_json:
        told = {} if report is None or before is None else {"expunged": report.expunged, "left": report.left, "before": _told(before)}
        print_json({"ok": True, "agency": str(after.agency), **told, "manifest": _told(after), "entered": entered})
        return
    if report is not None and before is not None:
        typer.echo(f"{report.agency} expunged {_listed(report.expunged)} at {plain(report.made_at)}; {report.left} more were due")
        typer.echo(f"before: {before.records} records, root {before.records_root.hex()}")
        typer.echo(f"after:  {after.records} records, root {after.records_root.hex()}")
    else:
        _show(after)
    _show_entered(entered)


def _purging(folder: Path) -> tuple[Purging, Node]:
    """What acts on the gallery of a holder's node."""
    from agency_node.config import Role  # noqa: PLC0415
    from agency_node.holder.expunge_ledger import path_of  # noqa: PLC0415
    from agency_node.holder.purging import Purging  # noqa: PLC0415
    from agency_node.holder.records import RecordStore  # noqa: PLC0415
    from agency_node.holder.register import Register  # noqa: PLC0415
    from agency_node.node import open_node  # noqa: PLC0415
    from agency_node.outbox import Outbox  # noqa: PLC0415

    node = open_node(folder, clock)
    if Role.HOLDER not in node.config.roles:
        raise RequestError("this node is no holder, and has no gallery: name the folder of one")
    store = RecordStore(node.engine, node.vault, node.embedder().model)
    node_key = node.keyring.node_key
    outbox = Outbox(node.agency, node_key, node.vault, clock, lambda: None)
    register = Register(node.agency, node.engine, node.vault, node_key, store, outbox.manifest)
    return Purging(node.agency, node.engine, store, register, node_key, path_of(node.config, folder), outbox.expunction), node


def _trusted(node: Path | None, roster: Path | None, root_fingerprint: str, log: Path | None) -> TrustedRoster:
    from agency_node.commands.log_files import fingerprint_of  # noqa: PLC0415
    from agency_node.legal.ceremony import read_roster  # noqa: PLC0415
    from agency_node.log_bundle import Bundle  # noqa: PLC0415
    from agency_node.node import open_node  # noqa: PLC0415
    from crypto.roster import TrustedRoster  # noqa: PLC0415

    if node is not None:
        return open_node(node, clock).parties.trusted
    if not root_fingerprint or (roster is None and log is None):
        raise RequestError("name whom to trust: a --node that pinned the roster, or --root-fingerprint with --roster FILE or --log BUNDLE")
    fingerprint = fingerprint_of(root_fingerprint)
    document = read_roster(roster) if roster is not None else Bundle(log or Path()).roster()
    return TrustedRoster.resume(document, fingerprint)


def _entered(log: Path | None, trusted: TrustedRoster, agency: str, digest: bytes) -> str | None:
    """The day under which a manifest stands in the log of that bundle; None without a bundle. `InclusionError` when it does not."""
    if log is None:
        return None
    from agency_node.log_bundle import Bundle, verify_bundle  # noqa: PLC0415
    from crypto.canonical import AgencyId  # noqa: PLC0415
    from crypto.entries import EntryKind, LogEntry, entry_subject  # noqa: PLC0415
    from crypto.errors import InclusionError  # noqa: PLC0415

    bundle = Bundle(log)
    verify_bundle(bundle, trusted, clock())
    subject = entry_subject(EntryKind.MANIFEST, digest, AgencyId(agency))
    for leaf in bundle.read(bundle.checkpoint().checkpoint.size).leaves:
        entry = LogEntry.from_bytes(leaf)
        if entry.kind is EntryKind.MANIFEST and entry.subject == subject:
            return entry.day.isoformat()
    raise InclusionError("the manifest is not entered in the log of this bundle")


def _told(said: RecordManifest) -> dict[str, object]:
    told: dict[str, object] = plain(said)
    return told | {"records": said.records, "places_key": said.places_key.raw.hex()}


def _show(said: RecordManifest) -> None:
    typer.echo(f"{said.agency}, manifest {said.version} of {plain(said.made_at)}: {said.records} records ({_listed(said.sources)})")
    typer.echo(f"found by no search: {_listed(said.unsearchable)}")
    typer.echo(f"model {said.model}, {said.dimensions} dimensions, {said.model_hash.hex()}; key epoch {said.key_epoch}")
    typer.echo(f"root of the records {said.records_root.hex()}")


def _show_entered(entered: str | None) -> None:
    if entered is None:
        typer.echo("not looked for in the public log: --log BUNDLE does that")
    else:
        typer.echo(f"its manifest stands in the public log, under {entered}")


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items()) or "none"


def _write_refused(path: Path, rows: Sequence[RefusedRow]) -> None:
    try:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("line", "record_number", "code", "reason"))
            writer.writerows((row.line, row.record_number, row.code, row.reason) for row in rows)
    except OSError as error:
        raise RequestError("the list of refused lines cannot be written; the feed itself is taken: name another file for it") from error
