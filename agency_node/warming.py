"""Run every kernel of a search once before a node says that it is ready.

Compiled code comes from the cache or is made now, not in a search.
"""

from __future__ import annotations

import numpy as np

from crypto.answer import AnswerRequest, MaskShare, OrderSeed, answer
from crypto.canonical import AgencyId
from crypto.embedding import EmbeddingModel
from crypto.epoch import Epoch
from crypto.gallery import PackedGallery
from crypto.layout import Layout
from crypto.opening import open_answer
from crypto.probe import make_probe
from crypto.release import unmask


def warm(model: EmbeddingModel, epoch: Epoch) -> None:
    """One search over one record of nobody, inside this process; nothing of it is kept."""
    gallery = PackedGallery.pack(model, Layout.draw(np.arange(1), model.scales), model.templates(np.eye(1, model.dimensions)))
    vector = np.zeros(model.dimensions, np.int32)
    vector[0] = model.scales.mu
    probe, key = make_probe(model, vector, epoch)
    ((made, kept),) = answer(gallery, [AnswerRequest(probe, bytes(32))])
    opened = open_answer(made, OrderSeed(made.digest, kept.order_seed), probe, key)
    key.destroy()
    share = MaskShare(made.digest, probe.digest, made.slots, kept.mask_seeds[0], kept.places)
    unmask(AgencyId("nobody"), 1, 1, model.scales, opened, [share]).destroy()


if __name__ == "__main__":  # `./dev setup` makes the compiled code once, so that the first start of a node need not
    from agency_node.faces.embedder import load_embedder

    warm(load_embedder("dlib").model, Epoch("2026-11"))
