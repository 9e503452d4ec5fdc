"""One search end to end inside one process: exact against SEAL, close to floating point, complete at every place."""

from __future__ import annotations

import faiss
import numpy as np
import pytest

from crypto import ring
from crypto.answer import Answer, AnswerRequest, MaskShare, OrderSeed, answer, replay_answer
from crypto.codes import values_of
from crypto.embedding import EmbeddingModel
from crypto.errors import AnswerError, EncodingError, FieldError, MisuseError, ModelError, NotCanonicalError, TruncatedError, VersionError
from crypto.gallery import PackedGallery
from crypto.impostors import ImpostorTable
from crypto.layout import FILLER, Layout
from crypto.opening import Y16, _open_exact, middle, open_answer
from crypto.parameters import LARGEST_CODE, LARGEST_VALUE, TAIL_START, TAIL_STEP
from crypto.prepared import A_BITS, B_BITS
from crypto.probe import Probe, SearchKey, _encrypt, make_probe
from crypto.release import ReleaseTerms, release
from crypto.ring import N
from crypto.seal import KeyPair
from crypto.seed import Seed
from tests import reference
from tests.simulation import EPOCH, GRANT_DIGEST, NORTHPORT, Search, answered, at_cosine, directions, gallery_of, isotropic_model, search
from tests.test_seal import scaled_and_rounded

MODEL = isotropic_model(64)


