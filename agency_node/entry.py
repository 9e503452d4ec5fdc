"""The entry by which an agency stands in the roster, as `sealmatch node init` prints it for the root holders.

Public keys and public facts only. Persons are not in it: they make their own keys, and the root holders add their public entries.
"""

from __future__ import annotations

from collections.abc import Sequence

from agency_node.errors import RequestError
from agency_node.keyring import CreatedKeys
from crypto.canonical import AgencyId, JsonObject, b64url_decode
from crypto.errors import CryptoError
from crypto.keys import SealingPublicKey, VerifyingKey
from crypto.roster_entries import Agency, AgencyClass, AgencyMode, AgencyRole, Jurisdiction
from crypto.witness import WitnessKey


def roster_entry(
    keys: CreatedKeys,
    *,
    agency: str,
    name: str,
    agency_class: str,
    jurisdiction: str,
    roles: Sequence[str],
    officer: str,
    legal_office: str,
    discovery_key: str,
    office_key: str,
    mode: str,
) -> JsonObject:
    """The entry's JSON form; `RequestError` says what does not fit."""
    try:
        agency_id = AgencyId(agency)
        listed = tuple(sorted(AgencyRole(role) for role in roles))
        office = AgencyId(legal_office) if legal_office else agency_id if AgencyRole.LEGAL_OFFICE in listed else None
        witness = None if keys.witness is None else WitnessKey(f"{agency}/witness", keys.witness, agency_id)
        return Agency(
            agency_id=agency_id,
            display_name=name,
            agency_class=AgencyClass(agency_class),
            jurisdiction=Jurisdiction(jurisdiction),
            roles=listed,
            responsible_officer=officer,
            node_key=keys.node,
            legal_office=office,
            discovery_key=SealingPublicKey(b64url_decode(discovery_key)) if discovery_key else None,
            office_key=VerifyingKey(b64url_decode(office_key)) if office_key else None,
            witness=witness,
            mode=AgencyMode(mode),
        ).to_json()
    except (CryptoError, ValueError) as error:
        raise RequestError(f"this entry does not fit the roster: {error}; `sealmatch node init --help` has an example") from error
