"""Two holders with the same people in their galleries: nobody tells that from what leaves the nodes, nor which record is which.

A secret transform of the templates for each holder, which the field knows for that, is not possible here: one probe is for all holders, and
inner products with it must mean the same everywhere (docs/renewal.md). What keeps galleries apart is that no template leaves a node in any
form, that everything which stands for one is salted or keyed by its node, and that scores come without rows, in an order of one answer.
The worst case is tried: the very same photographs at both.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import select

from agency_node.gallery_tables import records, stubs
from agency_node.holder import blocks
from agency_node.holder.records import RecordStore
from agency_node.store import DATABASE_FILE, open_store
from agency_node.vault import Vault
from crypto.codes import Codes
from crypto.gallery import PackedGallery
from crypto.opening import middle
from crypto.prepared import A_BITS, B_BITS, answer_order
from crypto.ring import F64, N
from tests.node_world import MODEL as NODE_MODEL
from tests.node_world import World, gallery_records
from tests.sample_federation import EASTFIELD, LAKESIDE, NORTHPORT, NOW, OVERSIGHT
from tests.simulation import Search, directions, gallery_of, isotropic_model, search

MODEL = isotropic_model(64)
PEOPLE, PROBES, TRIALS = 1_000, 1, 16
COPIES, MANY = 5, 3_000
RANDOM = 8
"""Of the 16 bytes of a window: so many that are no text."""
SURE = 5
"""Standard deviations."""

View = Callable[[Search, PackedGallery], F64]
"""What a party makes of one answer: numbers in the order in which it has them."""


def by_position(found: Search, _gallery: PackedGallery) -> F64:
    """The custodian's: unmasked scores, in the order of the answer."""
    return found.cosines()


def masked(found: Search, _gallery: PackedGallery) -> F64:
    """The requester's: what it opened, at the slots that the order's seed tells it."""
    order = answer_order(found.secrets.order_seed, found.answer.slots)
    return middle(found.opened.values, 16)[order].astype(np.float64)


def ciphertext(found: Search, _gallery: PackedGallery) -> F64:
    """Anybody's who has the answer: its words."""
    words = [middle(w, bits).reshape(-1) for w, bits in ((found.answer.a_rounded, A_BITS), (found.answer.b_rounded, B_BITS))]
    return np.concatenate(words).astype(np.float64)


def without_order(found: Search, gallery: PackedGallery) -> F64:
    """The mutation: scores by row, as an answer without layout and order would have them."""
    return found.row_cosines(gallery.layout.rows)[:PEOPLE]


def without_mask(found: Search, gallery: PackedGallery) -> F64:
    """The mutation: what the requester would open without a mask, under a layout that is none."""
    slots = np.argsort(np.where(gallery.layout.rows < 0, PEOPLE, gallery.layout.rows), kind="stable")
    order = answer_order(found.secrets.order_seed, found.answer.slots)
    kept = found.cosines()[order]
    return np.delete(kept.reshape(-1, N), found.secrets.calibration_place, axis=0).reshape(-1)[slots][:PEOPLE]


def correlation(one: list[F64], other: list[F64]) -> float:
    """Of what a party saw of two holders, place by place; the mean over the probes that it sent to both."""
    return float(np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(one, other, strict=True)]))


@pytest.fixture(scope="module")
def seen() -> list[tuple[dict[str, float], dict[str, float]]]:
    """For each trial and each view: how alike the answers of two holders of the same people are, and of two of different people."""
    rng = np.random.default_rng(29)
    views: dict[str, View] = {one.__name__: one for one in (by_position, masked, ciphertext, without_order, without_mask)}
    trials = []
    for _ in range(TRIALS):
        people, others = (MODEL.templates(directions(rng, PEOPLE, 64)) for _ in range(2))
        galleries = [gallery_of(MODEL, one) for one in (people, people, others)]
        probes = [MODEL.probe_vector(one) for one in directions(rng, PROBES, 64)]
        made = [[(search(gallery, probe), gallery) for probe in probes] for gallery in galleries]
        looked = {name: [[view(*one) for one in holder] for holder in made] for name, view in views.items()}
        same = {name: correlation(holders[0], holders[1]) for name, holders in looked.items()}
        different = {name: correlation(holders[0], holders[2]) for name, holders in looked.items()}
        trials.append((same, different))
    return trials


@pytest.mark.rule("R29")
@pytest.mark.parametrize("view", ["by_position", "masked", "ciphertext"])
def test_answers_of_two_holders_do_not_tell_that_they_hold_the_same_people(seen: list[tuple[dict[str, float], ...]], view: str) -> None:
    """R29: which of two other holders has the same gallery as the first? A guess, for custodian, requester and whoever has the answers."""
    right = sum(same[view] > different[view] for same, different in seen)
    correlations = np.array([[same[view], different[view]] for same, different in seen])
    print(f"{view}: linked {right} of {TRIALS}, largest correlation {np.abs(correlations).max():.4f}")
    assert np.abs(correlations[:, 0].mean() - correlations[:, 1].mean()) < SURE * correlations.std() * np.sqrt(2 / TRIALS)
    assert np.abs(correlations).max() < SURE / np.sqrt(PROBES * PEOPLE)
    assert right < TRIALS


