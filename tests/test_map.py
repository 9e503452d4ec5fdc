"""The package's docstring is a map: every module stands on it once, and every file is short."""

from __future__ import annotations

import re
from pathlib import Path

import crypto

MODULES = sorted(Path(crypto.__file__).parent.glob("*.py"))


def test_every_module_is_on_the_map_once() -> None:
    named = re.findall(r"`([a-z_]+)`", crypto.__doc__ or "")
    assert sorted(named) == [path.stem for path in MODULES if path.stem != "__init__"]


def test_a_file_is_one_idea() -> None:
    root = MODULES[0].parent.parent
    for folder, most in (("crypto", 410), ("agency_node", 410), ("tests", 600)):
        lines = {str(path.relative_to(root)): len(path.read_text().splitlines()) for path in root.joinpath(folder).glob("**/*.py")}
        assert {name: count for name, count in lines.items() if count > most} == {}


def test_every_module_says_what_it_leaves_to_others() -> None:
    for path in MODULES:
        head = path.read_text().split('"""')[1]
        assert len(head) > 60, path.name
