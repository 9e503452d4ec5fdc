"""A broker's folder: configuration and the log's secret key, made once and read at every start.

Invariants: nothing is overwritten, because a second key for one log would be a fork; the key's file is readable by its owner only. Left to
others: the values (`config`), the database in the same folder (`store`).
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from broker.config import CONFIG_FILE, LOG_KEY_FILE, BrokerConfig
from broker.errors import OperatorError
from crypto.errors import CryptoError
from crypto.keys import SigningKey


def make_folder(folder: Path, *, operator: str, origin: str, root_fingerprint: str) -> tuple[BrokerConfig, SigningKey]:
    """A new broker: folder, `broker.toml`, log key. `OperatorError` when there is one already or a value is not of its form."""
    config_path, key_path = folder / CONFIG_FILE, folder / LOG_KEY_FILE
    if config_path.exists() or key_path.exists():
        raise OperatorError(f"{folder} holds a broker already; take another folder, or go on with that one")
    key = SigningKey.generate()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(config_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            # JSON strings without control characters are TOML strings.
            file.write(
                f"operator = {json.dumps(operator)}\norigin = {json.dumps(origin)}\nroot_fingerprint = {json.dumps(root_fingerprint)}\n"
            )
        config = BrokerConfig.load(folder)
        descriptor = os.open(key_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(key.export_secret())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise OperatorError(f"{folder} cannot be written; take a folder of your own") from error
    except OperatorError:
        config_path.unlink(missing_ok=True)  # made a moment ago, by this call
        raise
    return config, key


def load_log_key(folder: Path) -> SigningKey:
    """The log's key; `OperatorError` when it is not there, open to others, or none."""
    path = folder / LOG_KEY_FILE
    try:
        if path.stat().st_mode & 0o077:
            raise OperatorError(f"{path} can be read by others; run `chmod 600` on it, and ask yourself who has read it")
        return SigningKey.from_secret(path.read_bytes())
    except OSError as error:
        raise OperatorError(f"{path} cannot be read; restore it from where you keep the log's key") from error
    except CryptoError as error:
        raise OperatorError(f"{path} is no log key; restore it from where you keep the log's key") from error
