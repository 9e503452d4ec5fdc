"""A node's folder and its `node.toml`: what is switched on, whom it dials, whom it trusts.

    DIR/node.toml            this file's settings, every key below
    DIR/keys/at-rest.key     32 bytes, mode 0600: opens everything else in the folder
    DIR/keys/node.key        the agency's signing key, sealed
    DIR/keys/witness.key     the witness key of a custodian or witness, sealed
    DIR/node.sqlite          the store

Invariants: an unknown key stops the start; secrets stand in files, never in `node.toml`; the root set is pinned here at `node init`, by a
fingerprint that came another way than through the broker. Persons' keys are not in this folder: they belong to the persons
(`legal.persons`).
"""

from __future__ import annotations

import enum
import json
import tomllib
from pathlib import Path
from typing import Annotated, Final, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from agency_node.errors import ConfigError
from crypto.canonical import AgencyId
from crypto.errors import CryptoError

CONFIG_FILE: Final = "node.toml"
AT_REST_KEY_FILE: Final = "at-rest.key"


class Mode(enum.StrEnum):
    """What the node may be used for. Demonstration records, synthetic tables and plain-text transport exist outside production only."""

    DEMO = "demo"
    TEST = "test"
    PRODUCTION = "production"


class Role(enum.StrEnum):
    """What this node does; the roster must agree."""

    REQUESTER = "requester"
    HOLDER = "holder"
    CUSTODIAN = "custodian"


def _agency(text: str) -> str:
    try:
        return AgencyId(text)
    except CryptoError as error:
        raise ValueError("an agency id is lower-case letters, digits and hyphens, such as northport-pd") from error


def _fingerprint(text: str) -> str:
    if len(text) != 64 or set(text) - set("0123456789abcdef"):
        raise ValueError("a root fingerprint is 64 hexadecimal digits, as `sealmatch roster root-set` prints it")
    return text


AgencyName = Annotated[str, AfterValidator(_agency)]


class NodeConfig(BaseModel):
    """`node.toml`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    agency: AgencyName
    """This agency's id in the roster."""
    mode: Mode = Mode.PRODUCTION
    """`demo`, `test` or `production`."""
    roles: tuple[Role, ...]
    """Any of `requester`, `holder`, `custodian`."""
    broker: str = Field(pattern=r"^https?://[^\s/]+$")
    """The one address that this node dials, e.g. `https://broker.example.org`."""
    broker_ca: str = ""
    """File with the certificate authority of the broker's certificate; empty for the system's own."""
    root_fingerprint: Annotated[str, AfterValidator(_fingerprint)]
    """SHA-256 of the root set that this node trusts; no key is ever taken from the broker."""
    embedder: str = "dlib"
    """The face model, for requesters and holders; `synthetic-128` and `synthetic-512` outside production only."""
    trusted_custodians: tuple[AgencyName, ...] = ()
    """Holder: the custodians of which a search must name at least one."""
    policy_packs: tuple[str, ...] = ()
    """Holder: folders of Cedar packs; all must allow. Empty for the strict default."""
    manifest_days: int = Field(default=30, ge=1, le=366)
    """Holder: how long a manifest is valid, in days."""

    @property
    def agency_id(self) -> AgencyId:
        """The agency's checked name."""
        return AgencyId(self.agency)

    @property
    def fingerprint(self) -> bytes:
        """The pinned root set's fingerprint, 32 bytes."""
        return bytes.fromhex(self.root_fingerprint)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The settings in DIR/node.toml; `ConfigError` names the key that is wrong."""
        path = folder / CONFIG_FILE
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise ConfigError(f"there is no node in this folder ({CONFIG_FILE} is missing): run `sealmatch node init` first") from error
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigError(f"{CONFIG_FILE} cannot be read as TOML: mend it or write it anew with `sealmatch node init`") from error
        return cls.checked(values)

    @classmethod
    def checked(cls, values: dict[str, object]) -> Self:
        """The settings of these values; `ConfigError` says which key is wrong and why."""
        try:
            config = cls.model_validate(values)
        except ValidationError as error:
            wrong = "; ".join(
                f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors(include_input=False, include_url=False)
            )
            raise ConfigError(f"{CONFIG_FILE} has settings that do not fit: {wrong}") from error
        if config.mode is Mode.PRODUCTION and not config.broker.startswith("https://"):
            raise ConfigError(f"{CONFIG_FILE}: in production the broker is dialled over https")
        if config.mode is Mode.PRODUCTION and config.embedder.startswith("synthetic-"):
            raise ConfigError(f"{CONFIG_FILE}: synthetic records are for demo and test modes; in production set `embedder` to a face model")
        if Role.HOLDER in config.roles and not config.trusted_custodians:
            raise ConfigError(f"{CONFIG_FILE}: a holder names at least one custodian that it trusts (trusted_custodians)")
        return config

    def to_toml(self) -> str:
        """The file's text."""
        lines = [
            f"{name} = {json.dumps(value)}"
            for name, value in self.model_dump(mode="json").items()
            if name not in type(self).model_fields or value != type(self).model_fields[name].default or name == "mode"
        ]
        return "\n".join(lines) + "\n"
