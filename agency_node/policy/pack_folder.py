"""A policy pack as a folder: what it consists of, its hash, and the reading that refuses a broken one with file and line.

    pack.toml            who says so: title, source, evidence, review date; for every policy its rule number, sentence and next lawful step
    policies.cedar       the rules
    schema.cedarschema   the words that the rules may use
    scenarios.csv        examples with the answers that they must get

Invariants of what `read_pack` returns: the folder held exactly these files and `sha256` covers every byte of them; the policies fit the
schema; the ids in `policies.cedar` and in `pack.toml` are the same, each once; a pack that rests on anything but texts that were seen does
not call itself verified. Left to others: deciding (`engine`); the examples, which are for readers and tests.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

import cedarpy
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from agency_node.errors import ConfigError
from crypto.canonical import JsonValue, canonical_json

DEFAULT_PACK: Final = "strict-default"
FACTS_FILE: Final = "pack.toml"
POLICIES_FILE: Final = "policies.cedar"
SCHEMA_FILE: Final = "schema.cedarschema"
SCENARIOS_FILE: Final = "scenarios.csv"
PACK_FILES: Final = (FACTS_FILE, POLICIES_FILE, SCENARIOS_FILE, SCHEMA_FILE)
MAX_FILE_BYTES: Final = 1 << 20
LAST_PACK_RULE: Final = 899
"""Rule numbers of a refusal go to 999; those above are the engine's own."""

_TYPE: Final = "sealmatch-1/policy-pack"
_ID: Final = re.compile(r'@id\("([^"]*)"\)')
_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?")
# What may hold a semicolon that ends no statement, and the semicolon that does.
_TOKEN: Final = re.compile(r'//[^\n]*|"(?:\\.|[^"\\])*"|;')

Line = Annotated[str, Field(min_length=1, max_length=1000)]
EvidenceTag = Literal["S", "2", "M", "?"]
"""S: the text itself was seen. 2: a secondary source. M: from memory. ?: sources conflict."""


class PolicyFacts(BaseModel):
    """What people are told about one policy."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    rule: int = Field(ge=1, le=LAST_PACK_RULE)
    section: Line
    evidence: list[EvidenceTag] = Field(min_length=1)
    sentence: Line
    step: Line


class PackClocks(BaseModel):
    """How long what a pack allows holds without more; a pack that says nothing has the strict default's."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    exigent_ratify_hours: int = Field(default=24, ge=1, le=168)
    """Hours from an exigent grant's beginning to its ratification by a second reviewer (R4)."""
    on_lapse: Literal["seal", "delete"] = "seal"
    """What becomes of image, request and leads that were not ratified: kept under a seal, or deleted."""


class PackOpenings(BaseModel):
    """When everybody may read what entries of the log commit to; a pack that says nothing has the strict default's."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    after_days: int = Field(default=30, ge=1, le=366)
    """Days from an entry to its opening; sooner when the agency says that the case is closed."""


class PackQuality(BaseModel):
    """How good a still must be, from 0 to 100 (`faces.quality`); a pack that says nothing has the strict default's."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    floor: int = Field(default=40, ge=0, le=100)
    """Below it a still is refused (R21)."""
    banner: int = Field(default=60, ge=0, le=100)
    """Below it investigator and reviewer are told."""


class PackProbe(BaseModel):
    """What a still may have been through; a pack that says nothing has the strict default's."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    edits: list[Literal["crop", "rotate", "exposure", "grey", "mirror", "sharpen"]] = ["crop", "rotate", "exposure"]
    """The edits that a search may be made with (R19), as `faces.edits` writes them; the last three change more than place and light."""


class PackRetention(BaseModel):
    """How long a requester keeps what a search brought; a pack that says nothing has the strict default's."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    probe_days: int = Field(default=365, ge=1, le=36500)
    """Days from the grant's end until still, edits, embedding and probe are destroyed (R22)."""
    leads_days: int = Field(default=365, ge=1, le=36500)
    """Days from the grant's end until leads, their photographs and the sealed scores are destroyed."""
    discovery_days: int = Field(default=90, ge=0, le=36500)
    """Days from the grant's end for which nothing of that is destroyed, so that the defence can be given it; beats the other two."""


