"""Limits that several parties must agree on, each with its reason; a format's own maximum length stands with the format."""

from __future__ import annotations

from typing import Final

MAX_CAP: Final = 50
"""Leads of one search over all holders together, at most (R32: the largest candidate list of the rules read)."""
DEFAULT_CAP: Final = 20
"""Leads of one search where nobody asks for another number (R32)."""
MAX_CUSTODIANS: Final = 16
"""Custodians of one search; each costs every holder one mask stream."""
MAX_CHUNKS: Final = 1 << 14
"""Chunks of one answer, its calibration chunk among them: 16.8 million slots, which fit one envelope. A larger gallery is several nodes."""
MAX_HOLDERS: Final = 256
"""Holders of one search: their names and outcomes fit one message."""
MAX_RULE: Final = 999
"""The largest number of a rule that a refusal names (R1 to R999)."""
MAX_MODEL_NAME: Final = 100
"""Characters of a face model's name in what a holder signs of its gallery."""
