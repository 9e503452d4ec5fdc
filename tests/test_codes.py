"""Template codes: what they stand for, the nearest one, and what a gallery makes of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto import ring
from crypto.codes import codes_of, values_of
from crypto.gallery import pack_templates
from crypto.parameters import LARGEST_CODE, LARGEST_VALUE, TAIL_START, TAIL_STEP
from crypto.ring import N
from tests.simulation import gallery_of, isotropic_model

ALL_CODES = np.arange(-LARGEST_CODE, LARGEST_CODE + 1).astype(np.int8)


def test_all_255_codes_stand_for_values_of_their_own_and_come_back() -> None:
    values = values_of(ALL_CODES)
    assert values.dtype == np.int16
    assert codes_of(values).dtype == np.int8
    assert (np.diff(values) > 0).all()
    assert (values == -values[::-1]).all()
    assert (codes_of(values) == ALL_CODES).all()
    assert (codes_of(values.astype(np.float64)) == ALL_CODES).all()


@pytest.mark.parametrize(
    ("code", "value"),
    [(0, 0), (1, 1), (103, 103), (TAIL_START, 104), (TAIL_START + 1, 109), (106, 114), (126, 214), (LARGEST_CODE, LARGEST_VALUE)],
)
def test_the_edges_of_the_tail(code: int, value: int) -> None:
    assert values_of(np.array([code, -code], np.int8)).tolist() == [value, -value]
    # the half-way points between this value and its neighbours, each a little nearer to this one
    below, above = (TAIL_STEP if far else 1 for far in (code > TAIL_START, code >= TAIL_START))
    nearest = np.array([value - below / 2 + 0.01, value + above / 2 - 0.01])
    assert codes_of(nearest).tolist() == [code, code]
    assert codes_of(-nearest).tolist() == [-code, -code]
    beyond = np.array([value - below / 2 - 0.01, value + above / 2 + 0.01])
    assert codes_of(beyond).tolist() == [code - 1, min(code + 1, LARGEST_CODE)]


@given(st.floats(-1.5 * LARGEST_VALUE, 1.5 * LARGEST_VALUE))
def test_no_code_is_nearer_than_the_one_that_is_taken(number: float) -> None:
    taken = int(codes_of(np.array([number]))[0])
    distances = np.abs(values_of(ALL_CODES) - number)
    assert distances[taken + LARGEST_CODE] == distances.min()


def test_a_gallery_packs_what_codes_stand_for_and_gives_the_codes_back() -> None:
    """Every code in every lane, through both ways into a gallery: packed as a chunk, and put into a slot."""
    model = isotropic_model(40)
    templates = np.resize(ALL_CODES, (N, 40))
    packed = ring.centred(ring.inverse(pack_templates(templates).chunk_eval(0))).T
    assert (packed == values_of(templates)).all()
    assert packed.max() == LARGEST_VALUE

    gallery = gallery_of(model, templates[:300])
    slot = gallery.add(300, templates[300])
    held = ring.centred(ring.inverse(gallery.words.chunk_eval(slot // N))).T
    assert (held[slot % N] == values_of(templates[300])).all()
    assert (gallery.chunk_templates(slot // N)[slot % N] == templates[300]).all()
