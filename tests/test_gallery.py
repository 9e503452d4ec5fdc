"""Layouts, packing, the scan and rewriting one record."""

from __future__ import annotations

import numpy as np
import pytest

from crypto import ring
from crypto.bases import public_bases
from crypto.codes import codes_of, values_of
from crypto.embedding import filler_templates
from crypto.epoch import Epoch
from crypto.errors import LayoutSpentError, MisuseError
from crypto.gallery import PackedGallery, pack_templates
from crypto.layout import FILLER, LAYOUT_USES, SPARE_SLOTS, Layout, kept_fillers
from crypto.ordered_probe import OrderedProbe
from crypto.packed_words import PackedWords
from crypto.parameters import Scales
from crypto.ring import N, Q
from crypto.scan import scan_words
from crypto.seed import Seed, permutation
from tests import reference
from tests.simulation import EPOCH, directions, gallery_of, isotropic_model

MODEL = isotropic_model(64)
RNG = np.random.default_rng(11)
TEMPLATES = MODEL.templates(directions(RNG, 3000, 64))


# --- layouts ---


@pytest.mark.parametrize("records", [0, 1, 943, 944, 945, 1023, 1024, 1025, 5000])
def test_every_record_has_one_slot_and_some_are_free(records: int) -> None:
    layout = Layout.draw(np.arange(records), MODEL.scales)
    assert layout.rows.size % N == 0
    assert sorted(layout.rows[layout.rows != FILLER]) == list(range(records))
    per_chunk = (layout.rows.reshape(-1, N) == FILLER).sum(axis=1)
    assert per_chunk.min() >= kept_fillers(MODEL.scales) + SPARE_SLOTS
    assert per_chunk.max() - per_chunk.min() <= 1


def test_layouts_are_secret_fresh_and_replayable() -> None:
    rows = np.arange(1000)
    first, second = Layout.draw(rows, MODEL.scales), Layout.draw(rows, MODEL.scales)
    assert (first.rows == second.rows)[first.rows != FILLER].mean() < 0.02
    assert (Layout.draw(rows, MODEL.scales, seed=first.seed).rows == first.rows).all()
    assert "redacted" in repr(first)
    assert str(int(first.rows[0])) not in repr(first).replace("chunks=1", "")


