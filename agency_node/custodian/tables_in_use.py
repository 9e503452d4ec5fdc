"""Which calibration table a custodian uses: read from its file, held against what `node.toml` pins, refused where it does not fit.

Invariants: bytes are taken only under the digest that the custodian was told by another way; a table of another model, one whose life is
over, and in production the synthetic one are refused, whoever hands them in (R33). Without a file there is the synthetic table, which no
production node runs on. Left to others: the format (`crypto.calibration_table`), thresholds (`crypto.impostors`), releases (`releasing`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Final

from agency_node.config import Mode, NodeConfig
from agency_node.errors import ConfigError
from crypto.calibration_table import MAX_TABLE_BYTES, CalibrationTable
from crypto.embedding import EmbeddingModel
from crypto.errors import PeerError

_WHERE_FROM: Final = "ask whoever measured it for the file as it was written, and set [calibration] in node.toml to it and its SHA-256"


def read_table(path: Path) -> CalibrationTable:
    """The table in a file; `ConfigError` for a file that cannot be read and for bytes that are no table."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_TABLE_BYTES + 1)
        return CalibrationTable.from_bytes(data)
    except OSError as error:
        raise ConfigError(f"the calibration table {path} cannot be read: {_WHERE_FROM}") from error
    except PeerError as error:
        raise ConfigError(f"{path} is not a calibration table ({error}): {_WHERE_FROM}") from error


def check_digest_of(table: CalibrationTable, sha256: str) -> None:
    """`ConfigError` unless the table's bytes hash to `sha256`, 64 hexadecimal digits."""
    if table.digest.hex() != sha256:
        raise ConfigError(f"the calibration table is not the one whose SHA-256 was told: {_WHERE_FROM}")


def check_table(table: CalibrationTable, models: Sequence[EmbeddingModel], mode: Mode, today: date) -> None:
    """Raise `ConfigError` unless a custodian in that mode may use the table today, after these checks in this order:

    1. it was measured, or the mode is another than production
    2. it is of one of these models
    3. its life has begun and is not over
    """
    if table.is_synthetic and mode is Mode.PRODUCTION:  # 1
        raise ConfigError("the calibration table is synthetic, which production refuses: have one measured on your model and galleries")
    if table.model_hash not in {model.model_hash for model in models}:  # 2
        raise ConfigError("the calibration table is of another face model: have one measured on the model that `embedder` names")
    if not table.holds_on(today):  # 3
        raise ConfigError(
            f"the calibration table holds from {table.measured_on} to {table.expires_on}: have one measured anew, and check the clock"
        )


def load_tables(folder: Path, config: NodeConfig, models: Sequence[EmbeddingModel], today: date) -> Mapping[bytes, CalibrationTable]:
    """The tables of a custodian by model hash: the one that `node.toml` pins, or without one the synthetic table of each model."""
    if config.calibration.file:
        table = read_table(folder / config.calibration.file)
        check_digest_of(table, config.calibration.sha256)
        tables = [table]
    elif config.mode is Mode.PRODUCTION:
        raise ConfigError(f"no measured calibration table is installed, and the synthetic one is refused in production: {_WHERE_FROM}")
    else:
        tables = [CalibrationTable.synthetic(model.model_hash, model.dimensions, today) for model in models]
    for table in tables:
        check_table(table, models, config.mode, today)
    return {table.model_hash: table for table in tables}
