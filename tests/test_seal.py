"""The one door to SEAL: its words are our words, and nothing else opens it."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest

import crypto
from crypto import ring
from crypto.errors import MisuseError
from crypto.parameters import SEALMATCH_1
from crypto.ring import N, Q
from crypto.seal import KeyPair

T = SEALMATCH_1.plain_modulus


def scaled_and_rounded(y: ring.U32) -> ring.U32:
    """round(t y / q) mod t, in exact integers: what BFV decryption does to c0 + c1 s."""
    return ((y.astype(np.int64) * (2 * T) + Q) // (2 * Q) % T).astype(np.uint32)


def test_secret_is_ternary_in_our_eval_form() -> None:
    """With another root or order of the transform, SEAL's words would come back as noise."""
    secret = ring.centred(ring.inverse(KeyPair().secret_eval()))
    assert set(np.unique(secret).tolist()) == {-1, 0, 1}
    assert abs(int((secret != 0).sum()) - 2 * N / 3) < 5 * np.sqrt(N * 2 / 9)


def test_constants_come_back_with_seals_noise() -> None:
    pair = KeyPair()
    constants = np.array([0, 1, -1, 1101, -1101, T // 2 - 1, 1 - T // 2], np.int32)
    c0, c1 = pair.encrypt_constants(constants)
    y = ring.add(ring.inverse(ring.multiply(ring.forward(c1), np.tile(pair.secret_eval(), (constants.size, 1)))), c0)
    message = np.zeros((constants.size, N), np.int64)
    message[:, 0] = [round(int(constant) % T * Q / T) for constant in constants]
    noise = ring.centred(((y.astype(np.int64) - message) % Q).astype(np.uint32))
    assert np.abs(noise).max() <= 22
    assert noise.std() == pytest.approx(3.24, rel=0.05)
    assert scaled_and_rounded(y)[:, 0].tolist() == (constants % T).tolist()


def test_two_encryptions_of_one_constant_share_nothing() -> None:
    pair = KeyPair()
    c0, c1 = pair.encrypt_constants(np.array([5, 5], np.int32))
    assert (c0[0] != c0[1]).mean() > 0.99
    assert (c1[0] != c1[1]).mean() > 0.99


def test_decryption_of_any_words_is_ours() -> None:
    """Uniform words, as a masked answer is to its requester: SEAL's decryptor and exact integers agree word for word."""
    pair, rng = KeyPair(), np.random.default_rng(3)
    for _ in range(50):
        c0, c1 = rng.integers(0, Q, (2, N), dtype=np.uint32)
        y = ring.add(ring.inverse(ring.multiply(ring.forward(c1), pair.secret_eval())), c0)
        assert (pair.decrypt(c0, c1) == scaled_and_rounded(y)).all()


def test_refuses_what_does_not_fit() -> None:
    pair = KeyPair()
    with pytest.raises(MisuseError):
        pair.encrypt_constants(np.array([T // 2], np.int32))
    with pytest.raises(MisuseError):
        pair.decrypt(np.full(N, Q, np.uint32), np.zeros(N, np.uint32))
    with pytest.raises(MisuseError):
        pair.decrypt(np.zeros(N - 1, np.uint32), np.zeros(N, np.uint32))
    assert repr(pair) == "KeyPair(<redacted>)"


def test_nothing_else_imports_tenseal() -> None:
    root = Path(crypto.__file__).parent.parent
    importers = set()
    for path in [*root.glob("crypto/**/*.py"), *root.glob("agency_node/**/*.py"), *root.glob("broker/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.split(".")[0] == "tenseal" for name in names):
                importers.add(path.name)
    assert importers == {"seal.py", "seal_peers.py"}, "the second one measures what others do with SEAL, and serves no search"
