"""No embedding, key, seed or score in `repr`, `str`, format, pickles, error text or logs: the objects of a real search are read, and every
message that `crypto` can raise is read in its source."""

from __future__ import annotations

import ast
import base64
import dataclasses
import logging
import pickle
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import crypto
from crypto.answer import MaskShare, OrderSeed
from crypto.calibration import CalibrationChunk
from crypto.canonical import AgencyId
from crypto.errors import CryptoError, MisuseError
from crypto.impostors import ImpostorTable
from crypto.layout import FILLER
from crypto.opening import open_answer
from crypto.release import ReleaseTerms, release, unmask
from crypto.seal import KeyPair
from crypto.seed import Seed
from tests.simulation import GRANT_DIGEST, directions, gallery_of, isotropic_model, search

MODEL = isotropic_model(16)
VECTORS = directions(np.random.default_rng(71), 1000, 16)
GALLERY = gallery_of(MODEL, MODEL.templates(VECTORS))
VECTOR = MODEL.probe_vector(VECTORS[0])
FOUND = search(GALLERY, VECTOR)
SCORES = FOUND.holder_scores(1000)
RELEASED = release(ReleaseTerms(GRANT_DIGEST, 5, 100), ImpostorTable.isotropic(MODEL.model_hash, 16), [SCORES])

OBJECTS = {
    type(thing).__name__: thing
    for thing in (
        FOUND.probe,
        FOUND.key,
        FOUND.answer,
        FOUND.secrets,
        FOUND.secrets.root,
        FOUND.secrets.places,
        FOUND.opened,
        FOUND.shares[0],
        OrderSeed(FOUND.answer.digest, FOUND.secrets.order_seed),
        GALLERY,
        GALLERY.layout,
        CalibrationChunk.draw(Seed.fresh(), MODEL.scales, 1),
        SCORES,
        RELEASED.to_discovery,
        KeyPair(),
    )
}

ARRAYS = {
    "secret key": FOUND.key.secret_eval(),
    "probe words": FOUND.probe.words_eval,
    "answer": FOUND.answer.b_rounded,
    "opened values": FOUND.opened.values,
    "scores": SCORES.cosines(),
    "layout": GALLERY.layout.rows[GALLERY.layout.rows != FILLER],
    "packed gallery": GALLERY.words.chunk_eval(0),
    "calibration": FOUND.secrets.places.basis,
    "embedding": VECTORS[0],
    "probe vector": VECTOR,
}
SEEDS = [FOUND.secrets.root, FOUND.secrets.order_seed, *FOUND.secrets.mask_seeds, GALLERY.layout.seed]


