"""A requester that breaks the rules: forged probes, two answers under one seed, differences between answers, the shape of what it sees."""

from __future__ import annotations

import numpy as np
import pytest

from crypto import ring
from crypto.answer import AnswerRequest, replay_answer
from crypto.bases import public_bases
from crypto.codes import values_of
from crypto.errors import CalibrationError
from crypto.gallery import PackedGallery, pack_templates
from crypto.opening import _open_exact, middle
from crypto.ordered_probe import OrderedProbe
from crypto.parameters import LARGEST_VALUE, SEALMATCH_1
from crypto.prepared import B_BITS, answer_order, mask_total
from crypto.probe import Probe, SearchKey, _encrypt
from crypto.ring import I32, N, Q
from crypto.scan import scan_words
from crypto.seal import KeyPair
from crypto.seed import Seed
from tests.simulation import EPOCH, GRANT_DIGEST, answered, blind, directions, gallery_of, isotropic_model
from tests.test_seed import chi_square

MODEL = isotropic_model(64)
RNG = np.random.default_rng(31)
VECTORS = directions(RNG, 2000, 64)
TEMPLATES = MODEL.templates(VECTORS)
GALLERY = gallery_of(MODEL, TEMPLATES, uses=100_000)
FACES = directions(RNG, 2, 64)


def forged(constants: I32, *, at_x: dict[int, I32] | None = None) -> tuple[Probe, SearchKey]:
    """A probe of any constants, with further plaintext at powers of X; a requester can write this without SEAL's help."""
    pair = KeyPair()
    probe = _encrypt(pair, MODEL.model_hash, constants, EPOCH)
    added = np.zeros((65, N), np.int64)
    for power, values in (at_x or {}).items():
        added[:64, power] = np.rint(values.astype(np.int64) * (Q / SEALMATCH_1.plain_modulus))
    words = ring.add(probe.words_eval, ring.forward(ring.from_signed(added)))
    return Probe.rounded(EPOCH, MODEL.model_hash, words), SearchKey(pair.secret_eval())


HONEST = MODEL.probe_vector(FACES[0])
OTHER = MODEL.probe_vector(FACES[1])


def scaled(factor: float) -> I32:
    return np.asarray(np.rint(HONEST * factor), np.int32)


# --- calibration: what the custodian refuses ---


@pytest.mark.parametrize("factor", [0.98, 1.0, 1.02])
def test_honest_probes_pass(factor: float) -> None:
    for _ in range(10):
        probe, key = forged(scaled(factor))
        answered(GALLERY, probe, key).holder_scores(2000)


