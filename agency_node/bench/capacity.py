"""What a department needs: memory, disk, seconds and bytes of a search, from formulas and from constants that benchmarks measured.

Bytes follow from the formats and are exact; each formula names the module whose form it is, and `tests/test_bench_search.py` compares it
with what a federation of processes moved and stored. Memory is the sum of what is held at once, above a measured base. Seconds are an
estimate: `MEASURED` times sizes on that machine, and the lines' time as if each message were whole before the next party has it. What is
not counted: other work on the machine, waiting searches, lost packets, HTTP and TLS around the messages (about one hundredth).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Final

from agency_node.bench.synthetic import chunks_of
from crypto.binary import packed_size
from crypto.bodies import GRANT_BODY_BYTES
from crypto.disclosure import SLOT_BYTES
from crypto.limits import DEFAULT_CAP
from crypto.message_types import MESSAGES, MessageType
from crypto.packed_words import GROUP
from crypto.parameters import SEALMATCH_1, Scales
from crypto.ring import N
from crypto.segments import sealed_length

PACKED_BITS: Final = 27
"""Of a packed word (`crypto.packed_words`); dimensions are filled up to a multiple of 32."""
CHECKPOINT_BYTES: Final = 450
"""Of the log's head that each message carries, with three signatures: measured in the demonstration's federation."""
RECORD_NUMBER_CHARS: Final = 12
AGENCY_ID_CHARS: Final = 12
"""Length of a usual agency id, such as northport-pd."""
DATABASE_PAGES: Final = 1.11
"""Bytes of the database file over bytes of the records' columns beside the template: SQLite's pages and the index of tags, measured."""

_PREFIX: Final = 5
_DIGEST: Final = 32
_SIGNATURE: Final = 64
_VAULT: Final = 12 + 16
"""Nonce and tag of what `agency_node.vault` seals."""


@dataclass(frozen=True)
class Measured:
    """Constants of one machine, with where each comes from."""

    machine: str
    date: str
    scan_s_per_gigabyte: float
    """Step `scan` of `bench answer`, by packed bytes."""
    answer_s_per_million: float
    """Step `re-randomised, masked, rounded` of `bench answer`, by slots."""
    open_s_per_million: float
    """Steps `answer written and read` and `opened to 16 bits` of `bench answer`, by slots."""
    release_s_per_million: float
    """Steps `unmasked, calibration checked` and `positions to rows` of `bench answer`, by slots."""
    carry_s_per_megabyte: float
    """`bench search` with 2,500,000 records less one with 20,000, less what the constants above say, by their difference in bytes."""
    rest_s: float
    """`bench search` with 20,000 records, less what the other constants say of it: log, cosignatures, mail, transactions."""
    round_trips: float
    """How often a party waits for the broker's reply before the next thing can happen: `bench search` of 2,000 records and one holder with
    `--delay-ms 200`, less one with 0, over 0.4 s."""
    party_bytes: float
    """Memory of a node without records, by `bench search`."""
    answer_bytes_per_slot: float
    """What an answer holds for a slot while it is made, by `bench search`."""


MEASURED: Final = Measured(
    machine="AMD EPYC without AVX-512, 2 cores",
    date="2026-11-30",
    scan_s_per_gigabyte=0.048,
    answer_s_per_million=0.057,
    open_s_per_million=0.024,
    release_s_per_million=0.023,
    carry_s_per_megabyte=0.056,
    rest_s=0.77,
    round_trips=29,
    party_bytes=280e6,
    answer_bytes_per_slot=128,
)
"""What stands behind the seconds and the memory's base. Of `bench search` with 2,500,000 records the median of three calls: 1.77,
2.13, 2.47 s within two hours. Round trips and memory are of 2026-11-24."""


@dataclass(frozen=True)
class Department:
    """The question: each of `holders` departments has `records` records, and every party a line of `uplink_mbit` in both directions."""

    records: int
    dimensions: int = 512
    holders: int = 1
    uplink_mbit: float = 100.0
    delay_ms: float = 30.0
    photograph_kb: float = 100.0
    agency_id_chars: int = AGENCY_ID_CHARS
    record_number_chars: int = RECORD_NUMBER_CHARS
    checkpoint_bytes: int = CHECKPOINT_BYTES

    @property
    def chunks(self) -> int:
        """Chunks of an answer: of a fresh layout, and the calibration chunk (`crypto.layout`, `crypto.calibration`)."""
        return chunks_of(self.records, Scales(self.dimensions))

    @property
    def slots(self) -> int:
        """Slots of an answer."""
        return self.chunks * N

    # --- messages -----------------------------------------------------------------------------------------------------

    @property
    def probe_bytes(self) -> int:
        """Body of a probe: head, epoch, model, dimensions, D + 1 polynomials of 26-bit words (`crypto.probe`)."""
        return _PREFIX + 7 + _DIGEST + 2 + packed_size((self.dimensions + 1) * N, SEALMATCH_1.probe_bits)

    @property
    def answer_bytes(self) -> int:
        """Body of an answer: 27 bits a slot, head, the order's seed, the holder's statement (`crypto.answer`, `crypto.bodies`)."""
        words = packed_size(self.slots, SEALMATCH_1.answer_a_bits) + packed_size(self.slots, SEALMATCH_1.answer_b_bits)
        answer = _PREFIX + 7 + _DIGEST + _DIGEST + 2 + 4 + 2 + words
        return _PREFIX + self._statement_bytes + (_PREFIX + _DIGEST + 32) + 4 + answer

    @property
    def opened_bytes(self) -> int:
        """Body of opened values: 16 bits a slot, head, the holder's statement (`crypto.opening`, `crypto.bodies`)."""
        return _PREFIX + self._statement_bytes + 4 + (_PREFIX + _DIGEST + 4 + 2 * self.slots)

    @property
    def mask_share_bytes(self) -> int:
        """Body of a mask share: digests, slots, seed, places of the calibration chunk (`crypto.answer`)."""
        return _PREFIX + 2 * _DIGEST + 4 + 32 + 2 + 4 * N

    @property
    def stubs_bytes(self) -> int:
        """Body of a holder's stubs: one slot for each of the cap's leads (`crypto.disclosure`)."""
        return _PREFIX + 2 + 2 + DEFAULT_CAP * SLOT_BYTES

    @property
    def _statement_bytes(self) -> int:
        return 1 + self.agency_id_chars + _DIGEST + _SIGNATURE

    def message_bytes(self, kind: str, body: int) -> int:
        """A sealed message around a body: envelope, frame, the sender's checkpoint (`crypto.envelope`, `crypto.messages`)."""
        names = 2 * self.agency_id_chars
        context = len("sealmatch-1") + len(kind) + 32 + 2 * _DIGEST + names + 64 + len("2026-11") + 7
        content = 48 + sealed_length(body) if MESSAGES[MessageType(kind)].streamed else body + 16
        envelope = _PREFIX + 6 + 2 + context + 4 + (65 + content) + _SIGNATURE
        return _PREFIX + 1 + 16 + 32 + (2 + names) + 4 + 8 + (4 + self.checkpoint_bytes) + 4 + envelope + _SIGNATURE

    @property
    def grant_message(self) -> int:
        """One grant, to one party; of one length, whatever it says."""
        return self.message_bytes("grant", GRANT_BODY_BYTES)

    @property
    def probe_message(self) -> int:
        """One probe, to one holder."""
        return self.message_bytes("probe", self.probe_bytes)

    @property
    def answer_message(self) -> int:
        """One holder's answer."""
        return self.message_bytes("answer", self.answer_bytes)

    @property
    def opened_message(self) -> int:
        """The opened values of one holder's answer."""
        return self.message_bytes("opened-scores", self.opened_bytes)

    @property
    def mask_share_message(self) -> int:
        """One holder's mask share."""
        return self.message_bytes("mask-share", self.mask_share_bytes)

    @property
    def stubs_message(self) -> int:
        """One holder's stubs."""
        return self.message_bytes("stubs", self.stubs_bytes)

    # --- memory and disk ----------------------------------------------------------------------------------------------

    @property
    def packed_bytes(self) -> int:
        """The packed gallery: one word a slot and dimension; the calibration chunk is made for each answer (`crypto.gallery`)."""
        return (self.slots - N) * -(-self.dimensions // GROUP) * GROUP * PACKED_BITS // 8

    @property
    def template_bytes(self) -> int:
        """All templates at once, int8, while a layout is packed (`agency_node.holder.records`)."""
        return self.records * self.dimensions

    @property
    def serving_bytes(self) -> float:
        """A holder's process while it serves: base, packed gallery, an answer in the making."""
        return MEASURED.party_bytes + self.packed_bytes + MEASURED.answer_bytes_per_slot * self.slots

    @property
    def starting_bytes(self) -> float:
        """Its peak at the start: packed gallery and templates together."""
        return max(MEASURED.party_bytes + self.packed_bytes + self.template_bytes, self.serving_bytes)

    @property
    def renewing_bytes(self) -> float:
        """Its peak while it packs a new layout beside the old one (`agency_node.holder.index`)."""
        return MEASURED.party_bytes + 2 * self.packed_bytes + self.template_bytes

    @property
    def record_content_bytes(self) -> int:
        """Columns of one record without photograph (`agency_node.holder.records`): tag, sealed JSON, two moments."""
        content = {"record_number": "x" * self.record_number_chars, "source_class": "criminal_booking", "media": 1}
        return 32 + (_VAULT + len(json.dumps(content))) + len("2018-06-01") + len("2026-11-23T12:00:00.00Z")

    @property
    def template_content_bytes(self) -> int:
        """Columns of all template blocks: int8 templates, encrypted and sealed 1,024 at a time (`agency_node.holder.blocks`)."""
        return self.template_bytes + 2 * _VAULT * -(-self.records // 1024)

    @property
    def database_bytes(self) -> float:
        """The database without photographs."""
        return self.template_content_bytes + DATABASE_PAGES * self.records * (self.record_content_bytes + 32)

    @property
    def photograph_bytes(self) -> float:
        """All photographs, sealed one by one."""
        return self.records * (1000 * self.photograph_kb + _VAULT)

    # --- a search -----------------------------------------------------------------------------------------------------

    @property
    def sent_by_requester(self) -> int:
        """Grant to everybody, probe to each holder, opened values to the custodian."""
        return (self.holders + 1) * self.grant_message + self.holders * (self.probe_message + self.opened_message)

    @property
    def received_by_requester(self) -> int:
        """Answers and stubs."""
        return self.holders * (self.answer_message + self.stubs_message)

    @property
    def sent_by_holder(self) -> int:
        """Answer, mask share, stubs."""
        return self.answer_message + self.mask_share_message + self.stubs_message

    @property
    def received_by_holder(self) -> int:
        """Grant and probe."""
        return self.grant_message + self.probe_message

    @property
    def received_by_custodian(self) -> int:
        """Grant, mask shares, opened values."""
        return self.grant_message + self.holders * (self.mask_share_message + self.opened_message)

    @property
    def total_bytes(self) -> int:
        """All messages of a search, each counted once; releases, receipts and the word that the grant stands, some thousand bytes, are left
        out."""
        return self.sent_by_requester + self.holders * self.sent_by_holder

    @property
    def machine_s(self) -> float:
        """Seconds of a search where the lines cost nothing, all parties on machines like the measured one; holders work side by side."""
        slots = self.slots / 1e6
        holder = MEASURED.scan_s_per_gigabyte * self.packed_bytes / 1e9 + MEASURED.answer_s_per_million * slots
        others = self.holders * slots * (MEASURED.open_s_per_million + MEASURED.release_s_per_million)
        return MEASURED.rest_s + holder + others + MEASURED.carry_s_per_megabyte * self.total_bytes / 1e6

    @property
    def line_s(self) -> float:
        """Seconds on the lines: what the requester sends first, a holder's answer, what comes back and goes on to the custodian; and round
        trips, which several holders make side by side."""
        sent = self.sent_by_requester + self.received_by_holder + self.sent_by_holder + self.received_by_requester
        on_the_way = 8 * (sent + self.received_by_custodian - self.grant_message) / (1e6 * self.uplink_mbit)
        return on_the_way + MEASURED.round_trips * 2 * self.delay_ms / 1000

    def as_json(self) -> dict[str, object]:
        """For programs: the question, bytes, seconds, and what was measured where."""
        return {
            "records": self.records,
            "dimensions": self.dimensions,
            "holders": self.holders,
            "uplink_mbit": self.uplink_mbit,
            "delay_ms": self.delay_ms,
            "photograph_kb": self.photograph_kb,
            "memory": {
                "packed_bytes": self.packed_bytes,
                "serving_bytes": round(self.serving_bytes),
                "starting_bytes": round(self.starting_bytes),
                "renewing_bytes": round(self.renewing_bytes),
            },
            "disk": {"database_bytes": round(self.database_bytes), "photograph_bytes": round(self.photograph_bytes)},
            "messages": {
                "grant": self.grant_message,
                "probe": self.probe_message,
                "answer": self.answer_message,
                "mask-share": self.mask_share_message,
                "opened-scores": self.opened_message,
                "stubs": self.stubs_message,
            },
            "search": {
                "holder_sends_bytes": self.sent_by_holder,
                "holder_receives_bytes": self.received_by_holder,
                "requester_sends_bytes": self.sent_by_requester,
                "requester_receives_bytes": self.received_by_requester,
                "custodian_receives_bytes": self.received_by_custodian,
                "bytes": self.total_bytes,
                "machine_s": self.machine_s,
                "line_s": self.line_s,
                "search_s": self.machine_s + self.line_s,
            },
            "measured": asdict(MEASURED),
        }
