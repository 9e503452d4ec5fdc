"""The broker's HTTP API, version 1: parse, call one service method, encode. No rule and no query stands here.

Invariants: every route but `/healthz` and the public log goes through `caller`, which refuses before the handler runs; a body is read by
the caller's check or by nobody; JSON objects are read strictly, member by member; what comes from a path or query has a type and a range.
Left to others: what may be done (`grants`, `mailbox`, `statements`, `log_store`, `openings`), what a refusal looks like (`problems`).
"""

from __future__ import annotations

import json
from typing import Annotated, Final, NoReturn

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from fastapi.responses import JSONResponse

from broker.authentication import Caller
from broker.errors import MalformedRequestError, NoCheckpointError
from broker.services import Services
from crypto.canonical import AgencyId, JsonValue, SearchId, b64url_encode
from crypto.entry_openings import LeafOpenings
from crypto.errors import EncodingError
from crypto.fields import MAX_INTEGER, Fields
from crypto.parts import MAX_PARTS, Part
from crypto.sealing_key import Week
from crypto.tiles import TilePath
from crypto.wire import MessageId

NOTE_MEDIA_TYPE: Final = "text/plain; charset=utf-8"
PART_MEDIA_TYPE: Final = "application/octet-stream"

_FOR_EVER: Final = "public, max-age=31536000, immutable"
"""A partial tile too is the same for ever: the wider one has another address."""

public = APIRouter()


async def services_of(request: Request) -> Services:
    """The services that `app` composed."""
    services: Services = request.app.state.services
    return services


async def caller_of(request: Request) -> Caller:
    """Who sent the request, or a refusal."""
    return await (await services_of(request)).authentication.caller_of(request)


signed = APIRouter(dependencies=[Depends(caller_of)])
mail = APIRouter(dependencies=[Depends(caller_of)])
"""Signed too. Routes are tried in order, and most requests are for these: `app` puts them first."""

CallerOf = Annotated[Caller, Depends(caller_of)]
ServicesOf = Annotated[Services, Depends(services_of)]
Size = Annotated[int, Query(ge=0, le=MAX_INTEGER)]
WaitS = Annotated[int, Query(ge=0, le=3600)]
Count = Annotated[int, Query(ge=0, le=1000)]
Number = Annotated[int, Path(ge=0, lt=MAX_PARTS)]
NameText = Annotated[str, Path(max_length=128)]


# --- the public log -------------------------------------------------------------------------------------------------


@public.get("/healthz")
async def healthz(services: ServicesOf) -> Response:
    """Whether the broker serves."""
    return JSONResponse({"status": "ok", "log_size": services.log.size})


@public.get("/v1/log/checkpoint")
async def checkpoint(request: Request, services: ServicesOf, min_size: Size = 0, cosignatures: Count = 0, wait_s: WaitS = 0) -> Response:
    """The newest head of that size and with so many cosignatures."""
    if services.log.hurry(min_size):
        services.bell.ring()
    note = await services.bell.until(
        lambda: services.log.checkpoint(min_size, cosignatures), services.wait(wait_s), request.is_disconnected
    )
    if note is None:
        raise NoCheckpointError("no head of that size has so many cosignatures")
    return Response(note.to_bytes(), media_type=NOTE_MEDIA_TYPE)


@public.get("/v1/log/pending")
async def pending(
    request: Request, services: ServicesOf, after_size: Annotated[int, Query(ge=-1, le=MAX_INTEGER)] = -1, wait_s: WaitS = 0
) -> Response:
    """The head that witnesses are to cosign now, and how it continues the one of `after_size` leaves; as soon as there is a larger one."""

    async def newer() -> int | None:
        size = services.log.pending_size(services.clock())
        return size if size > after_size else None

    size = await services.bell.until(newer, services.wait(wait_s), request.is_disconnected)
    if size is None:
        size = services.log.pending_size(services.clock())
    return Response((await services.log.cosign_request(size, max(after_size, 0))).to_bytes(), media_type=NOTE_MEDIA_TYPE)


@public.get("/v1/log/leaves")
async def leaves(services: ServicesOf, start: Size = 0, limit: Annotated[int, Query(ge=1, le=MAX_INTEGER)] = 1000) -> Response:
    """Leaf data in order; fewer than asked for when the limit of one answer or the log's end is reached."""
    size, found = await services.log.leaves_from(start, min(limit, services.limits.max_leaves))
    return JSONResponse({"size": size, "leaves": [b64url_encode(data) for data in found]})


@public.get("/v1/log/consistency")
async def consistency(services: ServicesOf, old: Size, new: Size) -> Response:
    """That the log of one size is the beginning of the log of another."""
    return _proof(services.log.consistency_proof(old, new))


@public.get("/v1/log/inclusion")
async def inclusion(services: ServicesOf, index: Size, size: Size) -> Response:
    """That a leaf stands in the log of that size."""
    return _proof(services.log.inclusion_proof(index, size))


