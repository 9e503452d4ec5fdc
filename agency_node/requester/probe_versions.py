"""Where a probe's chain lies: its links, and every picture of it that is not the still itself, sealed in the requester's store (R19).

Invariants: a link and a picture open in their own row alone; when pictures are destroyed (`retention`) the links stay, so that digests and
edits can still be shown; what is read passes `provenance.read_chain`. Left to others: the still (table `searches`), destroying on a lapse
(`legal.lapsing`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from sqlalchemy import Connection, Engine, delete, insert, select, update

from agency_node.case_tables import probe_links
from agency_node.errors import ProvenanceError
from agency_node.faces.embedder import Face
from agency_node.faces.image import Pixels, encode_lossless, read_image
from agency_node.requester.provenance import Chain, Prepared, check_aligned, check_chain, read_chain
from agency_node.store import reading
from agency_node.tables import searches
from agency_node.vault import Vault

LINK: Final = "probe-link"
PICTURE: Final = "probe-picture"
_STILL: Final = "still"


@dataclass(frozen=True)
class KeptChain:
    """A search's chain, and its pictures by number; the still is at the chain's last but one. Empty once they were destroyed."""

    chain: Chain
    pictures: dict[int, bytes] = field(repr=False)

    @property
    def original(self) -> bytes:
        """The file as it came; `ProvenanceError` when it was destroyed."""
        found = self.pictures.get(0)
        if found is None:
            raise ProvenanceError("the original was destroyed when its time was over: the chain's digests are what is left of it")
        return found

    @property
    def still(self) -> bytes:
        """The file that is searched with; `ProvenanceError` when it was destroyed."""
        found = self.pictures.get(self.chain.probe.number)
        if found is None:
            raise ProvenanceError("the still was destroyed when its time was over: the chain's digests are what is left of it")
        return found

    @property
    def spent_bytes(self) -> int:
        """As `Prepared.file_bytes`."""
        start, end = self.chain.original, self.chain.probe
        return max(start.file_bytes * (end.width * end.height) // (start.width * start.height), 1)

    @property
    def aligned(self) -> Pixels | None:
        """The cut that the network was shown, None where there is none."""
        kept = self.pictures.get(len(self.chain.links) - 1)
        return None if kept is None else read_image(kept).pixels

    def check(self, face: Face | None = None) -> None:
        """Make everything again (`check_chain`), and with the face that was found in the still its cut too (`check_aligned`)."""
        check_chain(self.chain, self.original, self.still)
        if face is not None:
            check_aligned(self.chain, self.aligned, face)


def keep_chain(connection: Connection, vault: Vault, search_id: str, chain: Chain, prepared: Prepared, face: Face) -> None:
    """Seal a draft's chain and its pictures, in the caller's transaction."""
    pictures: dict[int, bytes] = dict(enumerate((prepared.original, *prepared.versions))) if chain.edits else {}
    if face.aligned is not None:
        pictures[len(chain.links) - 1] = encode_lossless(face.aligned)
    for link in chain.links:
        bound = bound_to(search_id, link.number)
        picture = pictures.get(link.number)
        values = {
            "search_id": search_id,
            "number": link.number,
            "sealed_link": vault.seal(LINK, link.to_bytes(), bound),
            "sealed_picture": None if picture is None else vault.seal(PICTURE, picture, bound),
        }
        connection.execute(insert(probe_links).values(**values))


def read_kept(engine: Engine, vault: Vault, search_id: str) -> KeptChain:
    """A search's chain with the pictures that are left; `ProvenanceError` when it has none or it is broken."""
    with reading(engine).begin() as connection:
        rows = connection.execute(select(probe_links).where(probe_links.c.search_id == search_id).order_by(probe_links.c.number)).all()
        sealed = connection.execute(select(searches.c.sealed_still).where(searches.c.search_id == search_id)).scalar()
    if not rows:
        raise ProvenanceError(
            "no chain of this search's picture is kept here: it was drafted before chains were, or lies under the seal of a lapse. Have a "
            "draft drafted anew; of a lapsed search the legal office has it (`sealmatch node unseal`)"
        )
    chain = read_chain([vault.open(LINK, row.sealed_link, bound_to(search_id, row.number)) for row in rows])
    pictures = {
        int(row.number): vault.open(PICTURE, row.sealed_picture, bound_to(search_id, row.number))
        for row in rows
        if row.sealed_picture is not None
    }
    if sealed is not None:
        still = vault.open(_STILL, sealed, search_id.encode("ascii"))
        pictures[chain.probe.number] = still
        if not chain.edits:
            pictures[0] = still
    return KeptChain(chain, pictures)


def forget_pictures(connection: Connection, search_id: str) -> None:
    """Destroy the pictures of a chain; its links stay."""
    connection.execute(update(probe_links).where(probe_links.c.search_id == search_id).values(sealed_picture=None))


def forget_chain(connection: Connection, search_id: str) -> None:
    """Destroy a chain altogether: it lies under another seal."""
    connection.execute(delete(probe_links).where(probe_links.c.search_id == search_id))


def bound_to(search_id: str, number: int) -> bytes:
    """What a link and its picture are bound to."""
    return f"{search_id}/{number}".encode("ascii")
