"""What a node seals at rest: blobs open where they belong and nowhere else, tags are the same in every version of the store."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from sqlalchemy import Connection, Engine, select

from agency_node.errors import StoreError
from agency_node.gallery_tables import records
from agency_node.holder.candidates import BOOKING
from agency_node.holder.records import NewRecord, RecordStore
from agency_node.store import DATABASE_FILE, large_batch, open_store
from agency_node.vault import KEY_BYTES, Vault
from crypto.disclosure import Media
from tests.node_world import MODEL, gallery_records
from tests.sample_federation import NOW

KEY = bytes(range(KEY_BYTES))
VAULT = Vault(KEY)


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return open_store(tmp_path / DATABASE_FILE)


@pytest.mark.parametrize("value", [b"", b"B-1", "Ü 2".encode(), bytes(200)])
@pytest.mark.parametrize("purpose", ["record-number", "x"])
def test_a_tag_is_hkdf_of_the_key_under_purpose_and_value(purpose: str, value: bytes) -> None:
    """Stores hold tags of years ago: another way to compute them must give the same ones."""
    info = b"sealmatch-1/at-rest/tag/" + purpose.encode() + b"/" + value
    assert VAULT.tag(purpose, value) == HKDF(hashes.SHA256(), 32, KEY, info).derive(KEY)
    assert VAULT.tag(purpose, value) == Vault(KEY).tag(purpose, value) != Vault(bytes(KEY_BYTES)).tag(purpose, value)


def test_blobs_that_were_sealed_together_open_each_where_it_belongs() -> None:
    bound = [bytes([number]) for number in range(5)]
    sealed = VAULT.seal_each("record", [b"same"] * 5, bound)
    assert [VAULT.open("record", blob, place) for blob, place in zip(sealed, bound, strict=True)] == [b"same"] * 5
    assert len({blob[:12] for blob in sealed}) == len({blob[12:] for blob in sealed}) == 5
    for purpose, place in (("record", bound[1]), ("photograph", bound[0])):
        with pytest.raises(StoreError, match="does not open"):
            VAULT.open(purpose, sealed[0], place)
    with pytest.raises(ValueError, match="shorter"):
        VAULT.seal_each("record", [b"a", b"b"], bound[:1])


@pytest.mark.parametrize("number", ["plain", 'a "quoted" \\ one', "Ü 日本 🙂"])
def test_a_record_is_sealed_as_json(engine: Engine, number: str) -> None:
    """Stores hold records of years ago, and those of later versions must read today's."""
    template = gallery_records()[0].template
    store = RecordStore(engine, VAULT, MODEL)
    store.add([NewRecord(number, NOW.date(), BOOKING, template, b"picture", Media.PNG), NewRecord("2", NOW.date(), "b", template)], NOW)
    with engine.begin() as connection:
        sealed = list(connection.execute(select(records.c.sealed_record).order_by(records.c.row)).scalars())
    opened = [VAULT.open("record", blob, row.to_bytes(8, "big")) for row, blob in enumerate(sealed)]
    assert opened[0] == json.dumps({"record_number": number, "source_class": BOOKING, "media": int(Media.PNG)}).encode()
    assert opened[1] == json.dumps({"record_number": "2", "source_class": "b", "media": None}).encode()


def test_a_batch_gives_the_memory_of_its_pages_back_also_when_it_fails(engine: Engine) -> None:
    def cache_size(connection: Connection) -> int:
        return int(connection.exec_driver_sql("PRAGMA cache_size").scalar_one())

    def fail(connection: Connection) -> None:
        with large_batch(connection):
            assert cache_size(connection) < before
            raise RuntimeError

    with engine.connect() as connection:
        before = cache_size(connection)
        with pytest.raises(RuntimeError):
            fail(connection)
        assert cache_size(connection) == before
