"""Cases at the requester: which searches are of one case, whether the case is held, and what of a search was destroyed.

A case is known by the keyed tag of its number (`drafting.case_tag`), so that it is found again without its number standing in the store;
the number itself lies sealed beside it. Invariants: a search is of one case from its draft on; when all searches of a case lie under the
seal of a lapse its number is destroyed here (R4), and a later draft of the same number brings it back; a case with a hold that is not
lifted is held, whoever placed it.

Left to others: clocks (`retention`), placing and lifting a hold (`legal.holds`), what `node cases` shows (`case_list`).
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, Engine, Row, Select, select, update
from sqlalchemy.dialects.sqlite import insert

from agency_node.case_tables import case_searches, cases, legal_holds
from agency_node.errors import RequestError
from agency_node.journal import stamp
from agency_node.store import reading
from agency_node.tables import searches
from agency_node.vault import Vault

CASE_NUMBER: Final = "case-number"
LAPSED: Final = "lapsed"


def register_search(
    connection: Connection, vault: Vault, search_id: str, tag: bytes, number: str, commitment: bytes, now: datetime
) -> None:
    """In the transaction of a draft: the search is of this case, which is opened with its first."""
    sealed = vault.seal(CASE_NUMBER, number.encode("utf-8", "surrogatepass"), tag)
    opened = insert(cases).values(case_tag=tag, case_commitment=commitment, sealed_number=sealed, opened_at=stamp(now))
    connection.execute(opened.on_conflict_do_update(index_elements=["case_tag"], set_={"sealed_number": sealed}))
    connection.execute(insert(case_searches).values(search_id=search_id, case_tag=tag).on_conflict_do_nothing())


def number_of(vault: Vault, row: Row[Any]) -> str:
    """The number of a row of `cases`, empty once it was destroyed."""
    if row.sealed_number is None:
        return ""
    return vault.open(CASE_NUMBER, row.sealed_number, row.case_tag).decode("utf-8", "surrogatepass")


def forget_number(connection: Connection, search_id: str) -> None:
    """After a lapse, in its transaction: the case's number goes, unless another search of the case is here that has not lapsed."""
    tag = connection.execute(select(case_searches.c.case_tag).where(case_searches.c.search_id == search_id)).scalar()
    same = select(searches.c.search_id).join(case_searches, case_searches.c.search_id == searches.c.search_id)
    others = same.where(case_searches.c.case_tag == tag, searches.c.state != LAPSED)
    if tag is not None and connection.execute(others).first() is None:
        connection.execute(update(cases).where(cases.c.case_tag == tag).values(sealed_number=None))


def held_searches() -> Select[Any]:
    """The ids of all searches whose case is held, for a statement."""
    return (
        select(case_searches.c.search_id)
        .join(legal_holds, legal_holds.c.case_tag == case_searches.c.case_tag)
        .where(legal_holds.c.lifted_at.is_(None))
    )


def is_held(connection: Connection, search_id: str) -> bool:
    """Whether the case of a search is held now."""
    return connection.execute(held_searches().where(case_searches.c.search_id == search_id)).first() is not None


def check_leads_kept(engine: Engine, search_id: str) -> None:
    """Raise `RequestError` when a search's leads were destroyed at the end of their clock."""
    with reading(engine).begin() as connection:
        at = connection.execute(select(case_searches.c.leads_destroyed_at).where(case_searches.c.search_id == search_id)).scalar()
    if at is not None:
        raise RequestError(
            f"the leads of this search were destroyed at {at}, when the time for which they are kept was over: `sealmatch node cases` "
            "shows what is left"
        )
