"""The one door to Microsoft SEAL (through `tenseal.sealapi`): keys, samples, decryption. Nothing else imports tenseal.

Invariants: every secret key and every secret sample of a probe is drawn by SEAL, from its own generator seeded by the operating system.
What comes out of this module are arrays of residues in our types; what goes in is checked by `ring`. SEAL reads and writes only files, so
bytes pass through anonymous memory files that never reach a disk. Moving encryptions to public bases is left to `probe`.

Scheme: BFV (Fan and Vercauteren, IACR ePrint 2012/144), symmetric encryption, one 27-bit prime, no special prime: nothing is key-switched.
"""

from __future__ import annotations

import contextlib
import functools
import os
import struct
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from tenseal import sealapi

from crypto.errors import LocalError, MisuseError
from crypto.parameters import SEALMATCH_1
from crypto.ring import I32, U32, N, Q, check_residues

_HEADER: Final = struct.Struct("<HBBBBHQ")  # magic, header size, major and minor version, compression, reserved, total size
_CIPHERTEXT: Final = struct.Struct("<4QBQQQdQ")  # parameters' id, eval form, polynomials, N, primes, scale, correction factor
_LENGTH: Final = struct.Struct("<Q")


@functools.cache
def context() -> Any:
    """SEAL's context for `sealmatch-1`; `LocalError` when this build of SEAL has other primes or refuses the parameters."""
    parameters = sealapi.EncryptionParameters(sealapi.SCHEME_TYPE.BFV)
    parameters.set_poly_modulus_degree(N)
    primes = sealapi.CoeffModulus.Create(N, [SEALMATCH_1.modulus_bits])
    if [prime.value() for prime in primes] != [Q]:
        raise LocalError("this SEAL chooses another 27-bit prime than sealmatch-1")
    parameters.set_coeff_modulus(primes)
    parameters.set_plain_modulus(SEALMATCH_1.plain_modulus)
    made = sealapi.SEALContext(parameters, True, sealapi.SEC_LEVEL_TYPE.TC128)
    if not made.parameters_set():
        raise LocalError("SEAL refuses sealmatch-1 at its 128-bit level")
    return made


class KeyPair:
    """A fresh SEAL secret key with the two things done with it. Lives for one search; no pickle, no text form."""

    __slots__ = ("_encryptor", "_secret")

    def __init__(self) -> None:
        self._secret = sealapi.KeyGenerator(context()).secret_key()
        self._encryptor = sealapi.Encryptor(context(), self._secret)

    def secret_eval(self) -> U32:
        """The ternary secret in eval form, SEAL's words; uint32[N]. Goes into `probe.SearchKey` and nowhere else."""
        return _words(self._secret.data().dyn_array(), N)

    def encrypt_constants(self, constants: I32) -> tuple[U32, U32]:
        """A fresh symmetric encryption of each constant; int32[M] in, (c0, c1) out, each uint32[M, N] in coeff form.

        c0 + c1 s = round(q m / t) + e. **The two arrays with the probe made from them give the secret key by one division**: s is
        (b_d - c0) / (c1 - A_d). Destroy both at once.
        """
        half = SEALMATCH_1.plain_modulus // 2
        if constants.size and int(np.abs(constants.astype(np.int64)).max()) >= half:
            raise MisuseError("a constant is not below t/2")
        c0 = np.empty((constants.size, N), np.uint32)
        c1 = np.empty((constants.size, N), np.uint32)
        cipher = sealapi.Ciphertext(context())
        for row, constant in enumerate(constants):
            # SEAL reads a plaintext polynomial as hexadecimal text; a negative constant stands modulo t.
            self._encryptor.encrypt_symmetric(sealapi.Plaintext(f"{int(constant) % SEALMATCH_1.plain_modulus:X}"), cipher)
            c0[row], c1[row] = _words(cipher.dyn_array(), 2 * N).reshape(2, N)
        return c0, c1

    def decrypt(self, c0_coeff: U32, c1_coeff: U32) -> U32:
        """SEAL's own decryption of one ciphertext; two uint32[N] in coeff form in, the plaintext's coefficients below t out, uint32[N]."""
        cipher = sealapi.Ciphertext(context())
        with _memory_file(_ciphertext_bytes(c0_coeff, c1_coeff)) as descriptor:
            cipher.load(context(), _path(descriptor))
        plain = sealapi.Plaintext()
        sealapi.Decryptor(context(), self._secret).decrypt(cipher, plain)
        out = np.zeros(N, np.uint32)
        length = plain.coeff_count()
        out[:length] = _words(plain.dyn_array(), length)
        return out

    def __repr__(self) -> str:
        return "KeyPair(<redacted>)"


def _words(array: Any, count: int) -> U32:
    if array.size() < count:
        raise LocalError("SEAL returned fewer words than its format has")
    return np.fromiter(map(array.at, range(count)), np.uint64, count).astype(np.uint32)


@functools.cache
def _ciphertext_frame() -> bytes:
    """SEAL's serialisation of a ciphertext of two polynomials up to their words, uncompressed.

    A header, the ciphertext's fields, and the words as an array with a header and a length of its own. Magic and version are those of a
    plaintext that this very SEAL writes, so that it recognises its own format.
    """
    with _memory_file(b"") as descriptor:
        sealapi.Plaintext("1").save(_path(descriptor))
        magic, size, major, minor, *_ = _HEADER.unpack(os.pread(descriptor, _HEADER.size, 0))

    def framed(body: bytes) -> bytes:
        return _HEADER.pack(magic, size, major, minor, 0, 0, _HEADER.size + len(body) + 16 * N) + body

    fields = _CIPHERTEXT.pack(*context().first_parms_id(), 0, 2, N, 1, 1.0, 1)
    return framed(fields + framed(_LENGTH.pack(2 * N)))


def _ciphertext_bytes(c0_coeff: U32, c1_coeff: U32) -> bytes:
    for polynomial in (c0_coeff, c1_coeff):
        check_residues(polynomial)
        if polynomial.shape != (N,):
            raise MisuseError(f"a polynomial has {N} coefficients")
    return _ciphertext_frame() + np.concatenate([c0_coeff, c1_coeff]).astype("<u8").tobytes()


@contextlib.contextmanager
def _memory_file(content: bytes) -> Iterator[int]:
    """The descriptor of an anonymous memory file that holds `content` and is gone when the block ends."""
    descriptor = os.memfd_create("sealmatch", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, content)
        yield descriptor
    finally:
        os.close(descriptor)


def _path(descriptor: int) -> str:
    """The path under which SEAL, which takes paths only, reaches a memory file."""
    return f"/proc/self/fd/{descriptor}"
