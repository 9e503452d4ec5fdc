"""Signed documents as files of a person: read whole and no further than they may be long, written once and never over another.

Left to others: what a document says and who signed it.
"""

from __future__ import annotations

from pathlib import Path

from agency_node.errors import RequestError


def read_document(path: Path, most: int) -> bytes:
    """The file, and one byte more than `most` of a longer one, so that its reader refuses it; `RequestError` when it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(most + 1)
    except OSError as error:
        raise RequestError(f"{path} cannot be read: check the path") from error


def write_new(path: Path, data: bytes) -> None:
    """Write a file that is not there yet; `RequestError` when it is, or cannot be written."""
    try:
        with path.open("xb") as file:
            file.write(data)
    except FileExistsError as error:
        raise RequestError(f"{path} is there already, and no signed document is overwritten: name another file") from error
    except OSError as error:
        raise RequestError(f"{path} cannot be written: choose another place") from error
