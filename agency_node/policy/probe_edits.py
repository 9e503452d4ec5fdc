"""Which edits of a still a search may be made with: those that every pack allows (R19).

A pack that says nothing allows what needs no permission: cutting, turning, exposure. Anything more is searched with only where each of
the packs lists it, those that bind an agency of the search among them. Asked at the draft and again at the review. Left to others: making
an edit (`faces.edits`), the chain (`requester.provenance`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Protocol

from agency_node.errors import PolicyRefusedError
from agency_node.faces.edits import Edit, EditKind
from agency_node.policy.pack_folder import PackProbe


class HasProbe(Protocol):
    """A loaded pack, as far as its limits on stills are concerned."""

    @property
    def probe(self) -> PackProbe: ...


@dataclass(frozen=True)
class EditLimits:
    """What one node's packs allow together."""

    allowed: frozenset[EditKind]

    def check(self, edits: Iterable[Edit]) -> None:
        """Raise `PolicyRefusedError` for an edit that a pack does not allow."""
        for edit in edits:
            if edit.kind not in self.allowed:
                listed = ", ".join(one for one in EditKind if one in self.allowed) or "none"
                raise PolicyRefusedError(
                    f"rule R19: the policy does not allow the edit {edit.kind.value!r} of a still; it allows: {listed}. Search with the "
                    "still as it was taken, or find a better one"
                )


def edit_limits(packs: Iterable[HasProbe]) -> EditLimits:
    """The limits that follow from these packs; from none, the strict default's."""
    lists = [frozenset(map(EditKind, pack.probe.edits)) for pack in packs] or [frozenset(map(EditKind, PackProbe().edits))]
    return EditLimits(frozenset.intersection(*lists))


STRICT_EDITS: Final = edit_limits(())
"""Crop, rotate, exposure."""
