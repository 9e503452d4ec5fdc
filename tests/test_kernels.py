"""What every numba kernel must keep: one flag set, one compiled signature, integers only; and no kernel compiled anywhere else."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any, cast

import numba
import numpy as np
import pytest
from numba.core.registry import CPUDispatcher

import crypto
from crypto import binary, blinding, gallery, opening, ordered_probe, packed_words, ring, scan, seed
from crypto.jit import compiled_signatures, stamp
from tests.simulation import directions, gallery_of, isotropic_model, search

SOURCES = sorted(Path(crypto.__file__).parent.glob("**/*.py"))
KERNELS = {
    f"{module.__name__}.{name}": kernel
    for module in (binary, blinding, gallery, opening, ordered_probe, packed_words, ring, scan, seed)
    for name, kernel in vars(module).items()
    if isinstance(kernel, CPUDispatcher) and kernel.py_func.__module__ == module.__name__
}


@pytest.fixture(scope="module", autouse=True)
def one_search() -> None:
    """Runs every kernel the way the program does."""
    model = isotropic_model(16)
    vectors = directions(np.random.default_rng(1), 100, 16)
    found = search(gallery_of(model, model.templates(vectors)), model.probe_vector(vectors[0]), custodians=2)
    for made in (found.probe, found.answer):
        type(made).from_bytes(made.to_bytes())
    block = np.zeros((ring.N, ring.LANES), np.uint32)
    ring.multiply(block, block)


def test_all_kernels_are_found() -> None:
    decorated = 0
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                decorated += any(isinstance(d, ast.Name) and d.id == "kernel" for d in node.decorator_list)
    assert len(KERNELS) == decorated > 10


def shapes_of(signature: tuple[Any, ...]) -> tuple[str, ...]:
    """A signature with read-only and writable arrays taken as one: frozen values are read-only, and numba counts that as a type."""
    return tuple(str(kind).replace("readonly ", "") for kind in signature)


def test_entry_kernels_are_compiled_and_inner_ones_inlined() -> None:
    compiled = {name.removeprefix("crypto.") for name, kernel in KERNELS.items() if compiled_signatures(kernel)}
    assert compiled >= {
        "binary._pack",
        "binary._unpack",
        "blinding._first_tiles",
        "blinding._second_tiles",
        "gallery._pack_chunk",
        "opening._open_rows",
        "opening._put_at",
        "opening._to_middle",
        "ordered_probe.order_words",
        "ring._add",
        "ring._centre",
        "ring._multiply",
        "ring._multiply_add_rows",
        "ring._subtract",
        "ring.forward_rows",
        "ring.inverse_rows",
        "scan.scan_shares",
        "seed._fill_buckets",
        "seed._shuffle",
        "seed._sum_errors",
        "seed._take_at",
        "seed._take_below",
        "seed._take_ternary",
    }


@pytest.mark.parametrize("name", KERNELS)
def test_a_kernel_has_one_signature_without_floats(name: str) -> None:
    signatures = compiled_signatures(KERNELS[name])
    assert len({shapes_of(signature) for signature in signatures}) <= 1, signatures
    assert "float" not in str(signatures)
    assert "float" not in str(KERNELS[name].nopython_signatures)


@pytest.mark.parametrize("name", KERNELS)
def test_flags_are_the_ones_of_jit(name: str) -> None:
    options = KERNELS[name].targetoptions
    assert options.get("nogil") is True
    assert not options.get("fastmath")
    assert not options.get("parallel")


def test_numba_is_used_in_one_place() -> None:
    users = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import) and any(alias.name.split(".")[0] == "numba" for alias in node.names):
                users.add(path.name)
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "numba":
                users.add(path.name)
    assert users == {"jit.py", "dot.py"}


def test_machine_code_is_kept_until_a_source_of_kernels_changes() -> None:
    """A packed gallery and a scan that were compiled with unlike orders of words would answer every search wrongly."""
    files = {path.name: path.read_bytes() for path in Path(crypto.__file__).parent.glob("*.py")}
    as_it_is = stamp(files.__getitem__)
    assert {cast("Any", kernel)._cache._cache_file._source_stamp for kernel in KERNELS.values()} == {as_it_is}
    counted = {name for name, text in files.items() if stamp({**files, name: text + b"# changed"}.__getitem__) != as_it_is}
    asked = re.compile(rb"^from (crypto\.jit|numba\S*) import|^import numba", re.MULTILINE)
    assert counted == {name for name, text in files.items() if asked.search(text)} | {"parameters.py"}


def test_products_stay_unsigned() -> None:
    """uint64 times a signed constant compiles to int64; the typed constants of `ring` keep every product unsigned."""
    ring.reduce_word(np.uint64(1))
    kernel = KERNELS["crypto.ring.reduce_word"]
    assert kernel.nopython_signatures == [numba.types.uint64(numba.types.uint64)]
