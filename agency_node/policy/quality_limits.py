"""How good a still must be to be searched with at this node: the strictest limits of the packs (R21).

Below the floor a still is refused, at the draft and again at the review; below the banner it is searched with, and those who draft and
review are told. Invariants: of several packs the highest limits count; without any pack the strict default's hold. A quality that was not
measured, which only stand-ins for a face model cause, is said. Left to others: measuring (`faces.quality`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Protocol

from agency_node.errors import ImageError, ImageFault
from agency_node.faces.quality import Quality
from agency_node.policy.pack_folder import PackQuality


class HasQuality(Protocol):
    """A loaded pack, as far as its limits on quality are concerned."""

    @property
    def quality(self) -> PackQuality: ...


@dataclass(frozen=True)
class QualityLimits:
    """One node's limits on the unified value, 0 to 100."""

    floor: int
    banner: int

    def check(self, quality: Quality | None) -> None:
        """Raise `ImageError` for a still below the floor."""
        if quality is not None and quality.unified < self.floor:
            says = f"rule R21: the still's quality is {quality.sentence}; the policy asks for {self.floor}: find a better still"
            raise ImageError(ImageFault.LOW_QUALITY, says)

    def warning(self, quality: Quality | None) -> str:
        """What investigator and reviewer are told, empty for a good still."""
        if quality is None:
            return "QUALITY NOT MEASURED: this face model gives no landmarks"
        if quality.unified < self.banner:
            return f"LOW QUALITY: {quality.sentence}; below {self.banner} wrong leads are likelier, and the right one may be missing (R21)"
        return ""


def quality_limits(packs: Iterable[HasQuality]) -> QualityLimits:
    """The limits that follow from the packs that apply at a node."""
    limits = [pack.quality for pack in packs] or [PackQuality()]
    return QualityLimits(max(one.floor for one in limits), max(one.banner for one in limits))


STRICT_LIMITS: Final = quality_limits(())
"""40 and 60."""
