"""`bench peers`: every way finds the right scores, a way that does not is no figure, and the figures fit together."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from agency_node.bench.errors import WrongResultError
from agency_node.bench.peers import PeersPlan, Scorer, bench_peers, check_scores
from agency_node.bench.progress import Steps
from agency_node.bench.seal_peers import SEAL_BLOCK, SealCoordinateFirst, TensealMatmul
from agency_node.bench.synthetic import SyntheticRecords
from agency_node.bench.tables import print_peers
from agency_node.faces.synthetic_embedder import synthetic_model
from crypto.codes import values_of
from crypto.ring import F64

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


def quiet() -> Steps:
    return Steps(Console(file=io.StringIO()))


def test_all_ways_are_measured_in_one_run_and_the_figures_fit_together() -> None:
    result = bench_peers(PeersPlan(3000, 300, 200, 64, 9, 2), NOW, quiet())
    found = json.loads(json.dumps(result.as_json()))
    assert (found["benchmark"], found["checked"]) == ("peers", True)
    named = [(peer["name"].partition(",")[0], peer["records"], peer["threads"], peer["encrypted"]) for peer in found["peers"]]
    assert named[:2] == [("Sealmatch scan", 3000, 2, True), ("Sealmatch scan", 3000, 1, True)]
    assert named[2][0::3] == ("FAISS float32 in the clear", False)
    assert named[3:] == [("SEAL", 300, 1, True), ("TenSEAL", 200, 2, True)]
    for peer in found["peers"]:
        assert peer["us_per_record"] == 1e6 * peer["median_s"] / peer["records"]
        assert peer["times_ours"] == peer["us_per_record"] / found["us_per_record"]
        assert peer["runs"] >= 9
    assert min(peer["times_ours"] for peer in found["peers"][:2]) == 1
    console = Console(file=io.StringIO(), width=140)
    print_peers(result, console)
    text = console.file.getvalue()  # type: ignore[attr-defined] # it is the StringIO from above
    assert all(name in text for name in ("SEAL, coordinate first", "TenSEAL, matmul", "in the clear"))


def test_seal_s_sums_are_the_integers_of_our_own_scan() -> None:
    """More than one block, the last one not full; to the last unit, so that a tolerance cannot hide anything."""
    source = SyntheticRecords(SEAL_BLOCK + 5, 16, 3)
    model = synthetic_model(16)
    scorer = SealCoordinateFirst(source, 7, quiet())
    exact = values_of(model.templates(source.vectors(0, source.records))).astype(np.int64) @ model.probe_vector(source.embedding_like(7))
    unit = model.scales.gamma * model.scales.mu
    assert (np.rint(scorer.cosines(scorer.scan()) * unit).astype(np.int64) == exact).all()


@pytest.mark.parametrize("make", [SealCoordinateFirst, lambda source, row, steps: TensealMatmul(source, row, 2, steps)])
def test_a_way_with_one_wrong_score_is_refused(make: Any) -> None:
    source = SyntheticRecords(1500, 16, 3)
    scorer: Scorer = make(source, 7, quiet())
    check_scores(scorer, source, 7)

    class Wrong:
        name, threads, tolerance = scorer.name, scorer.threads, scorer.tolerance

        def scan(self) -> Any:
            return scorer.scan()

        def cosines(self, found: Any) -> F64:
            cosines = scorer.cosines(found)
            cosines[1400] += 0.05
            return cosines

    with pytest.raises(WrongResultError, match="inner products"):
        check_scores(Wrong(), source, 7)
    with pytest.raises(WrongResultError, match="inner products"):
        check_scores(scorer, source, 8)