def leaks(text: str) -> list[str]:
    """Which secrets show in a text: three neighbouring numbers of an array as numpy or Python would print them, or a seed."""
    found = []
    numbers = [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?(?:e-?\d+)?", text)]
    triples = {tuple(np.round(numbers[i : i + 3], 4)) for i in range(len(numbers) - 2)}
    for name, array in ARRAYS.items():
        flat = array.reshape(-1).astype(float)
        for start in range(min(flat.size, 2000) - 2):
            if tuple(np.round(flat[start : start + 3], 4)) in triples:
                found.append(name)
                break
    for seed in SEEDS:
        secret = seed.export_secret()
        if any(form in text for form in (secret.hex(), base64.b64encode(secret).decode()[:40], repr(secret)[2:-1])):
            found.append("seed")
    return found


def test_the_reader_finds_what_it_looks_for() -> None:
    """The check itself must be able to fail."""
    assert leaks(str(VECTOR)) == ["probe vector"]
    assert "scores" in leaks(repr(SCORES.cosines()))
    assert "opened values" in leaks(str(FOUND.opened.values[:8].tolist()))
    assert leaks(SEEDS[0].export_secret().hex()) == ["seed"]
    assert leaks(f"{SEEDS[1].export_secret()!r}") == ["seed"]
    assert "layout" in leaks(str(ARRAYS["layout"][:40]))


@pytest.mark.parametrize("name", OBJECTS)
def test_no_secret_in_any_text_form(name: str) -> None:
    thing = OBJECTS[name]
    for text in (repr(thing), str(thing), f"{thing}", repr([thing]), repr({"x": thing})):
        assert leaks(text) == []
        assert "array(" not in text
    if dataclasses.is_dataclass(thing):
        for field in dataclasses.fields(thing):
            assert not isinstance(getattr(thing, field.name), bytes) or leaks(repr(thing)) == []


@pytest.mark.parametrize("name", ["SearchKey", "Seed", "HolderScores"])
def test_secrets_are_not_pickled(name: str) -> None:
    with pytest.raises(MisuseError):
        pickle.dumps(OBJECTS[name])


def test_errors_of_a_search_name_the_rule_and_no_value(caplog: pytest.LogCaptureFixture) -> None:
    """Every error that wrong parts of one search provoke, and everything logged meanwhile."""
    other = search(GALLERY, VECTOR)
    intruder = Seed.fresh()
    share = FOUND.shares[0]
    attempts: list[Callable[[], object]] = [
        lambda: open_answer(FOUND.answer, OrderSeed(bytes(32), FOUND.secrets.order_seed), FOUND.probe, FOUND.key),
        lambda: open_answer(FOUND.answer, OrderSeed(FOUND.answer.digest, Seed.fresh()), other.probe, other.key),
        lambda: unmask(AgencyId("x"), 1000, 1, MODEL.scales, FOUND.opened, other.shares),
        lambda: unmask(AgencyId("x"), 1000, 1, MODEL.scales, FOUND.opened, [dataclasses.replace(share, seed=intruder)]),
        lambda: MODEL.probe_vector(np.full(16, np.nan)),
        lambda: GALLERY.add(0, MODEL.templates(VECTORS[1])),
        lambda: FOUND.secrets.rows_at(GALLERY.layout.rows, np.array([99999], np.uint32), still_held=GALLERY.layout.rows),
        lambda: type(FOUND.opened).from_bytes(FOUND.opened.to_bytes()[:-1]),
        lambda: MaskShare.from_bytes(share.to_bytes() + b"x"),
    ]
    with caplog.at_level(logging.DEBUG):
        for attempt in attempts:
            with pytest.raises(CryptoError) as caught:
                attempt()
            assert leaks(f"{caught.value!r} {caught.value.args}") == []
    assert [record for record in caplog.records if not record.name.startswith("numba")] == []  # numba logs what it compiles


PLAIN = re.compile(
    r"_?[A-Z][A-Z0-9_.]*(?:\[\d\])?|len\([a-z_.]+\)|[a-zA-Z_.]*(?:__name__|\.max_\w+|\.message_type|\.name|\.value|\.pattern)"
)
"""Constants, lengths, limits, and names of types, formats, roles and messages."""

REVIEWED = {
    "act.count",
    "evidence.log_after",
    "field_type",
    "form.count",
    "found[0]",
    "index.size",
    "position",
    "self._end",
    "self._size",
    "FORMAT_VERSION",
    "MAX_LIFETIME.days",
    "SEALMATCH_1.max_dimensions",
    "bits",
    "'an open' if sealed else 'a sealed'",
    "current.month",
    "high",
    "low",
    "max_bytes",
    "max_chars",
    "name",
    "part.total_bytes",
    "policy.max_age_s",
    "self._at(name)",
    "self._name",
    "self._where",
    "self.dimensions",
    "self.kept_fillers",
    "self.month",
    "type(self).__name__",
    "where",
    "width",
}
"""What else error texts may hold; each was looked at: limits, field names, months, places in the log. A new one needs a look first."""


def test_error_texts_hold_only_what_was_looked_at() -> None:
    unknown = {}
    for path in sorted(Path(crypto.__file__).parent.glob("**/*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Raise) and node.exc is not None:
                for part in ast.walk(node.exc):
                    if isinstance(part, ast.FormattedValue):
                        expression = ast.unparse(part.value)
                        if not PLAIN.fullmatch(expression) and expression not in REVIEWED:
                            unknown[expression] = path.name
    assert unknown == {}


def test_crypto_neither_logs_nor_prints() -> None:
    for path in Path(crypto.__file__).parent.glob("**/*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                assert ast.unparse(node.func) != "print", path.name
            if isinstance(node, ast.Import | ast.ImportFrom):
                assert "logging" not in ast.unparse(node), path.name