# --- the same as static files, as C2SP's tlog-tiles asks: readers that others wrote need nothing else ----------------


@public.get("/checkpoint")
async def public_checkpoint(services: ServicesOf) -> Response:
    """The newest head that a majority of the roster's witnesses cosigned, the log operator's left out."""
    policy = (await services.rosters.trusted()).possibly_expired.public_policy()
    note = await services.log.checkpoint(0, policy.least_lines, policy.operator)
    if note is None:
        raise NoCheckpointError("no head has cosignatures of a majority of the witnesses")
    return Response(note.to_bytes(), media_type=NOTE_MEDIA_TYPE, headers={"Cache-Control": "no-cache"})


@public.get("/tile/{path:path}")
async def tile(services: ServicesOf, path: Annotated[str, Path(max_length=128)]) -> Response:
    """A tile of hashes, or a bundle of entries. What stands there never changes."""
    found = TilePath.from_text(f"tile/{path}")
    return Response(await services.log.tile(found), media_type=PART_MEDIA_TYPE, headers={"Cache-Control": _FOR_EVER})


@public.get("/v1/log/openings")
async def openings(
    services: ServicesOf, first: Annotated[int, Query(alias="from", ge=0, le=MAX_INTEGER)] = 0, limit: Count = 1000
) -> Response:
    """Opened fields in the order in which they were opened, and how many there are."""
    total, found = await services.openings.since(first, limit)
    return JSONResponse({"total": total, "openings": [one.to_json() for one in found]})


@public.get("/v1/log/counts")
async def counts(services: ServicesOf) -> Response:
    """Entries by kind and day, opened fields in cells of at least five (R62)."""
    return JSONResponse(await services.openings.counts())


# --- roster and statements --------------------------------------------------------------------------------------------


@signed.get("/v1/roster")
async def latest_roster(services: ServicesOf) -> Response:
    """The latest roster, as signed."""
    return _document(await services.rosters.document())


@signed.get("/v1/roster/{version}")
async def roster_version(services: ServicesOf, version: Annotated[int, Path(ge=1, le=MAX_INTEGER)]) -> Response:
    """A roster of another version, as signed."""
    return _document(await services.rosters.document(version))


@signed.put("/v1/statements/manifest")
async def put_manifest(caller: CallerOf, services: ServicesOf) -> Response:
    """Publish the caller's gallery manifest."""
    await services.statements.put_manifest(caller)
    return Response(status_code=204)


@signed.put("/v1/statements/sealing-key")
async def put_sealing_key(caller: CallerOf, services: ServicesOf) -> Response:
    """Publish a sealing key of the caller."""
    await services.statements.put_sealing_key(caller)
    return Response(status_code=204)


@signed.get("/v1/statements/manifest/{agency}")
async def manifest(services: ServicesOf, agency: NameText) -> Response:
    """An agency's latest manifest, as signed."""
    return _document(await services.statements.manifest(AgencyId(agency)))


@signed.get("/v1/statements/sealing-key/{agency}/{use}")
async def sealing_key(services: ServicesOf, agency: NameText, use: NameText) -> Response:
    """An agency's sealing key for a week or a search, as signed."""
    return _document(await services.statements.sealing_key(AgencyId(agency), Week(use) if "-" in use else SearchId(use)))


# --- grants and entries -----------------------------------------------------------------------------------------------


@signed.post("/v1/grants")
async def post_grant(caller: CallerOf, services: ServicesOf) -> Response:
    """Enter a grant with its log leaf."""
    fields = _object(caller.body)
    terms, entry = fields.data("terms"), fields.data("entry")
    fields.close()
    index, is_new = await services.grants.enter(caller, terms, entry)
    return JSONResponse({"index": index}, 201 if is_new else 200)


@signed.post("/v1/log/entries")
async def post_entry(caller: CallerOf, services: ServicesOf) -> Response:
    """Enter a log leaf about a grant."""
    fields = _object(caller.body)
    entry, digest = fields.data("entry"), fields.digest("grant_digest")
    fields.close()
    index, is_new = await services.grants.enter_about(caller, entry, digest)
    return JSONResponse({"index": index}, 201 if is_new else 200)


@signed.post("/v1/log/pack-changes")
async def post_pack_change(caller: CallerOf, services: ServicesOf) -> Response:
    """Enter the log leaf of a policy pack that the caller adopted."""
    fields = _object(caller.body)
    entry, approval = fields.data("entry"), fields.data("approval")
    fields.close()
    index, is_new = await services.pack_changes.enter(caller, entry, approval)
    return JSONResponse({"index": index}, 201 if is_new else 200)


@signed.post("/v1/log/expunctions")
async def post_expunction(caller: CallerOf, services: ServicesOf) -> Response:
    """Enter the log leaf of a record that the caller, a holder, expunged."""
    fields = _object(caller.body)
    entry, handle = fields.data("entry"), fields.digest("handle")
    fields.close()
    index, is_new = await services.expunctions.enter(caller, entry, handle)
    return JSONResponse({"index": index}, 201 if is_new else 200)


