"""A record's leaf in the tree that the record manifest commits to, as rows of the store: put in, found by place, taken out with its record.

Invariants: whatever changes a bucket's leaves forgets the bucket's hash in the same transaction, so that a hash that is there is true.
Left to others: places and commitments (`register`), the tree (`crypto.record_tree`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy import Connection, delete, func, insert, select

from agency_node.gallery_tables import record_buckets, record_leaves
from crypto.record_tree import BUCKET_BITS, BUCKETS, RecordLeaf, RecordTree, bucket_hash, bucket_of


def put_leaves(connection: Connection, made: Sequence[tuple[int, RecordLeaf, str]]) -> None:
    """Put in the leaves of rows, each with its source class."""
    values = [{"row": row, "place": leaf.place, "commitment": leaf.commitment, "source_class": kind} for row, leaf, kind in made]
    if values:
        connection.execute(insert(record_leaves), values)
        _forget_buckets(connection, {bucket_of(leaf.place) for _, leaf, _ in made})


def forget_leaf(connection: Connection, row: int) -> None:
    """Take out the leaf of a record that is destroyed; it may have none yet."""
    place = connection.execute(select(record_leaves.c.place).where(record_leaves.c.row == row)).scalar_one_or_none()
    if place is not None:
        connection.execute(delete(record_leaves).where(record_leaves.c.row == row))
        _forget_buckets(connection, {bucket_of(place)})


def last_leaf_row(connection: Connection) -> int:
    """The highest row with a leaf, -1 for none: every record below it has one."""
    last = connection.execute(select(func.max(record_leaves.c.row))).scalar_one()
    return -1 if last is None else int(last)


def count_sources(connection: Connection) -> dict[str, int]:
    """How many records there are of each source class, in the order of the classes' names."""
    kind = record_leaves.c.source_class
    counted = select(kind, func.count()).group_by(kind).order_by(kind)
    return {str(name): int(count) for name, count in connection.execute(counted)}


def leaves_beside(connection: Connection, place: bytes) -> list[RecordLeaf]:
    """The leaves of a place's bucket, in the order of their places."""
    return _bucket(connection, bucket_of(place))


def tree_of(connection: Connection) -> RecordTree:
    """The tree of all leaves; hashes that are computed anew are kept, so that the transaction is one that writes."""
    stored = {int(row.bucket): bytes(row.hash) for row in connection.execute(select(record_buckets))}
    missing = {number: bucket_hash(_bucket(connection, number)) for number in range(BUCKETS) if number not in stored}
    if missing:
        connection.execute(insert(record_buckets), [{"bucket": number, "hash": digest} for number, digest in missing.items()])
    return RecordTree(stored | missing)


def _bucket(connection: Connection, number: int) -> list[RecordLeaf]:
    first = (number << (16 - BUCKET_BITS)).to_bytes(2)
    chosen = select(record_leaves.c.place, record_leaves.c.commitment).where(record_leaves.c.place >= first)
    if number + 1 < BUCKETS:
        chosen = chosen.where(record_leaves.c.place < ((number + 1) << (16 - BUCKET_BITS)).to_bytes(2))
    return [RecordLeaf(bytes(place), bytes(commitment)) for place, commitment in connection.execute(chosen.order_by(record_leaves.c.place))]


def _forget_buckets(connection: Connection, numbers: Iterable[int]) -> None:
    for number in numbers:
        connection.execute(delete(record_buckets).where(record_buckets.c.bucket == number))
