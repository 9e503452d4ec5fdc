"""What an investigator is shown of leads: rank, band, agency, day and age of the picture, and each time that it is a lead only."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import agency_node.commands.node_search
from agency_node.cli import app
from agency_node.config import AT_REST_KEY_FILE, CONFIG_FILE
from agency_node.faces.quality import Quality
from agency_node.requester import drafting
from agency_node.requester.leads import Lead
from crypto.release import Band
from tests.node_world import World
from tests.sample_federation import LAKESIDE, NORTHPORT, OVERSIGHT, digest

QUALITY = Quality(55, 60.0, 1.0, 0.1, 8.0, 0.0, 0.0, 7.0, 10.0)


@pytest.fixture
async def shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[str, Any]]:
    """`node release` of a search with one lead, as text and as an object."""
    world = World(tmp_path)
    for agency in (NORTHPORT, LAKESIDE, OVERSIGHT):
        await world.node(agency)
    monkeypatch.setattr(drafting, "measure", lambda *_: QUALITY)  # the embedder sees no landmarks
    content = await world.released()
    monkeypatch.setattr(agency_node.commands.node_search, "clock", world.clock)
    node = world.nodes[NORTHPORT]
    (node.folder / CONFIG_FILE).write_text(node.config.to_toml())
    (node.folder / "keys" / AT_REST_KEY_FILE).write_bytes(digest(f"{NORTHPORT} at rest"))
    words = ["node", "release", str(node.folder), "--search", str(content.search_id)]
    text = CliRunner().invoke(app, words, env={"COLUMNS": "240"})
    as_json = CliRunner().invoke(app, [*words, "--json"])
    assert (text.exit_code, as_json.exit_code) == (0, 0), text.output + as_json.output
    yield text.stdout, json.loads(as_json.stdout)
    world.close()


@pytest.mark.rule("R31")
def test_each_candidate_comes_with_agency_day_and_age_of_its_picture(shown: tuple[str, Any]) -> None:
    """R31."""
    text, listed = shown
    (lead,) = listed["leads"]
    assert (lead["agency"], lead["captured"], lead["age_days"]) == (LAKESIDE, "2020-01-01", 2518)
    for word in ("photographed", "age in days", str(LAKESIDE), "2020-01-01", "2518"):
        assert word in text


@pytest.mark.rule("R34")
def test_leads_are_shown_with_the_word_that_they_are_no_identification(shown: tuple[str, Any]) -> None:
    """R34: in the text, and as a field and in words in the object; no option leaves it out."""
    text, listed = shown
    assert "An investigative lead, not an identification." in text
    assert (listed["lead_only"], listed["notice"]) == (True, "An investigative lead, not an identification.")
    options = {one for one in CliRunner().invoke(app, ["node", "release", "--help"]).stdout.split() if one.startswith("--")}
    assert options <= {"--search", "--wait", "--json", "--help"}


@pytest.mark.rule("R21")
def test_the_still_s_quality_goes_with_its_result(shown: tuple[str, Any]) -> None:
    """R21: whoever reads the leads reads how good the picture was that they rest on."""
    text, listed = shown
    assert re.search(r"quality of the still: \d+ of 100, lowest in [a-z ]+", text)
    assert (listed["quality"]["unified"], "still: 55 of 100" in text) == (55, True)


@pytest.mark.rule("R35")
def test_no_score_and_no_percentage_is_shown(shown: tuple[str, Any]) -> None:
    """R35: of how near a candidate is, a rank and one of two words; no number stands for certainty."""
    text, listed = shown
    assert {one.name for one in dataclasses.fields(Lead)} == {"rank", "band", "agency", "handle", "captured", "age_days"}
    (lead,) = listed["leads"]
    assert set(lead) == {"rank", "band", "agency", "handle", "captured", "age_days"}
    assert lead["band"] in {band.name.lower() for band in Band}
    assert "%" not in text + json.dumps(listed)
    assert not re.search(r"(?<![\d:])0?\.\d{2,}", text)  # no cosine; the seconds of moments follow a colon's digits
