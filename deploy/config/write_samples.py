"""Writes the sample configurations beside it: for each role a basic one, with what a first day takes, and a full one, with every key.

Run it after a change of a key, `python deploy/config/write_samples.py`; a test compares the files with what this writes, and another, which
knows nothing of this, holds them against the keys that the programs take. Invariants: the line above a key is the key's own doc line in
`agency_node/config.py` or `broker/config.py`, so that nobody writes it twice; a full sample holds every key with its default; a line that
begins with `#` and no space is a setting that is off, and every other comment begins with `# `.
"""

from __future__ import annotations

import ast
import inspect
import json
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, get_args

from pydantic import BaseModel

from agency_node.config import NodeConfig
from broker.config import BrokerConfig

WIDTH: Final = 110
NOT_IN_THE_FILE: Final = {"folder"}
"""What the program itself fills in."""

FINGERPRINT: Final = "0" * 64
"""Trusts nobody, until the root holders' own stands there."""
PUBLIC_BASIS: Final[dict[str, Any]] = {
    "posted_policy": {
        "url": "https://www.example.org/face-recognition-policy.pdf",
        "sha256": FINGERPRINT,
        "notice_given": "2026-09-01",
        "first_search": "2026-10-01",
    },
    "approval": {"body": "Common Council", "sha256": FINGERPRINT, "expires": "2027-09-30"},
}
NODE: Final[dict[str, Any]] = {"mode": "production", "broker": "https://broker.example.org", "root_fingerprint": FINGERPRINT}
ADMINISTRATOR: Final = "administrator"

ROLES: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "requester": (
        "An agency that searches.",
        {"agency": "northport-pd", "roles": ["requester"], ADMINISTRATOR: "northport-pd:admin-1", **NODE, **PUBLIC_BASIS},
    ),
    "holder": (
        "An agency with a gallery.",
        {
            "agency": "lakeside-sheriff",
            "roles": ["holder"],
            "trusted_custodians": ["civic-board"],
            ADMINISTRATOR: "lakeside-sheriff:admin-1",
            **NODE,
            **PUBLIC_BASIS,
        },
    ),
    "custodian": (
        "A legal or oversight body that releases leads.",
        {
            "agency": "civic-board",
            "roles": ["custodian"],
            ADMINISTRATOR: "civic-board:admin-1",
            "calibration": {"file": "calibration.json", "sha256": FINGERPRINT},
            **NODE,
            **PUBLIC_BASIS,
        },
    ),
    "witness": (
        "A body that cosigns the log and does nothing else; its witness key was made by `sealmatch node init --role witness`.",
        {"agency": "press-club", "roles": [], ADMINISTRATOR: "press-club:admin-1", **NODE, **PUBLIC_BASIS},
    ),
}
MUST: Final = {"agency", "roles", "broker", "root_fingerprint", "trusted_custodians"}
"""Keys of a node that have no default for everybody."""
BROKER: Final[dict[str, Any]] = {
    "operator": "broker-vendor",
    "origin": "log.example.org/2026",
    "root_fingerprint": FINGERPRINT,
}
OFF: Final[dict[str, Any]] = {**PUBLIC_BASIS, "database": "sqlite:////var/lib/sealmatch/broker/broker.sqlite"}
"""What a full sample shows, switched off, for a key that is left out by default."""


def doc_lines(model: type[BaseModel]) -> dict[str, str]:
    """What stands under each key of a settings class."""
    (body,) = (node for node in ast.parse(textwrap.dedent(inspect.getsource(model))).body if isinstance(node, ast.ClassDef))
    found: dict[str, str] = {}
    for key, below in zip(body.body, body.body[1:], strict=False):
        if isinstance(key, ast.AnnAssign) and isinstance(key.target, ast.Name) and isinstance(below, ast.Expr):
            found[key.target.id] = " ".join(ast.literal_eval(below.value).split())
    return found


def table_of(annotation: Any) -> type[BaseModel] | None:  # noqa: ANN401  # whatever a field may be
    """The settings class of a key that is a table."""
    kinds = (annotation, *get_args(annotation))
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)


def lines_of(model: type[BaseModel], values: Mapping[str, Any], full: bool, path: str = "", off: bool = False) -> Iterator[str]:
    """The lines of one table: plain keys, then tables."""
    docs, mark = doc_lines(model), "#" if off else ""
    wanted = {name for name, field in model.model_fields.items() if full or name in values or field.is_required()} - (
        set() if path else NOT_IN_THE_FILE
    )
    shown = [name for name in model.model_fields if name in wanted]
    for name in sorted(shown, key=lambda name: table_of(model.model_fields[name].annotation) is not None):
        field, within = model.model_fields[name], table_of(model.model_fields[name].annotation)
        default = None if field.is_required() else field.get_default(call_default_factory=True)
        switched_off = off or (name not in values and default is None)
        value = values[name] if name in values else OFF[name] if default is None else default
        yield ""
        yield from textwrap.wrap(docs[name], WIDTH, initial_indent="# ", subsequent_indent="# ")
        if within is None:
            yield f"{'#' if switched_off else mark}{name} = {json.dumps(value, ensure_ascii=False)}"
            continue
        yield f"{'#' if switched_off else mark}[{path}{name}]"
        inner = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
        yield from lines_of(within, inner, full, f"{path}{name}.", switched_off)


def samples() -> dict[str, str]:
    """Every sample by its file's name."""
    found: dict[str, str] = {}
    for role, (words, values) in ROLES.items():
        for kind, said in (("basic", "What a first day takes; every other key has its default"), ("full", "Every key, with its default")):
            head = f"# node.toml of a {role}. {words} {said}.\n# Zeros stand for digests that others tell you.\n"
            chosen = values if kind == "basic" else {name: value for name, value in values.items() if name in MUST}
            found[f"{role}-{kind}.toml"] = head + "\n".join(lines_of(NodeConfig, chosen, kind == "full")) + "\n"
    for kind, said in (("basic", "What `sealmatch broker init` writes"), ("full", "Every key, with its default")):
        head = f"# broker.toml. {said}. Certificate and port are options of `sealmatch broker serve`.\n"
        found[f"broker-{kind}.toml"] = head + "\n".join(lines_of(BrokerConfig, BROKER, kind == "full")) + "\n"
    return found


if __name__ == "__main__":
    for file, text in samples().items():
        (Path(__file__).parent / file).write_text(text, encoding="utf-8")
