"""OFIQ, the reference code of ISO/IEC 29794-5, where an agency has it installed: its measures of pictures, beside ours.

It is run as its own program, `OFIQSampleApp -c CONFIG -i FOLDER -o FILE`, since it is C++ with a dozen networks of its own (about 300 MB,
licences apart), which this project neither ships nor links. FILE is CSV with semicolons: `Filename`, for each measure its native value (in
later versions as `NAME.native`), for each its value from 0 to 100 as `NAME.scalar`, -1 where it could not be assessed, and the time. A
picture that it cannot read gives a row without measures, and if that is the first one a heading without any.

Invariants: pictures are written for it into a folder that only this account opens, under numbers, and deleted when it ends; what it prints
is read by nobody. Without it nothing changes: no limit is set on its values.

Left to others: our own measures (`quality`), batches (`enrol`).
"""

from __future__ import annotations

import csv
import math
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from agency_node.errors import ConfigError, HelperEndedError

PATIENCE_S: Final = 600.0
"""For a batch of 32 pictures, each of which takes it a second or two, and its start."""
_NOT_ASSESSED: Final = -1
_PNG: Final = b"\x89PNG"
_NATIVE, _SCALAR = ".native", ".scalar"

Measures = Mapping[str, tuple[float, float | None]]
"""For each measure its native value and its value from 0 to 100, None where it could not be assessed; empty for an unread picture."""


class Ofiq:
    """One installed OFIQ."""

    def __init__(self, program: Path, config: Path | None = None) -> None:
        """`ConfigError` when there is no such program, or no such file or folder of settings."""
        if not (program.is_file() and os.access(program, os.X_OK)):
            raise ConfigError("[quality] names no program that this account may run: put OFIQSampleApp there, or leave ofiq out")
        if config is not None and not config.exists():
            raise ConfigError("ofiq_config in node.toml is not there: name OFIQ's folder of settings, or its ofiq_config.jaxn")
        self._program = program.resolve()
        self._config = None if config is None else config.resolve()

    def measure(self, pictures: Sequence[bytes]) -> list[Measures]:
        """The measures of each picture, JPEG or PNG, in their order.

        `HelperEndedError` when the program fails or takes too long, `ConfigError` when what it writes is not what OFIQ writes.
        """
        if not pictures:
            return []
        names = [f"{number:06d}.{'png' if data.startswith(_PNG) else 'jpg'}" for number, data in enumerate(pictures)]
        with tempfile.TemporaryDirectory(prefix="sealmatch-ofiq-") as folder:
            shown = Path(folder, "pictures")
            shown.mkdir()
            for name, data in zip(names, pictures, strict=True):
                (shown / name).write_bytes(data)
            found = self._run(shown, Path(folder, "measures.csv"))
        if found is None:  # the first picture that it came to could not be read, and so the heading has no measures
            return [{}] if len(pictures) == 1 else [self.measure([one])[0] for one in pictures]
        if found.keys() != set(names):
            raise _unlike("it has not one row for each picture")
        return [found[name] for name in names]

    def _run(self, folder: Path, target: Path) -> dict[str, Measures] | None:
        words = [str(self._program), *([] if self._config is None else ["-c", str(self._config)]), "-i", str(folder), "-o", str(target)]
        try:
            done = subprocess.run(  # noqa: S603  # the program that the administrator named, without a shell
                words, cwd=self._program.parent, stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise HelperEndedError(f"OFIQ could not be run, or not within {PATIENCE_S:.0f} seconds: run it by hand on a picture") from error
        if done.returncode:
            says = f"OFIQ ended with exit code {done.returncode}: run it by hand on a picture to see why, or take ofiq out of node.toml"
            raise HelperEndedError(says)
        try:
            return read_measures(target.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise _unlike("it cannot be read") from error

    def __repr__(self) -> str:
        return "Ofiq()"


def read_measures(text: str) -> dict[str, Measures] | None:
    """The measures in OFIQ's CSV, by file name without folder; None when its heading names no measure. `ConfigError` for anything else."""
    header, *rows = list(csv.reader(text.splitlines(), delimiter=";")) or [[]]
    if not header or header[0] != "Filename":
        raise _unlike("its first column is not Filename")
    names = [one.removesuffix(_SCALAR) for one in header if one.endswith(_SCALAR)]
    if not names:
        return None
    native = [one.removesuffix(_NATIVE) for one in header[1 : 1 + len(names)]]
    if native != names or header[1 + len(names) : 1 + 2 * len(names)] != [name + _SCALAR for name in names]:
        raise _unlike("its columns are not each measure's native value and then each one's scalar")
    found: dict[str, Measures] = {}
    for row in rows:
        values = row[1 : 1 + 2 * len(names)]
        assessed = len(row) >= 1 + 2 * len(names) and all(values)
        found[Path(row[0]).name] = dict(zip(names, _pairs(values), strict=True)) if assessed else {}
    return found


def _pairs(values: Sequence[str]) -> list[tuple[float, float | None]]:
    try:
        numbers = [float(one) for one in values]
    except ValueError as error:
        raise _unlike("a value in it is not a number") from error
    half = len(numbers) // 2
    if not all(map(math.isfinite, numbers)) or not all(one == _NOT_ASSESSED or 0 <= one <= 100 for one in numbers[half:]):
        raise _unlike("a value in it is none that a measure has")
    return [(native, None if scalar == _NOT_ASSESSED else scalar) for native, scalar in zip(numbers[:half], numbers[half:], strict=True)]


def _unlike(why: str) -> ConfigError:
    return ConfigError(f"what [quality] names does not write what OFIQ writes ({why}): name OFIQSampleApp of version 1.0 or later")
