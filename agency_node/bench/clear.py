"""The same search in the clear, by FAISS: what the encrypted scan is measured against.

FAISS compares one query with every float32 vector in several ways, and which is fastest depends on the machine; each is measured, and the
fastest is the one that counts. Invariants: FAISS gets as many threads as the scan; each set-up is whole before it is timed, and freed
before the next is built, so that one float32 copy of the gallery exists at a time.

- `IndexFlatIP, 1 thread`: its SIMD loop over the vectors.
- `IndexFlatIP, T threads`: since FAISS 1.15 it splits the vectors among threads and multiplies blocks of them with BLAS.
- `IndexShards, T x IndexFlatIP`: T indexes of a T-th each, one thread and the SIMD loop for each.
"""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from agency_node.bench.errors import FaissMissingError
from agency_node.bench.progress import Steps
from agency_node.bench.synthetic import SyntheticRecords, batches
from crypto.embedding import F32
from crypto.limits import DEFAULT_CAP

_THREADS_VARIABLE = "OMP_NUM_THREADS"


@dataclass(frozen=True)
class Nearest:
    """What a search in the clear found: for each query the rows of the largest inner products, descending, and the products."""

    rows: npt.NDArray[np.int64]
    products: F32


@dataclass(frozen=True)
class ClearSetup:
    """One way to search in the clear; `search()` may be called until the next set-up is asked for."""

    name: str
    threads: int
    search: Callable[[], Nearest]


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


def clear_setups(source: SyntheticRecords, queries: F32, threads: int, steps: Steps) -> Iterator[ClearSetup]:
    """Every set-up in turn, built when it is its turn; queries are float32[K, D]."""
    faiss = load_faiss()
    leads = min(DEFAULT_CAP, source.records)

    held: list[Any] = []  # the one index there is; a set-up that the caller has kept must not keep its index

    def searching(omp_threads: int) -> Callable[[], Nearest]:
        def search() -> Nearest:
            faiss.omp_set_num_threads(omp_threads)
            products, rows = held[0].search(queries, leads)
            return Nearest(rows, products)

        return search

    before = faiss.omp_get_max_threads()
    try:
        held.append(_flat_index(faiss, source, 0, source.records, steps))
        yield ClearSetup("IndexFlatIP, 1 thread", 1, searching(1))
        if threads > 1:
            yield ClearSetup(f"IndexFlatIP, {threads} threads", threads, searching(threads))
        held.clear()
        if threads > 1 and source.records >= threads:
            shards = faiss.IndexShards(source.dimensions, True, True)  # threaded, rows numbered on from shard to shard
            bounds = [source.records * part // threads for part in range(threads + 1)]
            parts = [_flat_index(faiss, source, bounds[part], bounds[part + 1], steps) for part in range(threads)]
            for part in parts:
                shards.add_shard(part)
            held.append(shards)
            each = _omp_threads_of_a_new_thread(faiss)
            note = "" if each == 1 else f", {each} OpenMP threads each"
            yield ClearSetup(f"IndexShards, {threads} x IndexFlatIP{note}", threads, searching(1))
    finally:
        held.clear()
        faiss.omp_set_num_threads(before)


def _flat_index(faiss: ModuleType, source: SyntheticRecords, first: int, last: int, steps: Steps) -> Any:  # noqa: ANN401 -- untyped
    """An `IndexFlatIP` of some rows, written in place: `add` in batches would copy all that is there whenever it grows."""
    index = faiss.IndexFlatIP(source.dimensions)
    index.codes.resize(4 * (last - first) * source.dimensions)
    index.ntotal = last - first
    vectors = faiss.rev_swig_ptr(index.get_xb(), (last - first) * source.dimensions).reshape(-1, source.dimensions)
    with steps.step(f"writing {last - first:,} vectors into FAISS", batches(last - first)) as done:
        source.write(vectors, first, done)
    return index


def _omp_threads_of_a_new_thread(faiss: ModuleType) -> int:
    found: list[int] = []
    asking = threading.Thread(target=lambda: found.append(int(faiss.omp_get_max_threads())))
    asking.start()
    asking.join()
    return found[0]
