"""The public half of a restore key, as it is carried from the new machine to the old one: a small JSON file, public and not signed.

Whoever exchanges it on its way gets the sealed file's content. So its name, the key's id, is printed at both ends, and a person compares.
Left to others: the private half (`legal.persons`), sealing (`sealed_file`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from agency_node.errors import RequestError
from crypto.canonical import AgencyId, JsonObject, KeyId, b64url_encode
from crypto.errors import EncodingError, FieldError
from crypto.fields import Fields
from crypto.keys import SealingPublicKey
from crypto.signed import key_id

_MAX_BYTES: Final = 4096


@dataclass(frozen=True)
class RestoreEntry:
    """Of which agency's machine it is, and the key to which a backup of that agency's node is sealed."""

    agency: AgencyId
    key: SealingPublicKey

    @property
    def key_id(self) -> KeyId:
        """What two persons compare."""
        return key_id(self.key.raw)

    def to_json(self) -> JsonObject:
        """The file's content."""
        return {"agency": str(self.agency), "restore_key": b64url_encode(self.key.raw), "key_id": str(self.key_id)}

    @classmethod
    def read(cls, path: Path) -> Self:
        """The entry in that file; `RequestError` for anything else."""
        try:
            with path.open("rb") as file:
                data = file.read(_MAX_BYTES + 1)
            if len(data) > _MAX_BYTES:
                raise FieldError("too long")
            fields = Fields(json.loads(data), "restore key")
            entry = cls(fields.name("agency", AgencyId), SealingPublicKey(fields.data("restore_key")))
            if fields.name("key_id", KeyId) != entry.key_id:
                raise FieldError("restore key bears another key's id")
            fields.close()
        except OSError as error:
            raise RequestError(f"{path} cannot be read ({error.strerror}): name what `sealmatch node restore-key` printed") from error
        except (ValueError, EncodingError) as error:
            raise RequestError(f"{path} is no public restore key: name what `sealmatch node restore-key` printed") from error
        return entry
