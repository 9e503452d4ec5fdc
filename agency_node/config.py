"""A node's folder and its `node.toml`: what is switched on, whom it dials, whom it trusts.

    DIR/node.toml            this file's settings, every key below
    DIR/keys/at-rest.key     32 bytes, mode 0600: opens everything else in the folder
    DIR/keys/at-rest.next    the key that comes after it, while `sealmatch node rotate` is at work
    DIR/keys/node.key        the agency's signing key, sealed
    DIR/keys/witness.key     the witness key of a custodian or witness, sealed
    DIR/node.sqlite          the store
    DIR/expunged.jsonl       a holder's ledger of what was expunged, unless `expunge_ledger` says where else

Invariants: an unknown key stops the start; secrets stand in files, never in `node.toml`; the root set is pinned here at `node init`, by a
fingerprint that came another way than through the broker. Persons' keys are not in this folder: they belong to the persons
(`legal.persons`).
"""

from __future__ import annotations

import enum
import json
import tomllib
from datetime import date
from pathlib import Path
from typing import Annotated, Final, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from agency_node.errors import ConfigError
from agency_node.faces.pack import PinnedPack
from crypto.canonical import AgencyId
from crypto.errors import CryptoError
from crypto.grant_basis import Purpose

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


def _digest(text: str) -> str:
    if text and (len(text) != 64 or set(text) - set("0123456789abcdef")):
        raise ValueError("a SHA-256 is 64 hexadecimal digits, as `sealmatch calibration show` and `sealmatch faces check` print it")
    return text


AgencyName = Annotated[str, AfterValidator(_agency)]
_Count = Annotated[int, Field(ge=0, le=1_000_000)]


class _Table(BaseModel):
    """A table of `node.toml`."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class BudgetLimits(_Table):
    """`[budgets]`: searches that this holder answers in one UTC day, at most (R57). 0 is nobody's; the holder's word is final (R60)."""

    officer_per_day: _Count = 10
    """For one investigator, whatever the case."""
    case_per_day: _Count = 5
    """For one case commitment, whoever asks."""
    agency_per_day: _Count = 100
    """For one agency, as the one that requests or the one for which it is done (R6)."""


class NearDuplicateRules(_Table):
    """`[near_duplicates]`: what a requester's node keeps of its own probes to tell a reviewer of the same picture (docs/adr/0021)."""

    cosine: float = Field(default=0.9, ge=0.5, le=1.0)
    """Two probes at or above this cosine are nearly the same picture."""
    days: int = Field(default=90, ge=1, le=366)
    """How long a probe's vector is kept, in days; then it is deleted."""


class SubjectRequestRules(_Table):
    """`[subject_requests]`: persons who ask whether a record of theirs is in this holder's gallery (R26)."""

    days: int = Field(default=30, ge=1, le=366)
    """Within how many days a request is answered and closed."""
    warn_days: int = Field(default=7, ge=0, le=366)
    """From how many days before that on `sealmatch node status` warns."""
    cosine: float = Field(default=0.6, ge=0.0, le=1.0)
    """A photograph at or above this cosine to the record's own is called one of the same person: from a test of the agency's own model."""


class CalibrationFile(_Table):
    """`[calibration]`: the custodian's table of impostors; both or neither. Without it the synthetic one, which production refuses."""

    file: str = ""
    """The table; a relative path begins at the node's folder."""
    sha256: Annotated[str, AfterValidator(_digest)] = ""
    """What its bytes hash to, told by whoever measured it, by another way than the file came."""


class FacePackFolder(_Table):
    """`[face_pack]`: the models of the embedder `insightface`; both or neither."""

    folder: str = ""
    """Where the pack lies; a relative path begins at the node's folder."""
    sha256: Annotated[str, AfterValidator(_digest)] = ""
    """What its pack.json hashes to, told by another way than the pack came: all agencies that search one another have the same."""


ItlField = Annotated[str, Field(pattern=r"^([12]\.[0-9]{3,4})?$")]
"""A field of an ANSI/NIST-ITL file's first or second record, e.g. `2.010`; empty for none."""


