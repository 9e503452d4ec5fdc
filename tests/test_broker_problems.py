"""Every error that can leave the broker has a problem document with a name, a reason and a next step."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import crypto.errors
from broker import errors
from broker.problems import problem_of, problem_of_status, store_problem
from crypto.errors import CryptoError, GrantExpiredError, LocalError, MisuseError, OversizedError, PeerError
from tests.broker_world import open_world, problem


def below(kind: type[Exception]) -> list[type[Exception]]:
    return [found for child in kind.__subclasses__() for found in (child, *below(child))]


REFUSALS = [kind for kind in below(errors.RefusedError) if kind is not errors.NoncePrefixError]
PEERS: list[type[Exception]] = [PeerError, *(kind for kind in below(PeerError) if kind.__module__ == crypto.errors.__name__)]


@pytest.mark.parametrize("kind", REFUSALS)
def test_every_refusal_of_the_broker_has_its_own_row(kind: type[Exception]) -> None:
    found = problem_of(kind("the rule in a few words"))
    assert 400 <= found.status < 600
    assert found.status != 500
    assert found.detail.startswith("The rule in a few words. ")
    assert found.detail.endswith(".")
    document = json.loads(found.to_bytes())
    assert document == {"type": f"urn:sealmatch:problem:{found.name}", "title": found.title, "status": found.status, "detail": found.detail}


def test_one_document_says_the_prefix_and_no_other_has_a_member_more() -> None:
    found = problem_of(errors.NoncePrefixError(bytes(range(8))))
    assert (found.status, found.name) == (401, "nonce-prefix")
    assert json.loads(found.to_bytes())["nonce_prefix"] == "0001020304050607"
    assert found.detail.endswith(".")


def test_names_are_unique() -> None:
    names = ["nonce-prefix", *(problem_of(kind("x")).name for kind in [*REFUSALS, *PEERS])]
    assert len(set(names)) == len(names) > 60


@pytest.mark.parametrize("kind", PEERS)
def test_every_refusal_of_the_core_has_a_document(kind: type[Exception]) -> None:
    found = problem_of(kind("the rule in a few words"))
    assert 400 <= found.status < 600
    assert found.status != 500
    assert found.detail.startswith("The rule in a few words. ")
    assert found.name.replace("-", "").isalnum()


def test_statuses() -> None:
    assert problem_of(OversizedError("x")).status == 413
    assert problem_of(GrantExpiredError("x")).status == 403
    assert problem_of(crypto.errors.FieldError("x")).status == 400
    assert problem_of(crypto.errors.RosterExpiredError("x")).status == 503
    assert store_problem().status == 503
    assert [problem_of_status(status).name for status in (404, 405, 413, 400, 422)] == [
        "no-such-route",
        "method-not-allowed",
        "request-too-large",
        "request-malformed",
        "request-malformed",
    ]


@pytest.mark.parametrize(
    "error", [MisuseError("secret detail"), LocalError("secret detail"), CryptoError("secret detail"), KeyError("secret detail")]
)
def test_our_own_faults_say_nothing_of_themselves(error: Exception) -> None:
    found = problem_of(error)
    assert (found.status, found.name) == (500, "internal")
    assert "secret" not in found.detail


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    drawn = errors.__doc__ or ""
    for kind in below(errors.BrokerError):
        assert f"── {kind.__name__} " in drawn, kind.__name__


async def test_a_store_that_fails_is_a_503(tmp_path: Path) -> None:
    async with open_world(tmp_path / "broker") as world:
        async with world.services.store.writing() as connection:
            await connection.exec_driver_sql("ALTER TABLE manifests RENAME TO hidden")
        reply = await world.ask("GET", "/v1/statements/manifest/northport-pd")
        assert problem(reply) == (503, "store-unavailable")
        assert "manifests" not in reply.text