REFUSED = {
    "scaled by 0.9": lambda: forged(scaled(0.9)),
    "scaled by 1.1": lambda: forged(scaled(1.1)),
    "scaled by -1.1": lambda: forged(scaled(-1.1)),
    "zero": lambda: forged(np.zeros(64, np.int32)),
    "two persons at X^0 and X^1": lambda: forged(HONEST, at_x={1: OTHER}),
    "one person at X^1 alone": lambda: forged(np.zeros(64, np.int32), at_x={1: HONEST}),
    "a tenth of a person at X^700": lambda: forged(HONEST, at_x={700: np.rint(OTHER * 0.1).astype(np.int32)}),
    "one coordinate": lambda: forged(np.eye(1, 64, 5, dtype=np.int32)[0] * 20),
    "two persons packed as digits": lambda: forged((HONEST // 32 + 64 * (OTHER // 32)).astype(np.int32)),
    "two persons added up": lambda: forged(HONEST + OTHER),
}


@pytest.mark.parametrize("case", REFUSED)
def test_forged_probes_are_refused(case: str) -> None:
    probe, key = REFUSED[case]()
    with pytest.raises(CalibrationError, match="refuse the search and report it") as caught:
        answered(GALLERY, probe, key).holder_scores(2000)
    assert not any(character.isdigit() for character in str(caught.value).replace("0.97..1.03", ""))


def test_random_words_are_refused() -> None:
    probe = Probe(EPOCH, MODEL.model_hash, RNG.integers(0, Q // 2 + 1, (65, N), dtype=np.uint32))
    with pytest.raises(CalibrationError):
        answered(GALLERY, probe, SearchKey(KeyPair().secret_eval())).holder_scores(2000)


def test_calibration_stands_at_another_place_in_every_answer() -> None:
    probe, key = forged(HONEST)
    places = [answered(GALLERY, probe, key).secrets for _ in range(12)]
    assert len({secret.calibration_place for secret in places}) > 1
    assert len({secret.places.basis.tobytes() for secret in places}) == 12


# --- two answers under one seed ---

DIGITS = np.array([1, 1 << 9, 1 << 18], np.uint32)


def digit_probe() -> Probe:
    """b_1, b_2, b_3 are plain constants, twice 1, 2^9, 2^18, the rest zero: scores become three coordinates written side by side."""
    halved = np.zeros((65, N), np.uint32)
    halved[:3, 0] = DIGITS
    return Probe(EPOCH, MODEL.model_hash, halved)


SILENT = Probe(EPOCH, MODEL.model_hash, np.zeros((65, N), np.uint32))


def read_digits(difference: ring.U32) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """Three coordinates of each slot from twice g_1 + 2^9 g_2 + 2^18 g_3; int64[slots, 3]."""
    half = difference.astype(np.uint64) * np.uint64((Q + 1) // 2) % np.uint64(Q)  # modulo q, since the double may wrap
    rest = ring.centred(half.astype(np.uint32)).astype(np.int64).reshape(-1)
    out = np.empty((rest.size, 3), np.int64)
    for place in range(2):
        out[:, place] = (rest + 256) % 512 - 256
        rest = (rest - out[:, place]) // 512
    out[:, 2] = rest
    return out


def blinded(gallery: PackedGallery, probe: Probe, seed: Seed, mask: ring.U32) -> tuple[ring.U32, ring.U32]:
    """The exact answer, before rounding, under a seed of the caller's choice: what the interface does not offer."""
    scanned = scan_words(gallery.words, [probe.ordered])[0]
    return blind(gallery.fixed_part(EPOCH), scanned, public_bases(EPOCH, 64)[-1], probe.words_eval[-1], seed, mask)


def test_attack_two_answers_under_one_seed_give_three_coordinates_of_every_record() -> None:
    seed = Seed.fresh()
    mask = mask_total([seed], GALLERY.slots)[answer_order(seed, GALLERY.slots)]
    (_, first), (_, second) = (blinded(GALLERY, probe, seed, mask) for probe in (SILENT, digit_probe()))
    stolen = read_digits(ring.subtract(second, first))
    held = GALLERY.layout.rows >= 0
    assert (stolen[held] == values_of(TEMPLATES[GALLERY.layout.rows[held], :3])).all()

    # rounding alone would not stop it: one whole coordinate in the eleven bits that are kept
    loud = np.zeros((65, N), np.uint32)
    loud[0, 0] = 1 << 18
    _, third = blinded(GALLERY, Probe(EPOCH, MODEL.model_hash, loud), seed, mask)
    kept = ((third >> np.uint32(16)).astype(np.int64) - (first >> np.uint32(16))).reshape(-1)
    read = np.rint(((kept + 1024) % 2048 - 1024) / 8)
    assert (read[held] == values_of(TEMPLATES[GALLERY.layout.rows[held], 0])).mean() > 0.99


def test_defence_the_same_root_with_another_probe_is_another_answer() -> None:
    """The interface takes a root only to replay: bound to probe, grant and gallery state, it never masks two different things alike."""
    root = Seed.fresh()
    held = GALLERY.layout.rows >= 0
    first, kept = replay_answer(GALLERY, AnswerRequest(SILENT, GRANT_DIGEST), root)
    for probe, digest in ((digit_probe(), GRANT_DIGEST), (SILENT, bytes(32))):
        second, other = replay_answer(GALLERY, AnswerRequest(probe, digest), root)
        for mine, theirs in ((kept.order_seed, other.order_seed), (kept.mask_seeds[0], other.mask_seeds[0])):
            assert mine.export_secret() != theirs.export_secret()
        difference = ring.subtract(second.b_rounded << np.uint32(16), first.b_rounded << np.uint32(16))[: GALLERY.slots]
        stolen = read_digits(difference)
        assert (stolen[held] == values_of(TEMPLATES[GALLERY.layout.rows[held], :3])).mean() < 0.02
    again, _ = replay_answer(GALLERY, AnswerRequest(SILENT, GRANT_DIGEST), root)
    assert again.digest == first.digest
    GALLERY.layout.put(0, int(GALLERY.layout.rows[0]))  # the same rows in a new state
    changed, _ = replay_answer(GALLERY, AnswerRequest(SILENT, GRANT_DIGEST), root)
    assert (changed.b_rounded == first.b_rounded).mean() < 0.01


# --- the query-independent part: differences between two answers ---


def inverse_matrix(rows: list[list[int]]) -> list[list[int]]:
    """Gauss and Jordan modulo q."""
    size = len(rows)
    work = [row[:] + [int(i == j) for j in range(size)] for i, row in enumerate(rows)]
    for column in range(size):
        pivot = next(r for r in range(column, size) if work[r][column] % Q)
        work[column], work[pivot] = work[pivot], work[column]
        scale = pow(work[column][column], -1, Q)
        work[column] = [value * scale % Q for value in work[column]]
        for r in range(size):
            if r != column and work[r][column]:
                factor = work[r][column]
                work[r] = [(a - factor * b) % Q for a, b in zip(work[r], work[column], strict=True)]
    return [row[size:] for row in work]


def solve_for_one_record(difference_eval: ring.U32, dimensions: int) -> list[tuple[int, list[int]]]:
    """All (slot, change of template) that explain a difference of two a-parts of one chunk: sum_d A_d delta_d X^slot.

    At every evaluation point that is one linear equation in the D unknown changes, so D points solve for them and the other points check.
    """
    bases = public_bases(EPOCH, dimensions)[:-1].astype(object)
    inverse = np.array(inverse_matrix([[int(bases[d, i]) for d in range(dimensions)] for i in range(dimensions)]), object)
    found = []
    monomial = np.zeros((N, N), np.uint32)
    monomial[np.arange(N), np.arange(N)] = 1
    points = ring.forward(monomial)  # row j: X^j at every point
    for slot in range(N):
        # dividing by X^slot is multiplying by -X^(N - slot)
        shift = (Q - points[N - slot].astype(object)) % Q if slot else np.ones(N, object)
        target = difference_eval.astype(object) * shift % Q
        delta = inverse.dot(target[:dimensions]) % Q
        signed = [int(v) - Q if v > Q // 2 else int(v) for v in delta]
        if max(abs(v) for v in signed) <= 2 * LARGEST_VALUE and all(
            sum(int(bases[d, i]) * signed[d] for d in range(dimensions)) % Q == target[i] for i in range(dimensions, dimensions + 20)
        ):
            found.append((slot, signed))
    return found


def test_rerandomisation_hides_a_planted_change() -> None:
    """Without it, one record that changes between two answers is solved for; with it, it is not."""
    model = isotropic_model(16)
    rng = np.random.default_rng(5)
    gallery = gallery_of(model, model.templates(directions(rng, 500, 16)))
    bases = public_bases(EPOCH, 16)
    slot = gallery.layout.slot_of(7)
    planted = gallery.chunk_templates(0).copy()
    replaced = model.templates(directions(rng, 1, 16))[0]
    change = values_of(replaced) - values_of(planted[slot])
    planted[slot] = replaced
    before = gallery.fixed_part(EPOCH)
    after = scan_words(pack_templates(planted), [OrderedProbe(bases[:-1])])[0]

    # attack: a holder that answers with a' itself, and changes nothing else
    assert solve_for_one_record(ring.subtract(after[0], before[0]), 16) == [(slot, change.tolist())]

    # defence: a'' = a' + A_z u + e, fresh u and e in each answer, even before rounding
    zero, mask = np.zeros((1, N), np.uint32), np.zeros(N, np.uint32)
    a = [ring.forward(blind(part, zero, bases[-1], zero[0], Seed.fresh(), mask)[0]) for part in (before, after)]
    assert solve_for_one_record(ring.subtract(a[1][0], a[0][0]), 16) == []


def test_custodian_and_requester_who_strip_the_rerandomisation_find_no_record() -> None:
    """With a forged b_z the two read u_c exactly; the fillers that change with every record hide it from them all the same."""
    model = isotropic_model(16)
    rng = np.random.default_rng(8)
    gallery = gallery_of(model, model.templates(directions(rng, 500, 16)))
    bases = public_bases(EPOCH, 16)

    # attack: b_d = 0 and b_z = 2^20, so that b'' less the mask is 2^20 u, and its top eleven bits show u
    loud, zero = np.full(N, 1 << 20, np.uint32), np.zeros((1, N), np.uint32)
    a, b = blind(gallery.fixed_part(EPOCH), zero, bases[-1], loud, Seed.fresh(), zero[0])
    read = np.rint(ring.centred(middle(b >> np.uint32(16), B_BITS)) / (1 << 20)).astype(np.int64)
    stripped = ring.subtract(a, ring.inverse(ring.multiply(ring.forward(ring.from_signed(read)), bases[-1:])))
    error = ring.centred(ring.subtract(stripped, ring.inverse(gallery.fixed_part(EPOCH))))
    assert np.abs(error).max() <= 191

    # defence: what a' itself changes by around a removal is no single record's doing, and looks uniform
    differences = []
    for row in range(40):
        before = gallery.fixed_part(EPOCH).copy()
        gallery.remove(row)
        differences.append(ring.subtract(gallery.fixed_part(EPOCH)[0], before[0]))
    assert solve_for_one_record(differences[0], 16) == []
    assert uniformity(ring.inverse(np.array(differences))) < 6


def test_the_same_query_independent_part_differs_uniformly_between_answers() -> None:
    """Not by a small error only, which a lattice would remove: both halves of an answer, mask left out, are new in every answer."""
    zero = np.zeros((GALLERY.layout.chunks, N), np.uint32)
    probe, _ = forged(HONEST)
    bases = public_bases(EPOCH, 64)
    fixed = GALLERY.fixed_part(EPOCH)
    a, b = zip(*(blind(fixed, zero, bases[-1], probe.words_eval[-1], Seed.fresh(), zero) for _ in range(2)), strict=True)
    assert uniformity(ring.subtract(a[1], a[0])) < 6
    assert uniformity(ring.subtract(b[1], b[0])) < 6


# --- what the requester sees is uniform ---


def uniformity(values: ring.U32) -> float:
    """The worse of two standardised chi-squares: position between multiples of q/t (where a noise part would show), and size."""
    wide = values.astype(np.uint64)
    between = (wide * np.uint64(SEALMATCH_1.plain_modulus) % np.uint64(Q) * np.uint64(128) // np.uint64(Q)).astype(np.int64)
    size = (wide * np.uint64(128) // np.uint64(Q)).astype(np.int64)
    return max(abs(chi_square(np.bincount(part.reshape(-1), minlength=128))) for part in (between, size))


def test_ten_thousand_answers_look_uniform_to_a_forger() -> None:
    """Exact values before rounding: 10,000 opened answers to an honest probe, and 4,000 to a forged one whose only word is b_1 = 1."""
    model = isotropic_model(8)
    rng = np.random.default_rng(6)
    vectors = directions(rng, 1000, 8)
    gallery = gallery_of(model, model.templates(vectors[:400]))
    fixed, zero_base = gallery.fixed_part(EPOCH), public_bases(EPOCH, 8)[-1]
    pair = KeyPair()
    honest = _encrypt(pair, model.model_hash, model.probe_vector(vectors[0]), EPOCH)
    key = SearchKey(pair.secret_eval())
    forged_words = np.zeros((9, N), np.uint32)
    forged_words[0] = 1
    for words, answers, mutants in ((honest.words_eval, 10_000, 0), (forged_words, 4000, 1000)):
        scanned = scan_words(gallery.words, [OrderedProbe(words[:-1])])[0]
        seen = np.empty((answers, N), np.uint32)
        mutated = np.empty((mutants, N), np.uint32)
        for number in range(len(seen)):
            seed = Seed.fresh()
            mask = mask_total([seed], N)
            a, b = blind(fixed, scanned, zero_base, words[-1], seed, mask)
            seen[number] = _open_exact(a, b, key)[0] if words is honest.words_eval else b[0]
            if number < len(mutated):
                # mutation: the mask covers the message part only, a multiple of q/t
                message = (mask.astype(np.uint64) * np.uint64(SEALMATCH_1.plain_modulus) // np.uint64(Q)) * np.uint64(Q)
                coarse = ((message + np.uint64(SEALMATCH_1.plain_modulus // 2)) >> np.uint64(20)).astype(np.uint32) % np.uint32(Q)
                mutated[number] = blind(fixed, scanned, zero_base, words[-1], seed, coarse)[1][0]
        assert uniformity(seen) < 6
        if words is forged_words:
            assert uniformity(mutated) > 1000
