"""The broker as a real process on loopback: port file, logs, SIGTERM with open polls, `kill -9` at any moment.

Keys are the sample federation's; times are this machine's, because the process asks its own clock.
"""

from __future__ import annotations

import http.client
import ipaddress
import json
import random
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from typer.testing import CliRunner

from broker import cli
from crypto.canonical import AgencyId, b64url_decode, b64url_encode
from crypto.checkpoint import Checkpoint, LogKey, SignedCheckpoint, check_continues, check_log_signature
from crypto.disclosure import DisclosureRequest
from crypto.entries import EntryKind, LogEntry
from crypto.epoch import Epoch
from crypto.frame import MessageHeader
from crypto.grant_basis import CourtOrder
from crypto.grant_claims import GrantClaims
from crypto.grant_token import without_reason
from crypto.keys import VerifyingKey
from crypto.mailbox_receipt import MailboxReceipt
from crypto.message_types import MessageType
from crypto.messages import Message
from crypto.mirror import LogMirror
from crypto.moments import round_moment
from crypto.parts import split_message
from crypto.request_signature import fresh_nonce, sign_request
from crypto.roster import Roster
from tests.broker_world import ROSTER, entry_of, frame, grant_entry, node_key
from tests.sample_federation import LAKESIDE, NORTHPORT, VENDOR, claims, sign_roster, token_of, with_agency

ORIGIN = "log.example.org/2026"
PATIENCE_S = 60
"""For a machine that does other things too; nothing is measured with it."""


def now() -> datetime:
    return datetime.now(UTC)


def current_roster(log: LogKey) -> Roster:
    """The sample roster, valid and its persons trained today."""
    trained = (now() + timedelta(days=30)).date()
    current = replace(ROSTER, log=log, expires=round_moment(now() + timedelta(days=30)))
    for agency in ROSTER.agencies:
        persons = tuple(replace(person, trained_until=trained) for person in agency.persons)
        current = with_agency(current, agency.agency_id, persons=persons)
    return current


def current_claims() -> GrantClaims:
    """The sample grant, in force now."""
    moment = round_moment(now())
    today: date = moment.date()
    sample = claims()
    assert isinstance(sample.basis, CourtOrder)
    return replace(
        sample,
        basis=replace(sample.basis, issued=today - timedelta(days=3), expires=today + timedelta(days=10)),
        epoch=Epoch.at(moment - timedelta(hours=1)),
        not_before=moment - timedelta(hours=1),
        answer_deadline=moment + timedelta(hours=4),
        expires=moment + timedelta(hours=8),
    )


@dataclass
class Broker:
    """A folder, and the process that serves it at the moment."""

    folder: Path
    log: LogKey
    errors: Path
    process: subprocess.Popen[bytes] | None = None
    port: int = 0
    nonce_prefix: bytes = b""

    def start(self, *options: str) -> None:
        port_file = self.folder / "port"
        port_file.unlink(missing_ok=True)
        command = [
            sys.executable,
            "-m",
            "broker.cli",
            "serve",
            str(self.folder),
            "--port",
            "0",
            "--port-file",
            str(port_file),
            "--json",
            *options,
        ]
        with self.errors.open("ab") as errors:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, cwd=Path(__file__).parent.parent)  # noqa: S603
        deadline = time.monotonic() + PATIENCE_S
        while not port_file.exists():
            assert self.process.poll() is None, self.errors.read_text()
            assert time.monotonic() < deadline, "the broker does not start"
            time.sleep(0.02)
        self.port = int(port_file.read_text())

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.communicate()

    def ask(
        self,
        method: str,
        path: str,
        agency: AgencyId | None = NORTHPORT,
        body: bytes = b"",
        document: object = None,
        timeout: float = PATIENCE_S,
    ) -> httpx.Response:
        """The reply; the first request after a start is signed twice, as nodes do."""
        content = json.dumps(document).encode() if document is not None else body
        reply = self._ask(method, path, agency, content, timeout)
        if reply.status_code == 401 and "nonce_prefix" in reply.json():
            self.nonce_prefix = bytes.fromhex(reply.json()["nonce_prefix"])
            reply = self._ask(method, path, agency, content, timeout)
        return reply

    def _ask(self, method: str, path: str, agency: AgencyId | None, content: bytes, timeout: float) -> httpx.Response:
        headers = {} if agency is None else self.signed(method, path, agency, content)
        return httpx.request(method, self.url(path), content=content, headers=headers, timeout=timeout, trust_env=False)

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def signed(self, method: str, path: str, agency: AgencyId, content: bytes) -> dict[str, str]:
        """The fields of a request under the prefix that was told last."""
        nonce = fresh_nonce(self.nonce_prefix)
        return sign_request(method, self.url(path), content, agency=agency, key=node_key(agency), nonce=nonce, now=now())

    def enter_grant(self, content: GrantClaims, entry: LogEntry) -> httpx.Response:
        terms = without_reason(token_of(content))
        return self.ask("POST", "/v1/grants", document={"terms": b64url_encode(terms), "entry": b64url_encode(entry.to_bytes())})

    def enter(self, entry: LogEntry, digest: bytes) -> httpx.Response:
        return self.ask(
            "POST", "/v1/log/entries", LAKESIDE, document={"entry": b64url_encode(entry.to_bytes()), "grant_digest": digest.hex()}
        )

    def put(self, message: Message) -> httpx.Response:
        (part,) = split_message(message)
        return self.ask("PUT", f"/v1/messages/{message.message_id}/parts/0", body=part.to_bytes())

    def lease(self, wait_s: int = 0) -> list[dict[str, Any]]:
        leases: list[dict[str, Any]] = self.ask("POST", "/v1/mailbox/leases", LAKESIDE, document={"wait_s": wait_s, "limit": 32}).json()[
            "leases"
        ]
        return leases

    def head(self) -> SignedCheckpoint:
        note = SignedCheckpoint.from_bytes(self.ask("GET", "/v1/log/checkpoint", None).content)
        check_log_signature(note, self.log)
        return note

    def leaves(self) -> list[bytes]:
        return [b64url_decode(leaf) for leaf in self.ask("GET", "/v1/log/leaves", None).json()["leaves"]]


