"""The same search in the clear, by FAISS: what the encrypted scan is measured against.

FAISS compares one query with every vector in several ways, and which is fastest depends on the machine; each is measured, and for each
form of the vectors the fastest is the one that counts. Invariants: FAISS gets as many threads as the scan; each set-up is whole before it
is timed, and freed before the next is built, so that one copy of the gallery exists at a time.

- `1 thread`: its SIMD loop over the vectors.
- `T threads`: since FAISS 1.15 `IndexFlatIP` splits the vectors among threads and multiplies blocks of them with BLAS.
- `IndexShards, T x ...`: T indexes of a T-th each, one thread and the SIMD loop for each.

float32 is what a gallery in the clear is kept in and what `ratio` compares with; half-precision floats and signed bytes (`VectorForm`)
read a half and a quarter of the memory, and are exact to their own precision only.
"""

from __future__ import annotations

import enum
import importlib
import math
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from agency_node.bench.errors import FaissMissingError
from agency_node.bench.progress import Steps
from agency_node.bench.synthetic import Coded, SyntheticRecords, batches
from crypto.embedding import F32
from crypto.limits import DEFAULT_CAP

_THREADS_VARIABLE = "OMP_NUM_THREADS"
_HALF_PRECISION = 2.0**-11
"""A half-precision float is within this share of the number that it stands for."""
_ROUNDING_SDS = 7
_BYTE_LIMIT = 127
_REACH_SDS = 6
"""Signed bytes reach coordinates of so many standard deviations; of random directions two in a thousand million lie beyond."""
_BYTE_OFFSET = 128
"""FAISS keeps the signed byte v as v + 128."""


class VectorForm(enum.StrEnum):
    """What an index in the clear keeps of a vector, under FAISS's name for it."""

    FLOAT32 = "float32"
    FP16 = "fp16"
    BYTES = "8bit_direct_signed"


@dataclass(frozen=True)
class Nearest:
    """What a search in the clear found: for each query the rows of the largest inner products, descending, and the products."""

    rows: npt.NDArray[np.int64]
    products: F32


@dataclass(frozen=True)
class ClearSetup:
    """One way to search in the clear; `search()` may be called until the next set-up is asked for.

    `tolerance` is how far rounding of the kept vectors may move a cosine, and a product times `product_unit` is one.
    """

    name: str
    form: VectorForm
    threads: int
    search: Callable[[], Nearest]
    tolerance: float = 0.0
    product_unit: float = 1.0


def load_faiss() -> ModuleType:
    """FAISS, or `FaissMissingError`.

    Shards search in threads of their own, and those take their number of OpenMP threads from the environment as it was when FAISS was
    first loaded. Unless the caller has set it, it is one while FAISS is loaded: shards then use the faster loop and no more threads than
    cores.
    """
    given = os.environ.get(_THREADS_VARIABLE)
    os.environ.setdefault(_THREADS_VARIABLE, "1")
    try:
        return importlib.import_module("faiss")
    except ImportError as error:
        raise FaissMissingError(
            "FAISS is not installed, and the scan is measured against it: install the dev group with ./dev setup "
            "(or: pip install --group dev), or measure the encrypted scan alone with --no-faiss"
        ) from error
    finally:
        if given is None:
            del os.environ[_THREADS_VARIABLE]


