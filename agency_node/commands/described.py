"""How commands show to legal staff who asks and why, at the requester and at the holder, and write what was asked for into a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from agency_node.errors import RequestError

if TYPE_CHECKING:
    from crypto.grant_claims import GrantClaims


def reason_of(claims: GrantClaims) -> dict[str, object]:
    """Who asks and why, as a reviewer reads it, at the requester and at the holder."""
    from crypto.grant_basis import CourtOrder  # noqa: PLC0415

    basis = claims.basis
    order = f", {basis.court}, {basis.docket}, {basis.issued} to {basis.expires}" if isinstance(basis, CourtOrder) else ""
    return {
        "investigator": claims.investigator,
        "offence": "-" if claims.offence is None else f"{claims.offence.statute} (NIBRS {claims.offence.nibrs})",
        "basis": basis.kind.value + order,
        "purpose": claims.purpose.value,
        "event": claims.event.value,
        "source of the still": claims.probe_source.value,
    }


def show(facts: dict[str, object]) -> None:
    """One line for each."""
    width = max(map(len, facts))
    for name, value in facts.items():
        typer.echo(f"  {name:<{width}}  {value}")


def write_file(path: Path, data: bytes) -> None:
    """Write a file and the folders that it lies in; `RequestError` when that cannot be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except OSError as error:
        raise RequestError(f"{path} cannot be written: choose another place") from error