def test_order_is_uniform() -> None:
    """Where a given row lies, over many layouts: each quarter of the slots equally often."""
    quarters = np.bincount([Layout.draw(np.arange(500), MODEL.scales).slot_of(7) // (N // 4) for _ in range(400)], minlength=4)
    assert quarters.sum() == 400
    assert np.abs(quarters - 100).max() < 45  # five standard deviations


def test_a_layout_serves_sixteen_searches_and_no_case_twice() -> None:
    layout = Layout.draw(np.arange(10), MODEL.scales)
    layout.claim(b"case")
    with pytest.raises(LayoutSpentError, match="case"):
        layout.claim(b"case")
    for number in range(LAYOUT_USES - 1):
        layout.claim(b"other %d" % number)
    with pytest.raises(LayoutSpentError, match="searches"):
        layout.claim(b"one too many")


def test_fillers_hide_a_change_at_every_dimension() -> None:
    """More min-entropy in the fillers of a chunk than one ring element holds; the figures that docs state."""
    assert (kept_fillers(Scales(512)), kept_fillers(Scales(128))) == (11, 35)
    for dimensions in (8, 64, 128, 512, 632):
        scales = Scales(dimensions)
        coordinates = filler_templates(Seed(bytes(32)), 2_000_000 // dimensions, scales)
        most_likely = np.bincount(coordinates.reshape(-1).astype(np.int64) + 127).max() / coordinates.size
        assert kept_fillers(scales) * dimensions * -np.log2(most_likely) > 27 * N


def test_a_layout_without_enough_fillers_is_refused() -> None:
    rows = np.arange(N, dtype=np.int64)
    rows[: kept_fillers(MODEL.scales)] = FILLER
    Layout(rows.copy(), MODEL.scales, Seed.fresh())
    rows[0] = 5000
    with pytest.raises(MisuseError, match="fillers"):
        Layout(rows, MODEL.scales, Seed.fresh())


@pytest.mark.parametrize(
    "rows", [np.zeros(5, np.int64), np.full(N, -2), np.zeros(N, np.int64), np.zeros(N, np.float64), np.zeros(0, np.int64)]
)
def test_impossible_layouts_are_refused(rows: ring.I64) -> None:
    with pytest.raises(MisuseError):
        Layout(rows, MODEL.scales, Seed.fresh())


# --- packing and scanning ---


def test_packing_is_the_transform_of_the_templates() -> None:
    templates = TEMPLATES[:N]
    coefficients = ring.from_signed(values_of(templates).T)
    assert (pack_templates(templates).chunk_eval(0) == ring.forward(coefficients)).all()


def test_chunks_come_back_with_records_and_fillers_in_place() -> None:
    gallery = gallery_of(MODEL, TEMPLATES)
    back = np.concatenate([gallery.chunk_templates(chunk) for chunk in range(gallery.layout.chunks)])
    held = gallery.layout.rows != FILLER
    assert (back[held] == TEMPLATES[gallery.layout.rows[held]]).all()
    norms = np.linalg.norm(values_of(back[~held]).astype(float), axis=1)
    assert norms == pytest.approx(MODEL.scales.gamma, rel=0.02)


def test_an_auditor_rebuilds_the_gallery_from_seed_rows_and_changes() -> None:
    gallery = gallery_of(MODEL, TEMPLATES[:1500])
    gallery.remove(3)
    gallery.add(1500, TEMPLATES[1500])
    again = PackedGallery.pack(MODEL, Layout.draw(np.arange(1500), MODEL.scales, seed=gallery.layout.seed), TEMPLATES[:1500])
    assert again.layout.state_id() != gallery.layout.state_id()
    again.remove(3)
    again.add(1500, TEMPLATES[1500])
    assert (again.words.flat == gallery.words.flat).all()
    assert again.layout.state_id() == gallery.layout.state_id()


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_scan_is_the_plain_formula(threads: int) -> None:
    words = RNG.integers(0, Q, (5, 16, N), dtype=np.uint32)
    probes = RNG.integers(0, Q, (3, 16, N), dtype=np.uint32)
    packed = PackedWords.of(words)
    ordered = [OrderedProbe(probe) for probe in probes]
    out = scan_words(packed, ordered, threads=threads)
    for k in range(3):
        for chunk in (0, 2, 4):
            assert out[k, chunk].tolist() == reference.inner_products_mod_q(words[chunk].tolist(), probes[k].tolist())
    assert (scan_words(packed, ordered[1:2]) == out[1:2]).all()


def test_scan_refuses_what_does_not_fit() -> None:
    packed, probe = PackedWords(2, 16), np.zeros((16, N), np.uint32)
    for bad in (probe[0], probe[None], probe[:0], probe[:, ::2], probe.astype(np.int64), np.full((16, N), Q, np.uint32)):
        with pytest.raises(MisuseError):
            OrderedProbe(bad)  # type: ignore[arg-type]
    for none_fit in ([], [OrderedProbe(probe[:8])], [OrderedProbe(probe), OrderedProbe(probe[:8])]):
        with pytest.raises(MisuseError, match="as many dimensions"):
            scan_words(packed, none_fit)


# --- changing one record ---


def test_adding_and_removing_rewrites_one_chunk() -> None:
    gallery = gallery_of(MODEL, TEMPLATES[:2500])
    november, december = gallery.fixed_part(EPOCH), gallery.fixed_part(Epoch("2026-12"))
    before, state = [gallery.words.chunk_eval(c) for c in range(gallery.layout.chunks)], gallery.layout.state_id()
    slot = gallery.layout.slot_of(1234)
    assert gallery.remove(1234) == slot
    assert gallery.layout.state_id() != state
    changed = [c for c in range(gallery.layout.chunks) if (gallery.words.chunk_eval(c) != before[c]).any()]
    assert changed == [slot // N]
    templates = gallery.chunk_templates(slot // N)
    old = codes_of(ring.centred(ring.inverse(before[slot // N])).T)
    # the slot and every filler of its chunk are new, every other record is untouched
    free = np.flatnonzero(gallery.layout.rows[slot // N * N :][:N] == FILLER)
    assert np.flatnonzero((templates != old).any(axis=1)).tolist() == free.tolist()
    assert slot % N in free
    assert not (templates == TEMPLATES[1234]).all(axis=1).any()
    for epoch, part in ((EPOCH, november), (Epoch("2026-12"), december)):
        assert gallery.fixed_part(epoch) is part
        assert (part == scan_words(gallery.words, [OrderedProbe(public_bases(epoch, 64)[:-1])])[0]).all()

    new = gallery.add(2500, TEMPLATES[2500])
    assert (gallery.chunk_templates(new // N)[new % N] == TEMPLATES[2500]).all()
    assert gallery.layout.slot_of(2500) == new
    assert (november == scan_words(gallery.words, [OrderedProbe(public_bases(EPOCH, 64)[:-1])])[0]).all()


def test_a_free_slot_is_drawn_among_all_that_a_chunk_can_spare() -> None:
    """An auditor finds the same one from the rows alone, whatever was added and removed before."""
    layout = Layout.draw(np.arange(2800), MODEL.scales)
    for number in range(120):
        rows = layout.rows.reshape(-1, N)
        spare = (rows == FILLER).sum(axis=1) > layout.kept_fillers
        free = np.flatnonzero((rows == FILLER) & spare[:, None])
        assert layout.free_slot() == free[permutation(layout.change_seed(), "free-slot", free.size)[0]]
        layout.put(layout.slot_of(number // 3) if number % 3 == 2 else layout.free_slot(), FILLER if number % 3 == 2 else 2800 + number)


def test_records_added_find_free_slots_until_there_are_none() -> None:
    gallery = gallery_of(MODEL, TEMPLATES[:1000])
    free = int((gallery.layout.rows == FILLER).sum()) - gallery.layout.chunks * kept_fillers(MODEL.scales)
    slots = [gallery.add(1000 + number, TEMPLATES[number]) for number in range(free)]
    assert len(set(slots)) == free
    assert ((gallery.layout.rows.reshape(-1, N) == FILLER).sum(axis=1) == kept_fillers(MODEL.scales)).all()
    with pytest.raises(LayoutSpentError, match="free"):
        gallery.add(1000 + free, TEMPLATES[0])


def test_changes_refuse_what_does_not_fit() -> None:
    gallery = gallery_of(MODEL, TEMPLATES[:10])
    for row, template in ((-1, TEMPLATES[0]), (3, TEMPLATES[0]), (10, TEMPLATES[0][:8]), (10, TEMPLATES[0].astype(np.int16))):
        with pytest.raises(MisuseError):
            gallery.add(row, template)
    for row in (10, -1):
        with pytest.raises(MisuseError):
            gallery.remove(row)
    with pytest.raises(MisuseError):
        PackedGallery.pack(MODEL, Layout.draw(np.arange(11), MODEL.scales), TEMPLATES[:10])
    with pytest.raises(MisuseError):
        PackedGallery.pack(MODEL, Layout.draw(np.arange(10), MODEL.scales), TEMPLATES[:10].astype(np.int16))


def test_old_epochs_are_forgotten() -> None:
    gallery = gallery_of(MODEL, TEMPLATES[:10])
    old = gallery.fixed_part(Epoch("2026-09"))
    gallery.fixed_part(Epoch("2026-11"))
    assert gallery.fixed_part(Epoch("2026-09")) is not old
