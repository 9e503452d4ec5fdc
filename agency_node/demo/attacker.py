"""A requester's node whose administrator took its policy out: what the other parties of a search do about it."""

from __future__ import annotations

from agency_node.policy.engine import Decision, Ground, PolicyInputs


class TakenOut:
    """In the place of a node's own packs: says yes to everything."""

    sha256 = bytes(32)

    def decide(self, inputs: PolicyInputs) -> Decision:
        """Allowed, by nobody's rule."""
        return Decision(True, (Ground("taken-out", 999, "Nobody asked.", "-"),), self.sha256, inputs.sha256)