def test_seals_decryptor_and_our_opening_agree_on_every_chunk() -> None:
    """Word for word, on the very words a requester receives, for honest and for masked values alike."""
    rng = np.random.default_rng(1)
    model = isotropic_model(128)
    gallery = gallery_of(model, model.templates(directions(rng, 3000, 128)))
    pair = KeyPair()
    probe = _encrypt(pair, model.model_hash, model.probe_vector(directions(rng, 1, 128)[0]), EPOCH)
    key = SearchKey(pair.secret_eval())
    for _ in range(3):
        ((made, _secrets),) = answer(gallery, [AnswerRequest(probe, GRANT_DIGEST)])
        a, b = (middle(words, bits).reshape(-1, N) for words, bits in ((made.a_rounded, A_BITS), (made.b_rounded, B_BITS)))
        exact = _open_exact(a, b, key)
        for chunk in range(made.slots // N):
            assert (pair.decrypt(b[chunk], a[chunk]) == scaled_and_rounded(exact[chunk])).all()


@pytest.mark.parametrize("dimensions", [512, 128])
def test_accuracy_over_100_000_records(dimensions: int) -> None:
    """Noise alone against the quantised vectors, noise and rounding against floating point, and FAISS's twenty best."""
    rng = np.random.default_rng(dimensions)
    model = isotropic_model(dimensions)
    vectors = directions(rng, 100_000, dimensions)
    sought = at_cosine(rng, vectors[4711], 0.62)
    templates, probe_vector = model.templates(vectors), model.probe_vector(sought)
    gallery = gallery_of(model, templates)
    found = search(gallery, probe_vector)
    cosines = found.row_cosines(gallery.layout.rows)
    assert not np.isnan(cosines).any()

    noise = cosines - reference.cosines_in_the_clear(templates, probe_vector, model.scales.gamma, model.scales.mu)
    assert np.abs(noise).max() < 6 * model.scales.noise_sd
    assert noise.std() == pytest.approx(model.scales.noise_sd, rel=0.03)  # the derivation is right, not merely large enough
    assert abs(noise.mean()) < 6 * model.scales.noise_sd / np.sqrt(noise.size)

    error = cosines - vectors @ sought
    rms, largest = float(np.sqrt((error**2).mean())), float(np.abs(error).max())
    print(f"D={dimensions}: rms {rms:.5f}, max {largest:.5f}, derived {model.scales.error_sd:.5f}")
    assert rms < 0.0015
    assert largest < 0.007
    assert rms == pytest.approx(model.scales.error_sd, rel=0.03)

    index = faiss.IndexFlatIP(dimensions)
    index.add(vectors)
    clear, rows = index.search(sought[None].astype(np.float32), 21)
    ours = np.argsort(-cosines)[:20]
    assert ours[0] == rows[0, 0] == 4711
    # whoever stands in one list and not in the other is within the error of the boundary between them
    for row in set(ours.tolist()) ^ set(rows[0, :20].tolist()):
        assert abs(float(vectors[row] @ sought) - clear[0, 19]) < 2 * largest


def test_accuracy_at_coordinates_far_in_the_tail() -> None:
    """Records with a coordinate of five to six and a half standard deviations, and a probe that is strong there: within the bounds, where
    clipping at 127 alone, the largest code, would move every one of these scores by twice the larger bound."""
    rng = np.random.default_rng(128)
    model = isotropic_model(128)
    vectors = directions(rng, 5001, 128).astype(np.float64)
    first = np.append(rng.uniform(5.0, 6.5, 5000) / np.sqrt(128), 0.18)
    vectors[:, 1:] *= (np.sqrt(1 - first**2) / np.linalg.norm(vectors[:, 1:], axis=1))[:, None]
    vectors[:, 0] = first
    vectors, sought = vectors[:5000], vectors[5000]
    templates = model.templates(vectors)
    tail = values_of(templates)[:, 0]
    assert tail.min() > TAIL_START + 5 * TAIL_STEP
    assert tail.max() < LARGEST_VALUE

    gallery = gallery_of(model, templates)
    error = search(gallery, model.probe_vector(sought)).row_cosines(gallery.layout.rows) - vectors @ sought
    assert float(np.sqrt((error**2).mean())) < 0.0015
    assert float(np.abs(error).max()) < 0.007
    clipped = np.clip(model.scales.gamma * vectors, -LARGEST_CODE, LARGEST_CODE) / model.scales.gamma
    assert float(np.abs((clipped - vectors) @ sought).min()) > 0.014


PLACES = [(chunk, slot) for chunk in (0, 2, 4) for slot in (0, 1, 511, 1022, 1023)]


def test_found_at_every_place_in_200_random_orders() -> None:
    """Fifteen portraits of the sought person at the corners of first, middle and last chunk, all found in each of 200 answers; a record at
    minus the score, where a sign lost in the ring would put it, is never released."""
    rng = np.random.default_rng(2)
    person = directions(rng, 1, 64)[0]
    vectors = directions(rng, 4000, 64)
    vectors[: len(PLACES)] = [at_cosine(rng, person, 0.95) for _ in PLACES]
    vectors[len(PLACES) : 2 * len(PLACES)] = [-at_cosine(rng, person, 0.95) for _ in PLACES]
    rows = np.full(5 * N, FILLER)
    free = np.setdiff1d(np.arange(5 * N), [chunk * N + slot for chunk, slot in PLACES])
    rows[[chunk * N + slot for chunk, slot in PLACES]] = np.arange(len(PLACES))
    rows[rng.choice(free, 4000 - len(PLACES), replace=False)] = np.arange(len(PLACES), 4000)
    gallery = PackedGallery.pack(MODEL, Layout(rows, MODEL.scales, Seed.fresh(), uses=1000), MODEL.templates(vectors))
    probe, key = make_probe(MODEL, MODEL.probe_vector(person), EPOCH)
    table = ImpostorTable.isotropic(MODEL.model_hash, 64)
    terms = ReleaseTerms(GRANT_DIGEST, 20, 10)
    requests = [AnswerRequest(probe, GRANT_DIGEST)] * 20
    positions_seen = set()
    for _ in range(10):
        for made, secrets in answer(gallery, requests):
            opened = open_answer(made, OrderSeed(made.digest, secrets.order_seed), probe, key)
            one = Search(MODEL, probe, key, made, secrets, opened)
            released = release(terms, table, [one.holder_scores(4000)]).to_holders[NORTHPORT]
            positions = np.array([position for _, position in released.leads], np.uint32)
            assert sorted(secrets.rows_at(gallery.layout.rows, positions, still_held=gallery.layout.rows)) == list(range(len(PLACES)))
            positions_seen.add(positions.tobytes())
    assert len(positions_seen) == 200


@pytest.mark.parametrize("records", [1, 1023, 1024, 1025])
def test_small_galleries(records: int) -> None:
    rng = np.random.default_rng(records)
    vectors = directions(rng, records, 64)
    gallery = gallery_of(MODEL, MODEL.templates(vectors))
    sought = records - 1
    found = search(gallery, MODEL.probe_vector(at_cosine(rng, vectors[sought], 0.9)))
    scores = found.holder_scores(records)
    released = release(ReleaseTerms(GRANT_DIGEST, 5, 10), ImpostorTable.isotropic(MODEL.model_hash, 64), [scores])
    leads = released.to_holders[NORTHPORT].leads
    assert found.rows(gallery.layout.rows)[[p for _, p in leads]].tolist() == [sought]


def test_fillers_calibration_and_removed_records_answer_as_withdrawn() -> None:
    rng = np.random.default_rng(9)
    vectors = directions(rng, 901, 64)
    templates = MODEL.templates(vectors)
    gallery = gallery_of(MODEL, templates[:900])
    found = search(gallery, MODEL.probe_vector(vectors[0]))
    then = gallery.layout.rows.copy()
    rows = found.rows(then)
    assert rows.size == 2 * N
    assert (rows != FILLER).sum() == 900
    assert (rows[found.secrets.places.basis] == FILLER).all()
    assert (rows[found.secrets.places.zeros] == FILLER).all()

    # a record removed between answer and release is withdrawn, and one that took a slot meanwhile is not named for it
    position = np.flatnonzero(rows == 77).astype(np.uint32)
    slot = gallery.remove(77)
    gallery.layout.put(slot, 900)
    assert found.secrets.rows_at(then, position, still_held=gallery.layout.rows).tolist() == [FILLER]
    with pytest.raises(AnswerError):
        found.secrets.rows_at(then, np.array([2 * N], np.uint32), still_held=then)


def test_several_probes_share_one_pass_and_stay_apart() -> None:
    rng = np.random.default_rng(10)
    vectors = directions(rng, 1500, 64)
    gallery = gallery_of(MODEL, MODEL.templates(vectors))
    made = [make_probe(MODEL, MODEL.probe_vector(vectors[row]), EPOCH) for row in (5, 500, 1400)]
    pairs = answer(gallery, [AnswerRequest(probe, GRANT_DIGEST, custodians=2) for probe, _ in made])
    for (probe, key), (one, secrets), row in zip(made, pairs, (5, 500, 1400), strict=True):
        opened = open_answer(one, OrderSeed(one.digest, secrets.order_seed), probe, key)
        cosines = Search(MODEL, probe, key, one, secrets, opened).row_cosines(gallery.layout.rows)
        assert int(np.argmax(cosines)) == row
    assert answer(gallery, []) == []


def test_masks_of_several_custodians_add_up() -> None:
    rng = np.random.default_rng(12)
    vectors = directions(rng, 500, 64)
    gallery = gallery_of(MODEL, MODEL.templates(vectors))
    found = search(gallery, MODEL.probe_vector(vectors[3]), custodians=3)
    assert len(found.shares) == 3
    assert int(np.argmax(found.row_cosines(gallery.layout.rows))) == 3


def test_everything_random_is_fresh_per_answer() -> None:
    """Two answers to one probe share no stream; the same comparison fails for an answer replayed from its root."""
    rng = np.random.default_rng(13)
    gallery = gallery_of(MODEL, MODEL.templates(directions(rng, 500, 64)))
    probe, key = make_probe(MODEL, MODEL.probe_vector(directions(rng, 1, 64)[0]), EPOCH)
    first, second = answered(gallery, probe, key), answered(gallery, probe, key)

    def shared(one: Search, other: Search) -> list[bool]:
        return [
            one.secrets.order_seed.export_secret() == other.secrets.order_seed.export_secret(),
            one.secrets.mask_seeds[0].export_secret() == other.secrets.mask_seeds[0].export_secret(),
            (one.secrets.places.basis == other.secrets.places.basis).mean() > 0.5,
            (one.answer.a_rounded == other.answer.a_rounded).mean() > 0.01,
            (one.answer.b_rounded == other.answer.b_rounded).mean() > 0.01,
            (one.opened.values == other.opened.values).mean() > 0.01,
        ]

    assert not any(shared(first, second))
    assert all(shared(first, first))
    replayed, secrets = replay_answer(gallery, AnswerRequest(probe, GRANT_DIGEST), first.secrets.root)
    opened = open_answer(replayed, OrderSeed(replayed.digest, secrets.order_seed), probe, key)
    assert all(shared(first, Search(MODEL, probe, key, replayed, secrets, opened)))


def test_unlike_models_never_meet() -> None:
    gallery = gallery_of(MODEL, MODEL.templates(directions(np.random.default_rng(1), 10, 64)))
    other = EmbeddingModel("other", b"\1" * 32, np.zeros(64, np.float32))
    for model in (other, isotropic_model(128)):
        probe, _ = make_probe(model, model.probe_vector(np.ones(model.dimensions)), EPOCH)
        with pytest.raises(ModelError, match="embed the image again"):
            answer(gallery, [AnswerRequest(probe, GRANT_DIGEST)])


def test_an_answer_request_is_checked() -> None:
    probe = Probe(EPOCH, bytes(32), np.zeros((9, N), np.uint32))
    for digest, custodians in ((bytes(31), 1), (bytes(32), 0), (bytes(32), 17)):
        with pytest.raises(MisuseError):
            AnswerRequest(probe, digest, custodians)


# --- bytes of the answer's parts ---


@pytest.fixture(scope="module")
def found() -> Search:
    rng = np.random.default_rng(21)
    gallery = gallery_of(MODEL, MODEL.templates(directions(rng, 100, 64)))
    return search(gallery, MODEL.probe_vector(directions(rng, 1, 64)[0]))


def test_answer_bytes_round_trip(found: Search) -> None:
    data = found.answer.to_bytes()
    again = Answer.from_bytes(data)
    assert again.to_bytes() == data
    assert again.digest == found.answer.digest
    assert len(data) == 84 + found.answer.slots * 27 // 8


def test_y16_bytes_round_trip(found: Search) -> None:
    data = found.opened.to_bytes()
    again = Y16.from_bytes(data)
    assert (again.values == found.opened.values).all()
    assert again.digest == found.opened.digest
    assert len(data) == 41 + 2 * found.opened.values.size


def test_seed_messages_round_trip(found: Search) -> None:
    order = OrderSeed(found.answer.digest, found.secrets.order_seed)
    assert OrderSeed.from_bytes(order.to_bytes()).seed.export_secret() == order.seed.export_secret()
    (share,) = found.shares
    again = MaskShare.from_bytes(share.to_bytes())
    assert again.to_bytes() == share.to_bytes()
    assert (again.slots, again.answer_digest) == (share.slots, share.answer_digest)


@pytest.mark.parametrize("what", ["answer", "opened", "order", "share"])
def test_malformed_parts(found: Search, what: str) -> None:
    parts: dict[str, Answer | Y16 | OrderSeed | MaskShare] = {
        "answer": found.answer,
        "opened": found.opened,
        "order": OrderSeed(found.answer.digest, found.secrets.order_seed),
        "share": found.shares[0],
    }
    made = parts[what]
    data, parse = made.to_bytes(), type(made).from_bytes
    for change, error in (
        (data[:-1], TruncatedError),
        (data[:3], TruncatedError),
        (b"", TruncatedError),
        (data + b"\0", NotCanonicalError),
        (b"SX" + data[2:], VersionError),
        (data[:3] + b"\x09" + data[4:], VersionError),
    ):
        with pytest.raises(error):
            parse(change)


def test_answer_with_tags_is_of_a_later_version(found: Search) -> None:
    data = found.answer.to_bytes()
    with pytest.raises(FieldError):
        Answer.from_bytes(data[:82] + b"\0\1" + data[84:])


def test_calibration_places_must_be_one_chunks(found: Search) -> None:
    data = found.shares[0].to_bytes()
    for change in (
        data[:107] + data[111:115] + data[111:],
        data[:-4] + b"\xff\xff\xff\xff",
        data[:107] + data[111:115] + data[107:111] + data[115:],
    ):
        with pytest.raises((AnswerError, EncodingError)):
            MaskShare.from_bytes(change)


def test_opening_refuses_what_does_not_belong_together(found: Search) -> None:
    rng = np.random.default_rng(22)
    gallery = gallery_of(MODEL, MODEL.templates(directions(rng, 100, 64)))
    other = search(gallery, MODEL.probe_vector(directions(rng, 1, 64)[0]))
    order = OrderSeed(found.answer.digest, found.secrets.order_seed)
    with pytest.raises(AnswerError, match="another probe"):
        open_answer(found.answer, order, other.probe, other.key)
    with pytest.raises(AnswerError, match="another answer"):
        open_answer(found.answer, OrderSeed(other.answer.digest, other.secrets.order_seed), found.probe, found.key)


def test_middle_of_each_interval() -> None:
    for bits in (11, 16):
        dropped = 27 - bits
        words = np.array([0, 5, ring.Q - 1], np.uint32)
        back = middle(words >> np.uint32(dropped), bits).astype(np.int64)
        assert (np.abs(back - words.astype(np.int64)) <= 1 << (dropped - 1)).all()
        assert back.max() < ring.Q