class PackFacts(BaseModel):
    """`pack.toml`.

    `alone` is false for a pack that adds to others (a moratorium, a security policy, a discovery rule): it names no offences with the legal
    basis that they need, so it would let every other search pass. `duties` are what the law asks beside a decision (reports, disclosure,
    training): a sentence with section and evidence, by a short name. `binds` says whom the pack binds whatever they name themselves: every
    party asks a delivered pack about a search in which an agency takes part whose jurisdiction in the roster begins so (R7).
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: str = Field(pattern=f"^{_NAME.pattern}$")
    title: Line
    alone: bool = True
    binds: list[Annotated[str, Field(pattern=f"^{_NAME.pattern}$")]] = Field(default_factory=list)
    source: Line
    sections: list[Line] = Field(min_length=1)
    rules: list[Annotated[str, Field(pattern=r"^R[1-9][0-9]{0,2}$")]] = Field(min_length=1)
    notice: Line
    evidence: list[EvidenceTag] = Field(min_length=1)
    verified: bool
    review_by: date
    duties: dict[str, Line] = Field(default_factory=dict)
    clocks: PackClocks = PackClocks()
    openings: PackOpenings = PackOpenings()
    quality: PackQuality = PackQuality()
    probe: PackProbe = PackProbe()
    retention: PackRetention = PackRetention()
    policies: dict[str, PolicyFacts] = Field(min_length=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        used = {tag for policy in self.policies.values() for tag in policy.evidence}
        if not used <= set(self.evidence):
            raise ValueError("a policy rests on evidence that the pack's own list does not name")
        if self.verified and set(self.evidence) != {"S"}:
            raise ValueError("verified stays false as long as any evidence is other than S")
        unnamed = sorted(f"R{policy.rule}" for policy in self.policies.values() if f"R{policy.rule}" not in self.rules)
        if unnamed:
            raise ValueError(f"rules does not name {', '.join(unnamed)}, which a policy enforces")
        return self


@dataclass(frozen=True)
class PackContent:
    """A pack that was read and found whole. Cedar's own names (`policy0`) lead to the pack's in `policy_ids`, to their JSON in `static`."""

    facts: PackFacts
    policies: cedarpy.PolicySet = field(repr=False)
    schema: cedarpy.Schema = field(repr=False)
    policy_ids: Mapping[str, str]
    static: Mapping[str, Any] = field(repr=False)
    sha256: bytes


def delivered_packs() -> tuple[Path, ...]:
    """The folders of all packs that were delivered, in order of their names."""
    return tuple(sorted(path for path in find_pack(DEFAULT_PACK).parent.iterdir() if path.is_dir()))


def read_binds(folder: Path) -> tuple[str, ...]:
    """Whom a pack binds, from `pack.toml` alone: most packs bind nobody, and need not be read for that."""
    path = folder / FACTS_FILE
    try:
        data = path.read_bytes()
    except OSError as error:
        raise _broken(path, None, f"cannot be read ({error.strerror})") from error
    return tuple(_read_facts(path, data).binds)


def find_pack(name: str) -> Path:
    """The folder of a pack: a name such as `strict-default` is one that was delivered, anything with a slash is a path.

    `ConfigError` for a name under which none was delivered.
    """
    if not _NAME.fullmatch(name):
        return Path(name)
    package = Path(__file__).parent
    # An installed package carries the packs inside; a source tree has them where its deployment files are.
    for folder in (package / "packs" / name, package.parents[1] / "deploy" / "policies" / name):
        if folder.is_dir():
            return folder
    raise ConfigError(f"no policy pack named {name} was delivered: name {DEFAULT_PACK}, or a folder with its path, such as ./{name}")


def read_pack(folder: Path) -> PackContent:
    """The pack in `folder`; `ConfigError` names the file, the line where possible, and what does not fit."""
    files = _read_files(folder)
    facts = _read_facts(folder / FACTS_FILE, files[FACTS_FILE])
    schema_text, policy_text = _text(folder, SCHEMA_FILE, files), _text(folder, POLICIES_FILE, files)
    try:
        schema = _schema(schema_text)
    except ValueError as error:
        raise _broken(folder / SCHEMA_FILE, None, f"the schema does not parse: {error}") from error
    policy_ids = _read_ids(folder / POLICIES_FILE, policy_text)
    listed, written = set(facts.policies), set(policy_ids.values())
    if listed != written:
        name, where = (min(written - listed), FACTS_FILE) if written - listed else (min(listed - written), POLICIES_FILE)
        raise _broken(folder / where, None, f"there is no policy {name}: the same ids stand in both files")
    found = cedarpy.validate_policies(policy_text, schema_text)
    if not found.validation_passed:
        named = [policy_ids.get(one.policy_id, "") for one in found.errors]
        line = _line_of_id(policy_text, named[0]) if named else None
        raise _broken(folder / POLICIES_FILE, line, "; ".join(_words(one.error, policy_ids) for one in found.errors))
    digests: dict[str, JsonValue] = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    digest = hashlib.sha256(canonical_json({"type": _TYPE, "files": digests})).digest()
    static = json.loads(cedarpy.policies_to_json_str(policy_text))["staticPolicies"]
    return PackContent(facts, cedarpy.PolicySet.from_str(policy_text), schema, policy_ids, static, digest)


@functools.lru_cache(maxsize=8)
def _schema(text: str) -> cedarpy.Schema:
    """Parsed once: all packs carry the same one, and agencies that were read under it serve for all of them."""
    return cedarpy.Schema.from_str(text)


def _read_files(folder: Path) -> dict[str, bytes]:
    try:
        present = {path.name for path in folder.iterdir()}
        if present != set(PACK_FILES):
            missing, foreign = sorted(set(PACK_FILES) - present), sorted(present - set(PACK_FILES))
            what = f"{missing[0]} is missing" if missing else f"{foreign[0]} is no part of a pack and its hash would not cover it"
            raise _broken(folder, None, f"{what}; a pack is exactly {', '.join(PACK_FILES)}")
        files = {}
        for name in PACK_FILES:
            with (folder / name).open("rb") as file:
                files[name] = file.read(MAX_FILE_BYTES + 1)
            if len(files[name]) > MAX_FILE_BYTES:
                raise _broken(folder / name, None, f"longer than {MAX_FILE_BYTES} bytes")
    except OSError as error:
        raise _broken(folder, None, f"cannot be read ({error.strerror})") from error
    return files


def _text(folder: Path, name: str, files: Mapping[str, bytes]) -> str:
    try:
        return files[name].decode("utf-8")
    except UnicodeDecodeError as error:
        raise _broken(folder / name, files[name][: error.start].count(b"\n") + 1, "not UTF-8") from error


def _read_facts(path: Path, data: bytes) -> PackFacts:
    try:
        return PackFacts.model_validate(tomllib.loads(data.decode("utf-8")))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise _broken(path, None, str(error)) from error
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(map(str, one['loc'])) or 'pack'}: {one['msg']}" for one in error.errors(include_input=False, include_url=False)
        )
        raise _broken(path, None, wrong) from error


def _read_ids(path: Path, text: str) -> dict[str, str]:
    """From Cedar's names, `policy0` and so on in the order written, to the pack's own."""
    try:
        parsed = json.loads(cedarpy.policies_to_json_str(text))
    except ValueError as error:
        raise _broken(path, _line_of_first_unreadable(text), f"the policies do not parse: {error}") from error
    if parsed["templates"]:
        raise _broken(path, None, "a template is no policy: write out for whom it holds")
    ids: dict[str, str] = {}
    for name, policy in sorted(parsed["staticPolicies"].items(), key=lambda item: int(item[0].removeprefix("policy"))):
        policy_id = (policy.get("annotations") or {}).get("id")
        if not policy_id or not _NAME.fullmatch(policy_id):
            raise _broken(
                path, None, f'policy number {len(ids) + 1} of the file has no @id("some-name") of small letters, digits and hyphens'
            )
        if policy_id in ids.values():
            raise _broken(path, _line_of_id(text, policy_id, last=True), f"a second policy has the id {policy_id}")
        ids[name] = policy_id
    return ids


def _line_of_id(text: str, policy_id: str, *, last: bool = False) -> int | None:
    lines = [text.count("\n", 0, match.start()) + 1 for match in _ID.finditer(text) if match[1] == policy_id]
    return (lines[-1] if last else lines[0]) if lines else None


def _line_of_first_unreadable(text: str) -> int:
    """Where the first statement begins that does not parse by itself: the library says what is wrong, but not where."""
    start = 0
    for token in _TOKEN.finditer(text):
        if token[0] != ";":
            continue
        try:
            cedarpy.policies_to_json_str(text[start : token.end()])
        except ValueError:
            break
        start = token.end()
    code = re.compile(r"(?:\s|//[^\n]*(?:\n|$))*").match(text, start)
    return text.count("\n", 0, start if code is None else code.end()) + 1


def _words(error: str, policy_ids: Mapping[str, str]) -> str:
    return re.sub(r"policy[0-9]+", lambda match: policy_ids.get(match[0], match[0]), error)


def _broken(path: Path, line: int | None, what: str) -> ConfigError:
    where = f"{path}, line {line}" if line is not None else str(path)
    return ConfigError(f"policy pack {where}: {what}. Mend the pack, or take it anew as it was delivered")