def message(content: GrantClaims, sequence: int) -> Message:
    header = MessageHeader(
        MessageType.DISCLOSURE_REQUEST, content.search_id, content.digest, NORTHPORT, LAKESIDE, sequence, round_moment(now())
    )
    return frame(header, DisclosureRequest(None), node_key(NORTHPORT))


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    """A broker made by its own commands, serving."""
    folder, runner = tmp_path / "broker", CliRunner()
    fingerprint = ROSTER.root.fingerprint.hex()
    made = runner.invoke(
        cli.app, ["init", str(folder), "--operator", VENDOR, "--origin", ORIGIN, "--root-fingerprint", fingerprint, "--json"]
    )
    log = LogKey(ORIGIN, VerifyingKey(b64url_decode(json.loads(made.stdout)["log_key"])))
    document = tmp_path / "roster.json"
    document.write_bytes(sign_roster(current_roster(log)))
    served = Broker(folder, log, tmp_path / "errors")
    served.start()
    installed = runner.invoke(cli.app, ["roster", str(folder), str(document), "--json"])  # while the process serves
    assert installed.exit_code == 0, installed.stderr
    try:
        yield served
    finally:
        if served.process is not None:
            served.kill()


def test_a_message_travels_and_the_log_lines_tell_nothing(broker: Broker) -> None:
    content = current_claims()
    assert broker.enter_grant(content, grant_entry(content.digest)).status_code == 201
    sent = message(content, 1)
    assert broker.put(sent).json() == {"state": "queued", "missing": []}
    (lease,) = broker.lease(wait_s=5)
    part = broker.ask("GET", f"/v1/messages/{sent.message_id}/parts/0?lease_id={lease['lease_id']}", LAKESIDE)
    assert part.status_code == 200
    reply = broker.ask("POST", f"/v1/mailbox/leases/{lease['lease_id']}/acknowledgement", LAKESIDE)
    assert MailboxReceipt.read(b64url_decode(reply.json()["receipt"]), broker.log).message_id == sent.message_id
    assert broker.ask("GET", f"/v1/messages/{'ab' * 32}", None).status_code == 401
    lines = [json.loads(line) for line in broker.errors.read_text().splitlines()]
    assert {"method": "GET", "route": "/v1/messages/{message_id}/parts/{number}", "status": 200} in [
        {name: line.get(name) for name in ("method", "route", "status")} for line in lines
    ]
    text = broker.errors.read_text()
    for secret in (lease["lease_id"], sent.message_id, str(content.search_id), "northport", "lakeside", "counsel", "lease_id=", "ab" * 32):
        assert secret not in text
    taken = CliRunner().invoke(cli.app, ["serve", str(broker.folder), "--port", str(broker.port)])
    assert taken.exit_code == 2
    assert "--port" in taken.stderr