@pytest.mark.parametrize("view", ["without_order", "without_mask"])
def test_without_order_or_mask_they_do(seen: list[tuple[dict[str, float], ...]], view: str) -> None:
    """The control: the same attack finds the same people each time when a defence is taken away."""
    assert all(same[view] > 0.9 and abs(different[view]) < 0.2 for same, different in seen)


def test_one_probe_shows_a_custodian_two_copies_of_one_gallery() -> None:
    """A limit, stated in docs/renewal.md: one probe's sorted scores are those of one set of templates, wherever it lies."""
    rng = np.random.default_rng(30)
    copies = 0
    for _ in range(COPIES):
        people, strangers = (MODEL.templates(directions(rng, MANY, 64)) for _ in range(2))
        probe = MODEL.probe_vector(directions(rng, 1, 64)[0])
        first, copy, other = (
            np.sort(search(gallery_of(MODEL, one), probe).holder_scores(MANY).cosines()) for one in (people, people, strangers)
        )
        copies += np.abs(first - copy).mean() < np.abs(first - other).mean()
    print(f"copies {copies} of {COPIES}")
    assert copies >= COPIES - 1


# --- what stands for templates and records ----------------------------------------------------------------------------


def two_stores(folder: Path, templates: list[Codes]) -> list[RecordStore]:
    """Two nodes' stores of the same records."""
    made = []
    for name in ("one", "other"):
        (folder / name).mkdir()
        store = RecordStore(open_store(folder / name / DATABASE_FILE), Vault(name.encode().ljust(32, b"-")), NODE_MODEL)
        store.add(gallery_records(), NOW)
        made.append(store)
    return made


def leaving(store: RecordStore) -> set[bytes]:
    """Commitments and tags of a gallery: all that is made from templates and record numbers."""
    with store._engine.begin() as connection:
        tree = store._blocks.commitment(connection, store.changes())
        tags = {bytes(one) for one in connection.execute(select(records.c.tag)).scalars()}
    return {tree.root(), store.commitment()} | tags


@pytest.mark.rule("R29")
def test_commitments_and_tags_of_the_same_records_have_nothing_in_common(tmp_path: Path) -> None:
    """R29."""
    one, other = two_stores(tmp_path, [])
    assert (one.templates() == other.templates()).all()
    assert not leaving(one) & leaving(other)


def test_without_salts_the_commitments_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control."""
    monkeypatch.setattr(blocks, "_SALT_BYTES", 0)
    one, other = two_stores(tmp_path, [])
    assert one.commitment() == other.commitment()


@pytest.mark.rule("R29")
async def test_messages_and_documents_of_two_nodes_with_one_gallery_share_nothing(tmp_path: Path) -> None:
    """R29: one search at two holders that enrolled the same synthetic people. What both sent is alike in what the search itself says to
    both, and in nothing else."""
    world = World(tmp_path)
    for agency in (NORTHPORT, LAKESIDE, EASTFIELD, OVERSIGHT):
        await world.node(agency)
    await world.granted(holders=(EASTFIELD, LAKESIDE))
    await world.run(rounds=6)
    sent = {agency: [one for one in world.broker.carried if one.header.sender == agency] for agency in (LAKESIDE, EASTFIELD)}
    kinds = {agency: sorted(str(one.header.message_type) for one in messages) for agency, messages in sent.items()}
    sizes = {agency: sorted(len(one.to_bytes()) for one in messages) for agency, messages in sent.items()}
    assert kinds[LAKESIDE] == kinds[EASTFIELD] != []
    assert all(abs(a - b) <= 8 * (len(LAKESIDE) + len(EASTFIELD)) for a, b in zip(*sizes.values(), strict=True))
    said = [[*(one.body for one in sent[agency]), world.broker.manifests[agency]] for agency in (LAKESIDE, EASTFIELD)]
    known = [one.to_bytes() for one in world.broker.carried if one.header.sender not in sent]
    assert shared(said[0], said[1], known) == 0
    template = [bytes(one) for one in (world.nodes[agency].index.records.templates()[3] for agency in (LAKESIDE, EASTFIELD))]
    assert shared([*said[0], template[0]], [*said[1], template[1]], known) > 0  # the control: one template, in the clear, at both
    shown = [{row.handle for row in world.nodes[agency].rows(stubs)} for agency in (LAKESIDE, EASTFIELD)]
    assert shown[0]
    assert shown[1]
    assert not shown[0] & shown[1]
    roots = [world.nodes[agency].index.manifest for agency in (LAKESIDE, EASTFIELD)]
    assert all(one is not None for one in roots)
    assert all(a is not None and b is not None and a.gallery_root != b.gallery_root for a, b in pairwise(roots))
    world.close()


def shared(one: list[bytes], other: list[bytes], but: list[bytes]) -> int:
    """How many windows of 16 bytes stand in both, and not in what everybody knows; those that are mostly text are of a form."""
    mine, others, known = ({data[at : at + 16] for data in given for at in range(len(data) - 15)} for given in (one, other, but))
    return sum(sum(not 32 <= byte < 127 for byte in window) >= RANDOM for window in (mine & others) - known)
