"""Any member of a JSON document replaced by any value: what hypothesis draws when a parser must refuse in our own words."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from hypothesis import strategies as st

Path = tuple[str | int, ...]

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=4,
)


def paths(document: Any) -> list[Path]:
    """The way to every member and item, but not to the document itself."""
    return [path for path, _ in _walk(document, ()) if path]


def objects(document: Any) -> list[Path]:
    """The way to every object, the document itself among them."""
    return [path for path, value in _walk(document, ()) if isinstance(value, dict)]


def replaced(document: Any, path: Path, value: Any) -> bytes:
    """The document with `value` at `path`, spelled canonically as far as the value lets."""
    return spelled(replaced_value(document, path, value))


def replaced_value(document: Any, path: Path, value: Any) -> Any:
    """A copy of the document with `value` at `path`."""
    changed = json.loads(json.dumps(document))
    inner = changed
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    return changed


def spelled(document: Any) -> bytes:
    """Keys sorted, no spaces, UTF-8; for what our documents hold the same bytes as RFC 8785."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")


def _walk(value: Any, path: Path) -> Iterable[tuple[Path, Any]]:
    yield path, value
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, inner in items:
        yield from _walk(inner, (*path, step))