class ItlRules(_Table):
    """`[itl]`: where ANSI/NIST-ITL files of this agency's domain hold what a record needs. Type-2 fields are each domain's own."""

    booking_types: tuple[Annotated[str, Field(pattern=r"^[A-Z0-9]{2,16}$")], ...] = ("CAR", "CNA", "CPDR", "CPNU")
    """Types of transaction (1.004) that are criminal bookings; every other one is taken for civil and refused (R24)."""
    record_number: ItlField = "1.009"
    """The record's number; the transaction's control number unless another field is named."""
    booking_event: ItlField = "2.010"
    """The agency's id of the booking."""
    disposition: ItlField = ""
    """How the case ended: pending, convicted, or one of those with which a record is not enrolled (R25)."""
    disposition_date: ItlField = ""
    """When it ended."""
    person: ItlField = ""
    """The agency's own number of the person. This and the next three serve to measure the face model by groups of persons (R64), and for
    nothing else; a field that is not named here is not read. A state's number often stands in 2.015."""
    sex: ItlField = ""
    """The person's sex as the booking system writes it, often 2.024."""
    race: ItlField = ""
    """The person's race as the booking system writes it, often 2.025."""
    birth_date: ItlField = ""
    """The day of birth, of which the year alone is kept, often 2.022."""


class QualityPrograms(_Table):
    """`[quality]`: an installed OFIQ, whose measures are kept beside ours."""

    ofiq: str = ""
    """OFIQSampleApp, which is run on each batch of pictures that is enrolled; a relative path begins at the node's folder. Empty: none."""
    ofiq_config: str = ""
    """Its folder of settings, or its ofiq_config.jaxn; empty for the folder `config` beside the program."""


class IntakeRules(_Table):
    """`[intake]`: a folder into which the booking system drops what is to be enrolled (`holder.watching`)."""

    folder: str = ""
    """The folder that `node serve` watches; a relative path begins at the node's folder. Empty: none."""
    settle_s: int = Field(default=60, ge=0, le=86_400)
    """For how many seconds nothing of a drop may have changed before it is taken."""
    end_marker: str = Field(default="", pattern=r"^([A-Za-z0-9_.-]{1,64})?$")
    """The file with which the booking system ends a drop, e.g. `complete`; then nothing is taken without it. Empty: `settle_s` decides."""
    every_s: int = Field(default=30, ge=1, le=3600)
    """How many seconds lie between two looks into the folder."""
    keep_days: int = Field(default=30, ge=0, le=3660)
    """After how many days a drop that is done is deleted from the folder; 0 for never."""


Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""SHA-256 in hexadecimal."""


class FederalAccess(BaseModel):
    """`[federal]`: for which purposes federal agencies may be answered at all (R9). The packs must allow as well."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    allow: tuple[Purpose, ...] = ()
    """Purposes, such as `missing_person`. Empty: none."""