@signed.post("/v1/log/manifests")
async def post_record_manifest(caller: CallerOf, services: ServicesOf) -> Response:
    """Enter the log leaf of a record manifest of the caller, a holder."""
    fields = _object(caller.body)
    entry, digest = fields.data("entry"), fields.digest("digest")
    fields.close()
    index, is_new = await services.expunctions.enter_manifest(caller, entry, digest)
    return JSONResponse({"index": index}, 201 if is_new else 200)


@signed.post("/v1/log/openings")
async def post_openings(caller: CallerOf, services: ServicesOf) -> Response:
    """Open fields of a leaf that the caller entered, to everybody."""
    opened = LeafOpenings.from_fields(_object(caller.body))
    return JSONResponse({"opened": await services.openings.enter(caller, opened)})


@signed.post("/v1/log/cosignatures")
async def post_cosignature(caller: CallerOf, services: ServicesOf) -> Response:
    """Keep the caller's cosignature of a head; the head with all cosignatures so far."""
    note = await services.log.cosign(caller.body, caller.agency, caller.roster, caller.now)
    services.bell.ring()
    return Response(note.to_bytes(), media_type=NOTE_MEDIA_TYPE)


# --- messages -------------------------------------------------------------------------------------------------------


@mail.put("/v1/messages/{message_id}/parts/{number}")
async def put_part(caller: CallerOf, services: ServicesOf, message_id: NameText, number: Number) -> Response:
    """Take one part of a message."""
    part = Part.from_bytes(caller.body)
    if (part.message_id, part.number) != (MessageId(message_id), number):
        raise MalformedRequestError("the part is of another message or number than the address says")
    return JSONResponse((await services.mailbox.put_part(caller, part)).to_json())


@mail.get("/v1/messages/{message_id}")
async def message_state(caller: CallerOf, services: ServicesOf, message_id: NameText) -> Response:
    """How far a message is."""
    return JSONResponse((await services.mailbox.state(caller, MessageId(message_id))).to_json())


@mail.get("/v1/messages/{message_id}/parts/{number}")
async def get_part(
    caller: CallerOf, services: ServicesOf, message_id: NameText, number: Number, lease_id: Annotated[str, Query(max_length=64)]
) -> Response:
    """One part of a leased message."""
    data = await services.mailbox.part(caller, MessageId(message_id), number, lease_id)
    return Response(data, media_type=PART_MEDIA_TYPE)


@mail.post("/v1/mailbox/leases")
async def post_leases(request: Request, caller: CallerOf, services: ServicesOf) -> Response:
    """Lease what waits for the caller, or wait for something."""
    fields = _object(caller.body)
    wait_s, limit = fields.integer("wait_s"), fields.integer("limit")
    fields.close()
    if not 0 <= wait_s <= services.limits.max_wait_s or not 1 <= limit <= services.limits.max_leases:
        raise MalformedRequestError(f"wait_s is 0 to {services.limits.max_wait_s:g}, limit 1 to {services.limits.max_leases}")
    found = await services.bell.until(
        lambda: services.mailbox.lease(caller.agency, limit, services.clock()), wait_s, request.is_disconnected
    )
    return JSONResponse({"leases": found or []})


@mail.delete("/v1/mailbox/leases")
async def give_back_leases(caller: CallerOf, services: ServicesOf) -> Response:
    """End all leases of the caller, which has started again."""
    await services.mailbox.give_back(caller.agency)
    return Response(status_code=204)


@mail.post("/v1/mailbox/leases/{lease_id}/acknowledgement")
async def acknowledge(caller: CallerOf, services: ServicesOf, lease_id: NameText) -> Response:
    """Delete what was leased; the signed receipt."""
    return JSONResponse({"receipt": b64url_encode(await services.mailbox.acknowledge(caller, lease_id))})


# --- forms ----------------------------------------------------------------------------------------------------------


def _object(body: bytes) -> Fields:
    """A JSON object, each member once, without floats; the reader then asks for every member."""
    try:
        value: JsonValue = json.loads(body.decode("utf-8"), object_pairs_hook=_once, parse_float=_no_float, parse_constant=_no_float)
        return Fields(value, "body")
    except EncodingError as error:
        raise MalformedRequestError("the body is not a JSON object") from error
    except (ValueError, RecursionError) as error:
        raise MalformedRequestError("the body is not JSON, repeats a member, or holds a fraction") from error


def _once(pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("repeated member")
    return members


def _no_float(_text: str) -> NoReturn:
    raise ValueError("not an integer")


def _document(data: bytes) -> Response:
    return Response(data, media_type="application/json")


def _proof(hashes: tuple[bytes, ...]) -> Response:
    return JSONResponse({"proof": [digest.hex() for digest in hashes]})
