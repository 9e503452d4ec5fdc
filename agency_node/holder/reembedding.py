"""A gallery's templates made anew by another face model, from the photographs that were kept, beside those that are searched (R29).

The work is a process of its own. It reads each photograph, and writes the new model's templates into blocks beside the old ones, a batch at
a time; the serving node searches the old ones meanwhile, and people enrol and expunge. When every row is there, one transaction switches:
the tables of blocks change names, the gallery's model is the new one, the data keys of the old blocks are gone. Then the old blocks are
deleted, and the write-ahead log is emptied. The serving node packs the new templates aside and goes over to them when they are packed.

Invariants
- A killed run is run again and goes on behind the last batch that was written; a row is embedded into one place, its own.
- Before the switch the store is of the old model and whole, after it of the new one and whole; there is no moment between.
- A record keeps row, number, photograph and every reference. One whose photograph the new model refuses, or that has none, is not lost: it
  is `unsearchable` under that model, is not scanned, and the next re-embedding tries it again.
- What is expunged meanwhile is erased in both (`blocks`), in the transaction that expunges it.

Left to others: what is searched (`index`), which model node.toml means (`model_in_use`), who may ask for it (the command).
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final

import numpy as np
from sqlalchemy import Engine, delete, func, insert, select, update

from agency_node.errors import EnrolmentError, ImageError, ImageFault, RequestError
from agency_node.faces.embedder import Embedder, the_one_face
from agency_node.faces.image import read_image
from agency_node.facts import Fact, read_fact, write_fact
from agency_node.gallery_tables import next_block_keys, next_template_blocks, records, refused_records
from agency_node.holder.blocks import BLOCK_ROWS, MODEL_FACT, NEXT, TemplateBlocks, pinned_model, swap_tables
from agency_node.holder.gallery_counter import changes_of, count_change, row_count
from agency_node.holder.progress import Progress
from agency_node.journal import NO_SEARCH
from agency_node.journal import record as record_event
from agency_node.model_in_use import NamedModel, replace_model
from agency_node.store import forget_deleted, large_batch, reading
from agency_node.tables import facts
from agency_node.vault import Vault
from crypto.codes import Codes

NO_PHOTOGRAPH: Final = "no-photograph"
"""The code of a record that was enrolled without one."""
REFUSED_COLUMNS: Final = ("row", "record_number", "code", "reason")

_BATCH_PICTURES: Final = 32
"""About ten seconds of work, the most that a killed run does twice."""
_DELETED_AT_ONCE: Final = 64
_LOOKS: Final = 20


@dataclass(frozen=True)
class UnsearchableRecord:
    """A record that the new model cannot search, and why."""

    row: int
    record_number: str = field(repr=False)
    code: str
    reason: str


@dataclass(frozen=True)
class Reembedded:
    """What came of it. `switched` is False for one that was only prepared; `files_clean` False while another process keeps the write-ahead
    log in use: the serving node empties it in its next round."""

    model_hash: bytes
    embedded: int
    unsearchable: tuple[UnsearchableRecord, ...]
    switched: bool
    files_clean: bool


class Reembedding:
    """The gallery in this store, on its way to another model. Made in the process that does the work."""

    def __init__(
        self, engine: Engine, vault: Vault, embedder: Embedder, was: NamedModel, by: NamedModel, clock: Callable[[], datetime]
    ) -> None:
        """`was` is what node.toml names, `by` what `embedder` was loaded from."""
        self._engine, self._vault, self._embedder, self._was, self._by, self._clock = engine, vault, embedder, was, by, clock
        self._model = embedder.model
        self._blocks = TemplateBlocks(engine, vault, self._model.dimensions, self._model.model_hash, NEXT)

    def run(self, progress: Progress, *, switch: bool = True) -> Reembedded:
        """Make what is missing, switch if asked, destroy the old blocks. Again after it was done, it does what is left of that.

        `RequestError` for an empty gallery, and when another run of it is at work.
        """
        if not self._is_switched():
            self._begin()
            while True:
                self._build(progress)
                if not switch:
                    return self._report(switched=False, files_clean=True)
                if self._switch():
                    break  # nothing was enrolled since the last batch
        self._destroy_old()
        return self._report(switched=True, files_clean=self._empty_log())

    # --- beside the old ---

    def _is_switched(self) -> bool:
        with reading(self._engine).begin() as connection:
            pinned = pinned_model(connection)
            if pinned is None:
                raise RequestError("nothing is enrolled here: name the new model in node.toml, and enrol with it")
            return pinned == self._model.model_hash

    def _begin(self) -> None:
        """Say what is being made; what an earlier run made for a third model goes, keys first."""
        said = json.dumps({"model": self._model.model_hash.hex(), **asdict(self._by)}, sort_keys=True).encode("utf-8")
        with self._engine.begin() as connection:
            if read_fact(connection, Fact.REEMBEDDING) == said:
                return
            connection.execute(delete(next_block_keys))
            connection.execute(delete(next_template_blocks))
            connection.execute(delete(refused_records).where(refused_records.c.model != pinned_model(connection)))
            write_fact(connection, Fact.REEMBEDDING, said)
            record_event(connection, self._clock(), NO_SEARCH, "re-embedding begun", f"model {self._model.model_hash.hex()}")

    def _build(self, progress: Progress) -> None:
        """Embed row after row until there is none left."""
        with reading(self._engine).begin() as connection:
            first, total = self._blocks.rows(connection), row_count(connection)
        progress.text("Embedding photographs again")
        progress.total(total)
        progress.advance(first)
        while first < total:
            templates, refused = self._embed(first, total)
            self._write(first, templates, refused)
            first += len(templates)
            progress.advance(len(templates))
            with reading(self._engine).begin() as connection:
                total = row_count(connection)
        progress.total(total)

    def _embed(self, first: int, total: int) -> tuple[Codes, dict[int, str]]:
        """Templates of the rows from `first` on, int8[rows, D], zero for what is refused; and the codes of refusals by row. Nobody's
        transaction is open while photographs are embedded."""
        rows, photographs, refused = self._next(first, total)
        templates: Codes = np.zeros((rows, self._model.dimensions), np.int8)
        for row, sealed in photographs:
            try:
                photograph = read_image(self._vault.open("photograph", sealed, row.to_bytes(8, "big")))
                templates[row - first] = self._model.templates(the_one_face(self._embedder, photograph).embedding)
            except ImageError as error:
                refused[row] = error.fault.value
        return templates, refused

    def _next(self, first: int, total: int) -> tuple[int, list[tuple[int, bytes]], dict[int, str]]:
        """How many rows come next, a block of them or a batch of pictures; the sealed photographs among them, and those without one."""
        bare = records.c.sealed_photograph.is_(None)
        columns = select(records.c.row, bare, records.c.expunged_at.is_not(None))
        coming = columns.where(records.c.row >= first, records.c.row < min(first + BLOCK_ROWS, total)).order_by(records.c.row)
        rows, pictures, refused = 0, [], {}
        with reading(self._engine).begin() as connection:
            for row, has_none, is_gone in connection.execute(coming):
                rows += 1
                if has_none and not is_gone:
                    refused[row] = NO_PHOTOGRAPH
                elif not is_gone:
                    pictures.append(row)
                if len(pictures) == _BATCH_PICTURES:
                    break
            held = select(records.c.row, records.c.sealed_photograph).where(records.c.row.in_(pictures))
            return rows, [(row, sealed) for row, sealed in connection.execute(held)], refused

    def _write(self, first: int, templates: Codes, refused: dict[int, str]) -> None:
        """One batch behind the last, without what was expunged while it was embedded."""
        rows = range(first, first + len(templates))
        with self._engine.begin() as connection:
            if self._blocks.rows(connection) != first or read_fact(connection, Fact.REEMBEDDING) is None:
                raise RequestError("another run of this re-embedding is at work: let it end, or stop it and run this one again")
            gone = select(records.c.row).where(records.c.row.in_(rows), records.c.expunged_at.is_not(None))
            for row in connection.execute(gone).scalars():
                templates[row - first] = 0
                refused.pop(row, None)
            with large_batch(connection):
                self._blocks.append(connection, first, templates)
            if refused:
                told = [{"row": row, "model": self._model.model_hash, "code": code} for row, code in refused.items()]
                connection.execute(insert(refused_records).prefix_with("OR REPLACE"), told)
        templates.fill(0)

    # --- the switch ---

    def _switch(self) -> bool:
        """In one transaction: the new blocks are those that are searched, and the keys of the old ones are gone. False when rows came."""
        with self._engine.begin() as connection:
            if self._blocks.rows(connection) != row_count(connection):
                return False
            swap_tables(connection)
            connection.execute(delete(next_block_keys))
            connection.execute(update(facts).where(facts.c.name == MODEL_FACT).values(value=self._model.model_hash))
            replace_model(connection, self._was, self._by)
            connection.execute(delete(facts).where(facts.c.name == Fact.REEMBEDDING.value))
            connection.execute(delete(refused_records).where(refused_records.c.model != self._model.model_hash))
            count_change(connection, changes_of(connection))
            record_event(connection, self._clock(), NO_SEARCH, "re-embedded", f"model {self._model.model_hash.hex()}")
        return True

    def _destroy_old(self) -> None:
        """Delete blocks whose keys went with the switch; what is deleted is overwritten (`store`). Not after it, while a third model's are
        being made."""
        while True:
            with self._engine.begin() as connection:
                if read_fact(connection, Fact.REEMBEDDING) is not None:
                    return
                some = select(next_template_blocks.c.block).limit(_DELETED_AT_ONCE)
                if not connection.execute(delete(next_template_blocks).where(next_template_blocks.c.block.in_(some))).rowcount:
                    return

    def _empty_log(self) -> bool:
        return any(forget_deleted(self._engine) for _ in range(_LOOKS))

    def _report(self, *, switched: bool, files_clean: bool) -> Reembedded:
        of, mine = refused_records.c, records.c
        chosen = select(of.row, of.code, mine.sealed_record).join(records, mine.row == of.row)
        chosen = chosen.where(of.model == self._model.model_hash, mine.expunged_at.is_(None)).order_by(of.row)
        with reading(self._engine).begin() as connection:
            refused = [(row, code, bytes(sealed)) for row, code, sealed in connection.execute(chosen)]
            alive = select(func.count()).select_from(records).where(records.c.expunged_at.is_(None))
            live = int(connection.execute(alive).scalar_one())
        told = tuple(
            UnsearchableRecord(
                row, json.loads(self._vault.open("record", sealed, row.to_bytes(8, "big")))["record_number"], code, _why(code)
            )
            for row, code, sealed in refused
        )
        return Reembedded(self._model.model_hash, live - len(told), told, switched, files_clean)


def write_refused(path: Path, refused: tuple[UnsearchableRecord, ...]) -> None:
    """Write the records that the new model cannot search (`REFUSED_COLUMNS`), over what stands there; `EnrolmentError` if that fails."""
    try:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(REFUSED_COLUMNS)
            writer.writerows((one.row, one.record_number, one.code, one.reason) for one in refused)
    except OSError as error:
        says = "the list of records that are not searched cannot be written; the re-embedding itself is done"
        raise EnrolmentError(f"{says}: run it again and name another file") from error


def _why(code: str) -> str:
    if code == NO_PHOTOGRAPH:
        return "the record was enrolled without a photograph: enrol one under a new record number"
    if code == ImageFault.NO_FACE:
        return "the new model finds no face in the kept photograph: the record stays, and is not searched until a re-embedding finds one"
    return "the new model cannot use the kept photograph: the record stays, and is not searched until a re-embedding can use it"
