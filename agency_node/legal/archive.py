"""What is kept of an exigent search that lapsed: still with its chain (R19), request, digests of answers, and the leads that were seen.

All of it is sealed to the legal office's discovery key (HPKE, as the escrow of the search key), which is in no node: a court order or the
defence's packet (R43) has the office open it. Invariants: what is sealed here is bound to its search and opens as no other; nothing of it
stays readable in the node. Left to others: destroying the plaintext (`lapsing`), whether something is to be kept at all (`policy.clocks`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import Engine, select

from agency_node.errors import ProvenanceError, RequestError
from agency_node.legal.persons import DiscoveryKey
from agency_node.outbox import ENTRY
from agency_node.requester.drafting import CASE, STILL, TOKEN, CaseFile
from agency_node.requester.leads import list_disclosed, list_leads
from agency_node.requester.probe_versions import KeptChain, read_kept
from agency_node.tables import exigent_grants, outbox, searches
from agency_node.vault import Vault
from crypto.canonical import b64url_decode, b64url_encode
from crypto.entries import EntryKind
from crypto.envelope import OFFERED_SUITES, P256_SHA256_AES256GCM
from crypto.errors import OpeningError
from crypto.keys import SealingPublicKey

ARCHIVE_LABEL: Final = b"sealmatch-1/lapsed-search|"
_TYPE: Final = "sealmatch-1/lapsed-search"


@dataclass(frozen=True)
class Archive:
    """An opened archive. `request` is JSON: grant, case, digests of answers, leads, disclosures without pictures, the links of the still's
    chain; `pictures` by handle; `versions` the other pictures of the chain by number."""

    still: bytes = field(repr=False)
    request: Mapping[str, Any] = field(repr=False)
    pictures: Mapping[str, bytes] = field(repr=False)
    versions: Mapping[int, bytes] = field(repr=False)


def seal_archive(engine: Engine, vault: Vault, search_id: str, office: SealingPublicKey) -> bytes:
    """Everything that is to be kept of a search, sealed to the office's discovery key."""
    bound = search_id.encode("ascii")
    with engine.begin() as connection:
        row = connection.execute(select(searches).where(searches.c.search_id == search_id)).one()
    disclosed = list_disclosed(engine, vault, search_id)
    request = {
        "type": _TYPE,
        "search_id": search_id,
        "grant": b64url_encode(vault.open(TOKEN, row.sealed_token, bound)),
        "case": json.loads(CaseFile.from_bytes(vault.open(CASE, row.sealed_case, bound)).to_bytes()),
        "answers": _answers(engine, vault, search_id),
        "leads": [
            {
                "rank": one.rank,
                "band": one.band.name.lower(),
                "agency": str(one.agency or ""),
                "handle": one.handle,
                "captured": str(one.captured or ""),
            }
            for one in (list_leads(engine, vault, search_id) if row.sealed_release is not None else [])
        ],
        "disclosed": [
            {"handle": one.handle, "agency": str(one.agency), "outcome": one.outcome, "record_number": one.record_number}
            for one in disclosed
        ],
    }
    still = b"" if row.sealed_still is None else vault.open(STILL, row.sealed_still, bound)
    chain = _chain(engine, vault, search_id)
    if chain is not None:
        request["chain"] = [link.to_json() for link in chain.chain.links]
    kept = {
        "request": request,
        "still": b64url_encode(still),
        "pictures": {one.handle: b64url_encode(one.photograph) for one in disclosed if one.photograph},
        "versions": {} if chain is None else {str(number): b64url_encode(one) for number, one in chain.pictures.items() if one != still},
    }
    return office.seal(OFFERED_SUITES[P256_SHA256_AES256GCM], json.dumps(kept).encode("utf-8"), ARCHIVE_LABEL + bound)


def open_archive(engine: Engine, search_id: str, key: DiscoveryKey) -> Archive:
    """The archive of a lapsed search; `RequestError` when none is kept, or the key is not the one that it was sealed to."""
    with engine.begin() as connection:
        sealed = connection.execute(select(exigent_grants.c.archive).where(exigent_grants.c.search_id == search_id)).scalar()
    if sealed is None:
        raise RequestError("nothing of this search lies under a seal: it has not lapsed, or the policy had everything deleted")
    try:
        data = key.sealing_key.open(OFFERED_SUITES[P256_SHA256_AES256GCM], sealed, ARCHIVE_LABEL + search_id.encode("ascii"))
    except OpeningError as error:
        raise RequestError("this key does not open the seal: name the discovery key of this agency's legal office") from error
    kept = json.loads(data)
    pictures = {handle: b64url_decode(picture) for handle, picture in kept["pictures"].items()}
    versions = {int(number): b64url_decode(picture) for number, picture in kept.get("versions", {}).items()}
    return Archive(b64url_decode(kept["still"]), kept["request"], pictures, versions)


def _chain(engine: Engine, vault: Vault, search_id: str) -> KeptChain | None:
    """The chain of the still; None where there is none that reads, which must not keep a lapse from being carried out."""
    try:
        return read_kept(engine, vault, search_id)
    except ProvenanceError:
        return None


def _answers(engine: Engine, vault: Vault, search_id: str) -> list[dict[str, str]]:
    """The digests of answers and openings, from the openings of this agency's own log entries."""
    of_search = (outbox.c.search_id == search_id) & (outbox.c.kind == ENTRY) & (outbox.c.name == EntryKind.OPENED_SCORES.value)
    with engine.begin() as connection:
        rows = connection.execute(select(outbox.c.grant_digest, outbox.c.sealed_openings).where(of_search).order_by(outbox.c.number)).all()
    found = []
    for row in rows:
        openings = json.loads(vault.open("log-openings", row.sealed_openings, row.grant_digest))["openings"]
        found.append({str(one["type"]): str(one["value"]) for one in openings})
    return found
