"""Every error of another party and every refusal has its own words: a stable name, a title, and what may lawfully be done next."""

from __future__ import annotations

import inspect
import re

import pytest

from crypto import errors
from crypto.lawful_steps import Explanation, explain, explain_refusal
from crypto.notices import RefusalReason

CLASSES = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, errors.PeerError)]
BY_ERROR = {kind.__name__: explain(kind) for kind in CLASSES}
BY_REFUSAL = {reason.name: explain_refusal(reason) for reason in RefusalReason}


def test_every_class_and_every_reason_has_words_of_its_own() -> None:
    assert len(CLASSES) > 40
    for table in (BY_ERROR, BY_REFUSAL):
        for part in ("name", "title", "step"):
            texts = [getattr(row, part) for row in table.values()]
            assert len(set(texts)) == len(texts), part


@pytest.mark.parametrize("row", [*BY_ERROR.values(), *BY_REFUSAL.values()], ids=[*BY_ERROR, *BY_REFUSAL])
def test_a_title_is_short_and_a_step_is_one_sentence_for_a_person(row: Explanation) -> None:
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", row.name)
    assert re.fullmatch(r"[A-Z][^.!?\n]{10,78}[^.!? \n]", row.title)
    assert re.fullmatch(r"[A-Z][^.!?\n]{10,138}\.", row.step)
    for internal in ("Error", "None", "`", "_"):
        assert internal not in row.title + row.step


def test_an_error_is_explained_like_its_class_and_an_unknown_one_like_its_parent() -> None:
    class LaterGrantError(errors.GrantError):
        """Of a version to come."""

    assert explain(errors.GrantExpiredError("x")) == explain(errors.GrantExpiredError)
    assert explain(errors.GrantExpiredError).name == "grant-expired"
    assert "new grant" in explain(errors.GrantExpiredError).step
    assert explain(LaterGrantError("x")) == explain(errors.GrantError)


def test_nothing_of_an_error_is_in_its_explanation() -> None:
    row = explain(errors.FieldError("26-CF-101"))
    assert "26-CF-101" not in row.name + row.title + row.step


def test_names_are_for_ever() -> None:
    """Scripts and problem types hold them; a new class adds a name, no change takes one away."""
    named = {row.name for row in BY_ERROR.values()}
    assert {"grant-expired", "same-person-twice", "signature-missing", "log-fork", "grant-revoked", "reason-not-signed"} <= named
