"""Two other ways to score records against an encrypted probe, with Microsoft SEAL doing the arithmetic: what `peers` measures beside ours.

- *SEAL, coordinate first*: every coordinate of the probe is one BFV ciphertext, and a block's scores are the sum over the coordinates of
  ciphertext times plaintext polynomial, all in NTT form. N = 2048 and one 54-bit prime, where nothing wraps and sums are exact; measured
  faster a record than N = 1024 or 4096. SEAL's bindings hold the interpreter's lock, so it has one thread.
- *TenSEAL, matmul*: the probe is one CKKS vector, the gallery a plain matrix; `CKKSVector.mm` rotates and adds. N = 8192, primes of 60, 40
  and 60 bits: one product, and as many records as a ciphertext has slots.

Invariants: standard 128-bit parameters; what does not depend on the probe is prepared before anything is timed; scores come back decrypted
by SEAL, as cosines. Not included, as in our scan: re-randomising, masking, the wire. Both return every score to whoever holds the key.
Synthetic records only; nothing here serves a search.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import tenseal
from tenseal import sealapi

from agency_node.bench.progress import Steps
from agency_node.bench.synthetic import SyntheticRecords
from agency_node.faces.synthetic_embedder import synthetic_model
from crypto.codes import values_of
from crypto.parameters import SEALMATCH_1
from crypto.ring import F64

SEAL_BLOCK: Final = 2048
"""Records in one plaintext polynomial."""
TENSEAL_SLOTS: Final = 4096
"""Records that one CKKS ciphertext's slots hold."""
_SEAL_PRIME_BITS: Final = 54
_TENSEAL_PRIME_BITS: Final = (60, 40, 60)
_TENSEAL_TOLERANCE: Final = 1e-5
"""A scale of 2^40 leaves errors near 1e-7 after one product; a wrong slot is off by 0.01 and more."""
_ROUNDING_SDS: Final = 7
_PLAIN: Final = SEALMATCH_1.plain_modulus


class SealCoordinateFirst:
    """One probe and a gallery in SEAL's hands; what templates stand for and the probe are the integers that our own scan works on."""

    name = "SEAL, coordinate first"
    threads = 1

    def __init__(self, source: SyntheticRecords, sought_row: int, steps: Steps) -> None:
        model = synthetic_model(source.dimensions)
        self._source = source
        self._context = _bfv_context()
        self._secret = sealapi.KeyGenerator(self._context).secret_key()
        self._evaluator = sealapi.Evaluator(self._context)
        encryptor = sealapi.Encryptor(self._context, self._secret)
        self._unit = model.scales.gamma * model.scales.mu
        self.tolerance = _ROUNDING_SDS * model.scales.rounding_sd
        self._probe = []
        for constant in model.probe_vector(source.embedding_like(sought_row)).tolist():
            cipher = sealapi.Ciphertext(self._context)
            encryptor.encrypt_symmetric(sealapi.Plaintext(f"{constant % _PLAIN:X}"), cipher)
            self._evaluator.transform_to_ntt_inplace(cipher)
            self._probe.append(cipher)
        starts = range(0, source.records, SEAL_BLOCK)
        with steps.step(f"preparing {source.records:,} records for {self.name}", len(starts)) as done:
            self._blocks = []
            for start in starts:
                templates = model.templates(source.vectors(start, min(source.records, start + SEAL_BLOCK)))
                self._blocks.append([self._plain(column.tolist()) for column in values_of(templates).T])
                done()

    def scan(self) -> list[Any]:
        """One ciphertext of scores a block, in NTT form."""
        return [self._block_sum(block) for block in self._blocks]

    def cosines(self, found: list[Any]) -> F64:
        """What the key reads in them; float64[records]."""
        decryptor, out = sealapi.Decryptor(self._context, self._secret), np.zeros((len(found), SEAL_BLOCK))
        for at, cipher in enumerate(found):
            self._evaluator.transform_from_ntt_inplace(cipher)
            plain = sealapi.Plaintext()
            decryptor.decrypt(cipher, plain)
            words = plain.dyn_array()
            for place in range(plain.coeff_count()):
                out[at, place] = words.at(place)
        signed = np.where(out >= _PLAIN // 2, out - _PLAIN, out).reshape(-1)[: self._source.records]
        return np.asarray(signed / self._unit)

    def _block_sum(self, block: list[Any]) -> Any:  # noqa: ANN401 -- untyped
        total, product = sealapi.Ciphertext(self._context), sealapi.Ciphertext(self._context)
        multiply, add = self._evaluator.multiply_plain, self._evaluator.add_inplace
        multiply(self._probe[0], block[0], total)
        for cipher, plain in zip(self._probe[1:], block[1:], strict=True):
            multiply(cipher, plain, product)
            add(total, product)
        return total

    def _plain(self, coefficients: list[int]) -> Any:  # noqa: ANN401 -- untyped
        """A polynomial in NTT form; SEAL reads it as hexadecimal text, highest power first, negative coefficients modulo t."""
        terms = (f"{value % _PLAIN:X}x^{power}" for power, value in reversed(list(enumerate(coefficients))) if power and value)
        plain = sealapi.Plaintext(" + ".join([*terms, f"{coefficients[0] % _PLAIN:X}"]))
        self._evaluator.transform_to_ntt_inplace(plain, self._context.first_parms_id())
        return plain


def _bfv_context() -> Any:  # noqa: ANN401 -- untyped
    parameters = sealapi.EncryptionParameters(sealapi.SCHEME_TYPE.BFV)
    parameters.set_poly_modulus_degree(SEAL_BLOCK)
    parameters.set_coeff_modulus(sealapi.CoeffModulus.Create(SEAL_BLOCK, [_SEAL_PRIME_BITS]))
    parameters.set_plain_modulus(_PLAIN)
    return sealapi.SEALContext(parameters, True, sealapi.SEC_LEVEL_TYPE.TC128)


class TensealMatmul:
    """One probe and a plain matrix in TenSEAL's hands; real numbers, no quantisation."""

    name = "TenSEAL, matmul"
    tolerance = _TENSEAL_TOLERANCE

    def __init__(self, source: SyntheticRecords, sought_row: int, threads: int, steps: Steps) -> None:
        self.threads = threads
        self._records = source.records
        with steps.step(f"preparing {source.records:,} records for {self.name}"):
            context = tenseal.context(
                tenseal.SCHEME_TYPE.CKKS, 2 * TENSEAL_SLOTS, coeff_mod_bit_sizes=list(_TENSEAL_PRIME_BITS), n_threads=threads
            )
            context.global_scale = 2.0 ** _TENSEAL_PRIME_BITS[1]
            context.generate_galois_keys()
            self._probe = tenseal.ckks_vector(context, source.embedding_like(sought_row).tolist())
            columns = source.vectors(0, source.records).T
            self._matrix = tenseal.plain_tensor(columns.ravel().tolist(), list(columns.shape))

    def scan(self) -> Any:  # noqa: ANN401 -- untyped
        """The encrypted scores."""
        return self._probe.mm(self._matrix)

    def cosines(self, found: Any) -> F64:  # noqa: ANN401 -- untyped
        """What the key reads in them; float64[records]."""
        return np.asarray(found.decrypt(), np.float64)[: self._records]