def test_a_stop_does_not_wait_for_open_polls(broker: Broker) -> None:
    """The poll would last 25 seconds; it is answered, and the process ends well, without waiting for it."""
    assert broker.lease() == []  # so that the prefix is known
    path, content = "/v1/mailbox/leases", b'{"wait_s":25,"limit":32}'
    poll = http.client.HTTPConnection("127.0.0.1", broker.port, timeout=20)
    poll.request("POST", path, content, broker.signed("POST", path, LAKESIDE, content))
    for _ in range(5):  # all of the poll was there before these were: it has been taken up when they are answered
        assert broker.ask("GET", "/healthz", None).status_code == 200
    assert broker.process is not None
    broker.process.send_signal(signal.SIGTERM)
    out, _ = broker.process.communicate(timeout=20)
    assert broker.process.returncode == 0
    assert json.loads(poll.getresponse().read()) == {"leases": []}
    poll.close()
    assert json.loads(out) == {"host": "127.0.0.1", "port": broker.port, "tls": False}
    assert "Traceback" not in broker.errors.read_text()


def test_tls_with_a_certificate_of_ones_own(broker: Broker, tmp_path: Path) -> None:
    certificate, key = self_signed(tmp_path)
    broker.kill()
    broker.start("--tls-certificate", str(certificate), "--tls-key", str(key))
    context = ssl.create_default_context(cafile=str(certificate))
    reply = httpx.get(f"https://127.0.0.1:{broker.port}/healthz", verify=context, trust_env=False, timeout=PATIENCE_S)
    assert reply.json() == {"status": "ok", "log_size": 1}  # the roster's entry
    alone = CliRunner().invoke(cli.app, ["serve", str(broker.folder), "--tls-key", str(key)])
    assert alone.exit_code == 2
    broken = CliRunner().invoke(cli.app, ["serve", str(broker.folder), "--tls-key", str(key), "--tls-certificate", str(key)])
    assert broken.exit_code == 2
    assert "PEM" in broken.stderr


def self_signed(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that signs itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "broker.test")])
    built = x509.CertificateBuilder(
        name, name, key.public_key(), x509.random_serial_number(), now() - timedelta(days=1), now() + timedelta(days=1)
    )
    built = built.add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
    built = built.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    certificate_file, key_file = folder / "certificate.pem", folder / "key.pem"
    certificate_file.write_bytes(built.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    key_file.write_bytes(key.private_bytes(*form))
    return certificate_file, key_file


def test_kill_9_at_any_moment_loses_nothing_that_was_promised(broker: Broker) -> None:
    """Killed while entries and messages come in, several times: whatever was answered is there, the rest can be sent again."""
    rng = random.Random(11)
    content = current_claims()
    leaf = grant_entry(content.digest)
    assert broker.enter_grant(content, leaf).status_code == 201
    installed = LogEntry.from_bytes(broker.leaves()[0])
    assert installed.kind is EntryKind.ROSTER_CHANGE
    promised: list[tuple[LogEntry, int]] = [(installed, 0), (leaf, 1)]
    queued: list[Message] = []
    heads: list[Checkpoint] = [broker.head().checkpoint]
    sequence = 0
    for _ in range(3):
        killer = threading.Timer(rng.uniform(0.05, 0.6), broker.kill)
        killer.start()
        pending_entry, pending_message = entry_of(EntryKind.REFUSAL, content.digest, LAKESIDE), message(content, sequence + 1)
        try:
            while True:
                pending_entry = entry_of(EntryKind.REFUSAL, content.digest, LAKESIDE)
                promised.append((pending_entry, broker.enter(pending_entry, content.digest).json()["index"]))
                heads.append(broker.head().checkpoint)
                sequence += 1
                pending_message = message(content, sequence)
                assert broker.put(pending_message).json()["state"] == "queued"
                queued.append(pending_message)
        except httpx.TransportError:
            killer.join()
        broker.start()
        # What hung in the air is sent again, as a node does.
        promised.append((pending_entry, broker.enter(pending_entry, content.digest).json()["index"]))
        if pending_message not in queued and pending_message.header.sequence == sequence:
            assert broker.put(pending_message).json()["state"] == "queued"
            queued.append(pending_message)
        assert broker.enter_grant(content, leaf).status_code == 200
    leaves = broker.leaves()
    for entry, index in promised:
        assert leaves[index] == entry.to_bytes()
    assert len(set(leaves)) == len(leaves) == len({index for _, index in promised})
    mirror = LogMirror(leaves)
    last = broker.head().checkpoint
    mirror.check_at(last)
    for head in heads:
        check_continues(head, last, mirror.tree.consistency_proof(head.size, last.size))
    delivered = broker.lease()
    assert [lease["message_id"] for lease in delivered] == [sent.message_id for sent in queued][:32]