def clear_setups(
    source: SyntheticRecords, queries: F32, threads: int, steps: Steps, forms: Sequence[VectorForm] = (VectorForm.FLOAT32,)
) -> Iterator[ClearSetup]:
    """Every set-up of these forms in turn, built when it is its turn; queries are float32[K, D]."""
    faiss = load_faiss()
    leads = min(DEFAULT_CAP, source.records)

    held: list[Any] = []  # the one index there is; a set-up that the caller has kept must not keep its index

    def searching(asked: F32, omp_threads: int) -> Callable[[], Nearest]:
        def search() -> Nearest:
            faiss.omp_set_num_threads(omp_threads)
            products, rows = held[0].search(asked, leads)
            return Nearest(rows, products)

        return search

    before = faiss.omp_get_max_threads()
    try:
        for form in forms:
            kind = _Kind.of(form, source.dimensions)
            asked = kind.query(queries)
            facts = (kind.tolerance, kind.product_unit)
            held.append(_index(faiss, kind, source, 0, source.records, steps))
            yield ClearSetup(f"{kind.name}, 1 thread", form, 1, searching(asked, 1), *facts)
            if threads > 1:
                yield ClearSetup(f"{kind.name}, {threads} threads", form, threads, searching(asked, threads), *facts)
            held.clear()
            if threads > 1 and source.records >= threads:
                shards = faiss.IndexShards(source.dimensions, True, True)  # threaded, rows numbered on from shard to shard
                bounds = [source.records * part // threads for part in range(threads + 1)]
                parts = [_index(faiss, kind, source, bounds[part], bounds[part + 1], steps) for part in range(threads)]
                for part in parts:
                    shards.add_shard(part)
                held.append(shards)
                each = _omp_threads_of_a_new_thread(faiss)
                note = "" if each == 1 else f", {each} OpenMP threads each"
                yield ClearSetup(f"IndexShards, {threads} x {kind.name}{note}", form, threads, searching(asked, 1), *facts)
                held.clear()
                del shards, parts, part
    finally:
        held.clear()
        faiss.omp_set_num_threads(before)


@dataclass(frozen=True)
class _Kind:
    """How FAISS keeps one form: its index, the codes of vectors, the query beside them, what rounding costs."""

    form: VectorForm
    name: str
    coded: Callable[[F32], Coded]
    query: Callable[[F32], F32]
    tolerance: float = 0.0
    product_unit: float = 1.0

    @classmethod
    def of(cls, form: VectorForm, dimensions: int) -> _Kind:
        if form is VectorForm.FLOAT32:
            return cls(form, "IndexFlatIP", lambda rows: rows, lambda asked: asked)
        if form is VectorForm.FP16:
            return cls(form, "IndexScalarQuantizer fp16", lambda rows: rows.astype(np.float16), lambda asked: asked, _HALF_PRECISION)
        # FAISS takes a signed byte for the number that it is, and wants the query in whole bytes too; our codes would be wrong in the tail
        scale = _BYTE_LIMIT * math.sqrt(dimensions) / _REACH_SDS

        def rounded(vectors: F32) -> F32:
            return np.asarray(np.clip(np.rint(scale * vectors), -_BYTE_LIMIT, _BYTE_LIMIT), np.float32)

        return cls(
            form,
            "IndexScalarQuantizer 8bit_direct_signed",
            lambda rows: (rounded(rows) + _BYTE_OFFSET).astype(np.uint8),
            rounded,
            _ROUNDING_SDS * math.sqrt(2 / 12) / scale,
            1 / scale**2,
        )

    def empty(self, faiss: ModuleType, dimensions: int) -> Any:  # noqa: ANN401 -- untyped
        if self.form is VectorForm.FLOAT32:
            return faiss.IndexFlatIP(dimensions)
        quantizer = getattr(faiss.ScalarQuantizer, f"QT_{self.form.value}")
        return faiss.IndexScalarQuantizer(dimensions, quantizer, faiss.METRIC_INNER_PRODUCT)


def _index(faiss: ModuleType, kind: _Kind, source: SyntheticRecords, first: int, last: int, steps: Steps) -> Any:  # noqa: ANN401 -- untyped
    """An index of some rows, written in place: `add` in batches would copy all that is there whenever it grows."""
    index = kind.empty(faiss, source.dimensions)
    index.codes.resize(index.code_size * (last - first))
    index.ntotal = last - first
    stored = faiss.rev_swig_ptr(index.codes.data(), index.code_size * (last - first)).reshape(last - first, -1)

    def as_bytes(rows: F32) -> Coded:
        return kind.coded(rows).view(np.uint8)

    with steps.step(f"writing {last - first:,} vectors into FAISS as {kind.form.value}", batches(last - first)) as done:
        source.write(stored, first, done, as_bytes)
    return index


def _omp_threads_of_a_new_thread(faiss: ModuleType) -> int:
    found: list[int] = []
    asking = threading.Thread(target=lambda: found.append(int(faiss.omp_get_max_threads())))
    asking.start()
    asking.join()
    return found[0]
