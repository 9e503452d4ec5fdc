"""What is made of one picture when it is enrolled: template, photograph without metadata, quality; here, or in processes on every core.

A face detector holds one core, and dlib's the interpreter with it, so more cores take more processes. Invariants: a process that helps
computes what this one would, bit for bit (`tests/test_portraying.py`); it is given pictures and a face model and nothing else, no key, no
store, no record number; it ends when this process does, however that ends. What it says of a picture that cannot be enrolled is the
`ImageError` that this process would raise.

Left to others: which pictures, their order, and batches (`enrol`).
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from agency_node.errors import HelperEndedError, ImageError, ImageFault
from agency_node.faces.embedder import Embedder, load_embedder, the_one_face
from agency_node.faces.image import read_for_enrolment
from agency_node.faces.ofiq import Ofiq
from agency_node.faces.pack import PinnedPack
from agency_node.faces.quality import Quality, measure
from crypto.codes import Codes
from crypto.disclosure import Media
from crypto.workers import usable_cores

if TYPE_CHECKING:
    from agency_node.holder.records import NewRecord
    from agency_node.node import Node

ALONE: Final = 64
"""Pictures on which this process works alone: a helper takes seconds to start, and most runs are short."""
_AHEAD_A_HELPER: Final = 4
"""Pictures that wait for each helper, so that none is idle while a batch is written."""


@dataclass(frozen=True, eq=False)
class Portrayed:
    """What a record keeps of its picture."""

    template: Codes = field(repr=False)
    photograph: bytes = field(repr=False)
    media: Media
    quality: Quality | None


def portray(data: bytes, embedder: Embedder) -> Portrayed:
    """Template, photograph and quality of the picture in these bytes; `ImageError` when it cannot be enrolled."""
    image, photograph, media = read_for_enrolment(data)
    face = the_one_face(embedder, image)
    quality = measure(image, len(data), face)
    return Portrayed(embedder.model.templates(face.embedding), photograph, media, quality)


class Portrayer:
    """Works on pictures in this process."""

    ahead: int = 0
    """How many pictures are begun before the first of them is asked for."""

    def __init__(self, embedder: Embedder, ofiq: Ofiq | None = None) -> None:
        self._embedder = embedder
        self._ofiq = ofiq

    def begin(self, read: Callable[[], bytes]) -> Callable[[], Portrayed]:
        """Begin the work on a picture; what is returned waits for it, and raises `ImageError` when it cannot be enrolled."""
        return lambda: portray(read(), self._embedder)

    def assessed(self, batch: Sequence[NewRecord]) -> list[NewRecord]:
        """The batch with OFIQ's measures in each record's quality, where OFIQ is installed and a quality was measured."""
        rated = [one for one in batch if one.quality is not None and one.photograph is not None]
        if self._ofiq is None or not rated:
            return list(batch)
        told = dict(zip(map(id, rated), self._ofiq.measure([one.photograph or b"" for one in rated]), strict=True))
        return [replace(one, quality=replace(one.quality, ofiq=told[id(one)])) if one.quality and id(one) in told else one for one in batch]


class ManyPortrayers(Portrayer):
    """Works in this process, and once there are many pictures in one helper a core. A context manager around the work."""

    def __init__(
        self,
        embedder: Embedder,
        name: str,
        pack: PinnedPack | None,
        helpers: int | None = None,
        alone: int = ALONE,
        ofiq: Ofiq | None = None,
    ) -> None:
        """`name` and `pack` are what `load_embedder` makes that embedder from; `helpers` is one a core if left out."""
        super().__init__(embedder, ofiq)
        self._named = (name, pack)
        self._helpers = usable_cores() if helpers is None else helpers
        self._alone = alone
        self._begun = 0
        self._pool: ProcessPoolExecutor | None = None

    def begin(self, read: Callable[[], bytes]) -> Callable[[], Portrayed]:
        """As `Portrayer.begin`; a picture is read here, since helpers are told of no path."""
        self._begun += 1
        if self._helpers < 2 or self._begun <= self._alone:
            return super().begin(read)
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                self._helpers, multiprocessing.get_context("spawn"), initializer=_start_helping, initargs=self._named
            )
            self.ahead = _AHEAD_A_HELPER * self._helpers
        try:
            future = self._pool.submit(_help, read())
        except ImageError as error:
            return _raising(error)
        except BrokenProcessPool as error:
            raise _broken() from error
        return lambda: _result(future)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)


def portrayer_of(node: Node, embedder: Embedder, processes: int | None = None) -> ManyPortrayers:
    """What works on pictures of this node, with that embedder of its; `ConfigError` when node.toml names an OFIQ that is not there."""
    config = node.config
    return ManyPortrayers(embedder, config.embedder, config.pinned_pack(node.folder), processes, ofiq=node.ofiq())


def _result(future: Future[Portrayed | tuple[ImageFault, str]]) -> Portrayed:
    try:
        made = future.result()
    except BrokenProcessPool as error:
        raise _broken() from error
    if isinstance(made, tuple):
        raise ImageError(*made)
    return made


def _raising(error: ImageError) -> Callable[[], Portrayed]:
    def portrayed() -> Portrayed:
        raise error

    return portrayed


def _broken() -> HelperEndedError:
    says = "a process that helped with the pictures was ended, perhaps for want of memory"
    return HelperEndedError(f"{says}: run the same command again, it goes on where it was; --processes 1 takes the least memory")


# --- in a helper ------------------------------------------------------------------------------------------------------

_embedder: Embedder | None = None


def _start_helping(name: str, pack: PinnedPack | None) -> None:
    """Load the face model, and end with the process that is helped: a pipe that it holds open would keep this one waiting for ever."""
    global _embedder  # noqa: PLW0603  # a helper is a process for one model
    threading.Thread(target=end_with_parent, daemon=True).start()
    _embedder = load_embedder(name, pack)


def end_with_parent() -> None:
    """Wait until the process that started this one ends, and end this one at once; for a thread of its own."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _help(data: bytes) -> Portrayed | tuple[ImageFault, str]:
    """A picture's work; an `ImageError` as its parts, since exceptions do not travel with more than their words."""
    if _embedder is None:
        raise HelperEndedError("this process has no face model: run the same command again")
    try:
        return portray(data, _embedder)
    except ImageError as error:
        return error.fault, str(error)
