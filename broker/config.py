"""The broker's configuration: `broker.toml` in its folder, and the limits that it keeps.

Invariants: an unknown key stops the start; every limit has a unit in its name and its reason beside it; the log's secret key is in a file
of its own (mode 600), never in the configuration. Left to others: making the folder (`folder`), what the values do (the services).
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from broker.errors import OperatorError
from crypto.parts import MAX_PART_BYTES

CONFIG_FILE: Final = "broker.toml"
LOG_KEY_FILE: Final = "log.key"
DATABASE_FILE: Final = "broker.sqlite"


class Limits(BaseModel):
    """What the broker bears, each with its reason. A `[limits]` table in `broker.toml` changes single values."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_body_bytes: Annotated[int, Field(ge=1024)] = MAX_PART_BYTES
    """One part of a message is the longest body that there is; grants and statements are far shorter."""
    body_timeout_s: Annotated[float, Field(gt=0)] = 30.0
    """A body of 1 MiB over a slow line; whoever takes longer holds a connection for nothing."""
    max_nonces: Annotated[int, Field(ge=1024)] = 1 << 17
    """Requests within two minutes, after which a new prefix begins: more than this process can answer, and at most 18 MB, twice."""
    max_wait_s: Annotated[float, Field(gt=0, le=60)] = 25.0
    """Proxies close silent connections after 30 s."""
    look_again_s: Annotated[float, Field(gt=0)] = 1.0
    """A long poll wakes by an event of this process; another process may have written (a roster, a restart)."""
    lease_s: Annotated[float, Field(gt=0)] = 60.0
    """A node that died with a message gives it back after this; fetching a part starts the time again."""
    max_leases: Annotated[int, Field(ge=1)] = 32
    """Messages that one poll hands out."""
    max_waiting_bytes: Annotated[int, Field(ge=MAX_PART_BYTES)] = 16 << 30
    """Content that waits for one recipient: 256 holders' answers of 60 MB; a recipient that is away must not fill the disk."""
    max_leaves: Annotated[int, Field(ge=1)] = 1000
    """Leaves that one answer holds: at 4.6 kB each, 6 MB."""
    max_entries_of_grant: Annotated[int, Field(ge=1)] = 4096
    """Of one grant: 256 holders with an answer, its opening, a disclosure and refusals, several times over."""
    max_bytes_without_search: Annotated[int, Field(ge=1)] = 64 << 20
    """Gossip that waits for one recipient; it belongs to no grant that could expire."""
    gossip_kept_s: Annotated[int, Field(ge=60)] = 7 * 24 * 3600
    """Messages of no search, undelivered: a node that is away for a week reads the log itself."""
    active_witness_s: Annotated[float, Field(gt=0)] = 60.0
    """A witness that cosigned this recently is waited for."""
    head_stays_s: Annotated[float, Field(gt=0)] = 0.5
    """So long a head stays the one to cosign when a witness is slow: searches wait for it."""
    head_waits_s: Annotated[float, Field(gt=0)] = 2.0
    """So long a head of entries that no act waits for may wait for more of them before witnesses are asked."""
    sweep_s: Annotated[float, Field(gt=0)] = 10.0
    """How often expired things are looked for."""


class BrokerConfig(BaseModel):
    """`broker.toml`. `operator` and `origin` must be the roster's; `root_fingerprint` is the root set that the first roster must have."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    operator: Annotated[str, StringConstraints(pattern=r"^[a-z0-9](?:[a-z0-9._:-]{0,62}[a-z0-9])?$")]
    """Agency id of whoever runs the broker; its witness does not count."""
    origin: Annotated[str, StringConstraints(pattern=r"^[!-*,-~]{1,128}$")]
    """The log's name, as the roster has it."""
    root_fingerprint: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    """SHA-256 of the root set that must sign the first roster."""
    database: str | None = None
    """A database URL of SQLAlchemy; `broker.sqlite` in the folder if left out."""
    limits: Limits = Limits()
    """What the broker bears."""
    folder: Annotated[Path, Field(exclude=True)]

    @property
    def database_url(self) -> str:
        """Where the store is."""
        return self.database or f"sqlite:///{self.folder.resolve() / DATABASE_FILE}"

    @classmethod
    def load(cls, folder: Path) -> BrokerConfig:
        """The configuration in `folder`; `OperatorError` that names the key at fault."""
        path = folder / CONFIG_FILE
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise OperatorError(f"{path} is not there; make a broker with `sealmatch broker init`") from error
        except (OSError, ValueError) as error:
            raise OperatorError(f"{path} cannot be read as TOML; correct it") from error
        if "folder" in values:
            raise OperatorError(f"{path}: folder is no key of this file; take it out")
        try:
            return cls(folder=folder, **values)
        except (ValidationError, TypeError) as error:
            places = [".".join(map(str, fault["loc"])) for fault in error.errors()] if isinstance(error, ValidationError) else []
            raise OperatorError(f"{path}: unknown key or wrong value at {', '.join(places) or 'its top'}; correct or remove it") from error