class PostedPolicy(BaseModel):
    """`[posted_policy]`: the agency's policy as the public reads it (R17)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str = Field(pattern=r"^https://[^\s/]+(/\S*)?$")
    """Where it is posted."""
    sha256: Digest
    """Of the posted file."""
    notice_given: date
    """The day on which the public was told."""
    first_search: date
    """The day from which the node serves: thirty days after the notice or later."""


class Approval(BaseModel):
    """`[approval]`: what the body that decides over the agency approved (R18)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    body: str = Field(min_length=1, max_length=200)
    """Who approved."""
    sha256: Digest
    """Of the approving document."""
    expires: date
    """The last day it holds."""


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
    proxy: str = Field(default="", pattern=r"^(https?://[^\s/@?#]+)?$")
    """The one way out where a machine has no other: an HTTP proxy that passes `CONNECT` on to the broker, e.g. `http://proxy.example.org:3128`.
    Empty for none; the environment's is never taken. It sees the broker's address, times and sizes; TLS is between node and broker."""
    root_fingerprint: Annotated[str, AfterValidator(_fingerprint)]
    """SHA-256 of the root set that this node trusts; no key is ever taken from the broker."""
    embedder: str = "dlib"
    """The face model: `dlib`, or `insightface` with a pack; `synthetic-128` and `synthetic-512` outside production only."""
    trusted_custodians: tuple[AgencyName, ...] = ()
    """Holder: the custodians of which a search must name at least one."""
    policy_packs: tuple[str, ...] = ()
    """Folders of Cedar packs; at a holder all must allow, and one at least stands alone; everywhere they set the clock of exigent grants.
    Empty for the strict default."""
    expunge_ledger: str = ""
    """Holder: the file of what was expunged, which no backup holds and every restore asks for (R25). Better on another disk; empty for
    `expunged.jsonl` in the node's folder, whence it is to be copied away."""
    disposition_days: int = Field(default=183, ge=1, le=3660)
    """Holder: a record of whose case nothing was heard for so many days is found by no search, until a feed of dispositions tells of it
    (R25)."""
    manifest_days: int = Field(default=30, ge=1, le=366)
    """Holder: how long a manifest is valid, in days."""
    budgets: BudgetLimits = BudgetLimits()
    """Holder: how often it may be asked."""
    near_duplicates: NearDuplicateRules = NearDuplicateRules()
    """Requester: earlier probes of nearly the same picture."""
    subject_requests: SubjectRequestRules = SubjectRequestRules()
    """Holder: persons who ask about their own record."""
    itl: ItlRules = ItlRules()
    """Holder: fields of ANSI/NIST-ITL files."""
    quality: QualityPrograms = QualityPrograms()
    """Holder: OFIQ, where it is installed."""
    intake: IntakeRules = IntakeRules()
    """Holder: the folder of a booking system's drops."""
    face_pack: FacePackFolder = FacePackFolder()
    """The models of the embedder `insightface`."""
    calibration: CalibrationFile = CalibrationFile()
    """Custodian: what thresholds follow from."""
    administrator: str = ""
    """The roster's id of the person who administers this machine, or any id of that form for who is not in the roster."""
    federal: FederalAccess = FederalAccess()
    """Holder: `[federal]`, off if left out."""
    posted_policy: PostedPolicy | None = None
    """`[posted_policy]`; production asks for it."""
    approval: Approval | None = None
    """`[approval]`; production asks for it."""

    @property
    def agency_id(self) -> AgencyId:
        """The agency's checked name."""
        return AgencyId(self.agency)

    @property
    def fingerprint(self) -> bytes:
        """The pinned root set's fingerprint, 32 bytes."""
        return bytes.fromhex(self.root_fingerprint)

    def pinned_pack(self, folder: Path) -> PinnedPack | None:
        """The face pack of a node in that folder, None for an embedder without one."""
        named = self.face_pack
        return PinnedPack(folder / named.folder, named.sha256) if named.folder else None

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
        if config.proxy and not config.broker.startswith("https://"):
            raise ConfigError(f"{CONFIG_FILE}: through a proxy the broker is dialled over https, or the proxy would read every request")
        if config.mode is Mode.PRODUCTION and config.embedder.startswith("synthetic-"):
            raise ConfigError(f"{CONFIG_FILE}: synthetic records are for demo and test modes; in production set `embedder` to a face model")
        if Role.HOLDER in config.roles and not config.trusted_custodians:
            raise ConfigError(f"{CONFIG_FILE}: a holder names at least one custodian that it trusts (trusted_custodians)")
        if {bool(config.face_pack.folder), bool(config.face_pack.sha256)} != {config.embedder == "insightface"}:
            raise ConfigError(f"{CONFIG_FILE}: the embedder insightface needs [face_pack] with folder and sha256, and no other has one")
        if bool(config.calibration.file) != bool(config.calibration.sha256):
            raise ConfigError(f"{CONFIG_FILE}: [calibration] names a file and its sha256, both or neither")
        return config

    def to_toml(self) -> str:
        """The file's text: what differs from the defaults, and the mode; tables last."""
        fields, values = type(self).model_fields, self.model_dump(mode="json", exclude_defaults=True) | {"mode": self.mode.value}
        plain = {name: values[name] for name in fields if name in values and not isinstance(values[name], dict)}
        tables = {name: values[name] for name in fields if isinstance(values.get(name), dict)}
        lines = [f"{name} = {json.dumps(value)}" for name, value in plain.items()]
        for name, table in tables.items():
            lines += ["", f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in table.items())]
        return "\n".join(lines) + "\n"
