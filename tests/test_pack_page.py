"""The page of the policy packs lists exactly the packs that are delivered, with what each says of itself."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from agency_node.policy.pack_folder import DEFAULT_PACK, PackContent, find_pack, read_pack

FOLDERS = sorted(find_pack(DEFAULT_PACK).parent.iterdir())
PAGE = Path(__file__).resolve().parent.parent / "docs" / "policy-packs.md"
HEAD = "| pack | what it covers | source | evidence | verified | review by | policies | alone |\n|---|---|---|---|---|---|---|---|\n"


def row(pack: PackContent) -> str:
    """One pack as a line of the page's table."""
    facts = pack.facts
    cells = (
        f"[`{facts.name}`](../deploy/policies/{facts.name}/pack.toml)",
        facts.title,
        facts.source,
        " ".join(facts.evidence),
        "yes" if facts.verified else "**no**",
        facts.review_by.isoformat(),
        str(len(facts.policies)),
        "yes" if facts.alone else "no",
    )
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def table() -> str:
    """The table that belongs on the page."""
    return HEAD + "".join(row(read_pack(folder)) for folder in FOLDERS)


def test_the_page_lists_every_pack_as_it_is() -> None:
    page = PAGE.read_text(encoding="utf-8")
    shown = page[page.index(HEAD) :] if HEAD in page else ""
    assert shown == table(), f"under its last heading {PAGE.name} is to hold exactly this table:\n\n{table()}"


def test_the_page_says_that_no_pack_is_verified_as_long_as_none_is() -> None:
    """Nobody is to take a reading for law: the page says so, and the packs agree with it."""
    page = PAGE.read_text(encoding="utf-8")
    assert "not legal advice" in page
    assert ("No pack here is verified" in page) == (not any(read_pack(folder).facts.verified for folder in FOLDERS))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_every_pack_says_that_it_is_no_legal_advice(folder: Path) -> None:
    notice = read_pack(folder).facts.notice
    assert "legal advice" in notice
    assert "verified" not in notice


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_every_duty_says_on_what_it_rests(folder: Path) -> None:
    """A sentence with its evidence, as the rules have it."""
    without = [name for name, duty in read_pack(folder).facts.duties.items() if not re.search(r"\[[S2M?]\]", duty)]
    assert without == []


def test_a_title_cannot_break_the_table() -> None:
    pack = read_pack(FOLDERS[0])
    broken = pack.facts.model_copy(update={"title": "one | two"})
    line = row(replace(pack, facts=broken))
    assert "one \\| two" in line
    assert line.count(" | ") == HEAD.splitlines()[0].count(" | ")
