"""A reviewer grants less than was asked for: fewer holders, a lower cap, a higher threshold. Never more, and nothing else.

What persons sign is one payload, so a narrowed grant is another payload than the draft. The reviewer signs that, and nothing of it goes on
before its investigator has signed the very same: `sealmatch node accept`. The token with what the investigator signed first is kept beside
it, and what is accepted is compared with that once more, so that no store and no reviewer widens a draft on the way. The probe stays as it
is: holders, cap and rate are not in it.

Invariants: `narrow` and `check_narrower` agree; ids, persons, probe, face, reason, times, custodians and packs are those of the draft.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from agency_node.errors import RequestError
from crypto.canonical import AgencyId
from crypto.errors import GrantMismatchError
from crypto.grant_claims import GrantClaims


@dataclass(frozen=True)
class Narrowing:
    """What a reviewer takes away; `cap` and `rate` (wrong persons in a million searches) are None where they stay as they are."""

    drop_holders: tuple[AgencyId, ...] = ()
    cap: int | None = None
    rate: int | None = None

    def __bool__(self) -> bool:
        return bool(self.drop_holders) or self.cap is not None or self.rate is not None


def narrow(claims: GrantClaims, less: Narrowing) -> GrantClaims:
    """The narrowed claims; `RequestError` for what would leave the draft as it is, widen it, or leave nobody to be asked."""
    for holder in less.drop_holders:
        if holder not in claims.holders:
            raise RequestError(f"{holder} is not asked in this draft: --drop-holder takes one of {', '.join(claims.holders)}")
    holders = tuple(holder for holder in claims.holders if holder not in less.drop_holders)
    if not holders:
        raise RequestError("no holder would be left to ask: refuse the draft with --refuse REASON")
    if less.cap is not None and not 1 <= less.cap < claims.cap:
        raise RequestError(f"--cap only lowers: the draft asks for {claims.cap} leads at most")
    if less.rate is not None and not 1 <= less.rate < claims.false_positives_per_million:
        raise RequestError(f"--rate only lowers: the draft allows {claims.false_positives_per_million} wrong persons in a million searches")
    rate = claims.false_positives_per_million if less.rate is None else less.rate
    return replace(claims, holders=holders, cap=claims.cap if less.cap is None else less.cap, false_positives_per_million=rate)


def check_narrower(narrowed: GrantClaims, draft: GrantClaims) -> None:
    """Raise `GrantMismatchError` unless `narrowed` asks for no more than `draft`, and for the same in everything else:

    1. no holder that the draft did not ask, no higher cap, no more wrong persons in a million
    2. all else is equal
    """
    if (
        not set(narrowed.holders) <= set(draft.holders)
        or narrowed.cap > draft.cap
        or narrowed.false_positives_per_million > draft.false_positives_per_million
    ):  # 1
        raise GrantMismatchError("what is to be accepted asks for more than the draft that was signed")
    same = replace(narrowed, holders=draft.holders, cap=draft.cap, false_positives_per_million=draft.false_positives_per_million)
    if same.digest != draft.digest:  # 2
        raise GrantMismatchError("what is to be accepted differs from the draft in more than holders, cap and rate")
