"""`sealmatch node serve`: the roles that are switched on, and the loops that carry them.

Loops: receive (mailbox to inbox), work (inbox and what is due), send (outbox to broker), follow (roster, week key); with a witness key,
witness; with a folder of drops, the process that watches it. The node says that it is ready when its roster is pinned, its key of the week
published and, as a holder, its gallery packed and its kernels warm. SIGTERM and SIGINT end the loops after the transaction that runs;
`kill -9` loses nothing that was committed.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from datetime import date
from typing import Final

from agency_node.config import Role
from agency_node.courier import Courier
from agency_node.courier import Role as CourierRole
from agency_node.disk import Disk
from agency_node.envelopes import Envelopes
from agency_node.errors import BrokerError, ConfigError, HaltedError
from agency_node.follower import LogFollower
from agency_node.grants import GrantDesk
from agency_node.holder.answering import Answering
from agency_node.holder.budgets import Budgets
from agency_node.holder.disclosing import Disclosing
from agency_node.holder.dispositions import mark_unchecked
from agency_node.holder.expunge_ledger import follow, path_of
from agency_node.holder.index import GalleryIndex
from agency_node.holder.register import Register
from agency_node.legal.lapsing import ExigentClocks
from agency_node.legal.office import LegalOffice
from agency_node.legal.ratified import RatifiedGrants
from agency_node.node import Node, note_start
from agency_node.openings import Openings
from agency_node.outbox import Outbox
from agency_node.overview import ended_search_keys, has_open_searches
from agency_node.policy.approvals import check_approved
from agency_node.policy.clocks import exigent_clock, openings_delay
from agency_node.policy.engine import load_packs
from agency_node.requester.leads import Leads
from agency_node.requester.retention import Retention
from agency_node.requester.searching import Searching
from agency_node.retiring import LOOK_S, check_acts, serving_in
from agency_node.store import promising_nothing
from agency_node.waking import pause
from agency_node.warming import warm
from agency_node.witness import Witness
from crypto.epoch import Epoch
from crypto.errors import PeerError
from crypto.moments import utc_day
from crypto.sealing_key import Week

REFRESH_S: Final = 30.0
LEAVES_A_PASS: Final = 5_000
"""Records that get their leaf in one pass: some seconds of a core in half a minute, after a bulk enrolment for some hours."""


@dataclass
class Service:
    """One serving node."""

    node: Node
    ready: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        node = self.node
        self._expunged_at = -1
        self._aged_on: date | None = None
        # What roles commit waits for the disk when something leaves, once for all of it; what the gallery's store commits, at once.
        self.engine = promising_nothing(node.engine)
        node.transport.before_leaving = Disk(node.engine).synced
        self.follower = LogFollower(self.engine, node.link, node.parties, node.clock)
        envelopes = Envelopes(node.agency, node.keyring, node.parties)
        self.packs = load_packs(node.config.policy_packs)
        self.outbox = Outbox(node.agency, node.keyring.node_key, node.vault, node.clock, self._latest_checkpoint)
        delay = openings_delay(self.packs)
        self.openings = Openings(self.engine, node.vault, node.link, delay, node.clock)
        desk = GrantDesk(node.agency, self.engine, node.vault, envelopes, node.parties, self.follower, node.clock)
        roles: list[CourierRole] = [desk]
        if Role.HOLDER in node.config.roles:
            roles += self._holder(desk, envelopes)
        if Role.REQUESTER in node.config.roles:
            roles += self._requester(envelopes)
        if Role.CUSTODIAN in node.config.roles:
            from agency_node.custodian.releasing import Releasing  # noqa: PLC0415  # a node loads what its roles need
            from agency_node.custodian.tables_in_use import load_tables  # noqa: PLC0415

            models = [node.embedder().model]
            tables = load_tables(node.folder, node.config, models, utc_day(node.clock()))
            releasing = Releasing(
                node.config,
                self.engine,
                desk,
                envelopes,
                node.parties,
                self.outbox,
                models,
                tables,
                node.vault,
                self.packs,
                node.clock,
            )
            desk.admitters.append(releasing)
            roles.append(releasing)
        roles.append(LegalOffice(node.agency, self.engine, node.vault, desk, node.parties, self.follower, self.outbox, node.clock))
        if {Role.HOLDER, Role.CUSTODIAN} & {*node.config.roles}:
            rule = exigent_clock(self.packs)
            roles.append(RatifiedGrants(node.agency, self.engine, rule, desk, envelopes, node.parties, self.follower, node.clock))
        self.courier = Courier(node.agency, self.engine, node.link, node.parties, self.follower, self.outbox, roles, node.clock)

    def _holder(self, desk: GrantDesk, envelopes: Envelopes) -> list[CourierRole]:
        node = self.node
        model = node.embedder().model
        self.index = GalleryIndex(node.config, node.engine, node.vault, node.keyring, model, node.clock, lambda: node.embedder().model)
        self.register = Register(node.agency, node.engine, node.vault, node.keyring.node_key, self.index.records, self.outbox.manifest)
        self._age()
        self._follow_expunged()  # before anything is answered: a store that was put back must not bring a record back (R25)
        answering = Answering(
            node.agency,
            self.engine,
            node.vault,
            node.keyring.node_key,
            self.index,
            self.packs,
            Budgets(node.config.budgets, node.vault),
            desk,
            envelopes,
            node.parties,
            node.link,
            self.outbox,
            node.clock,
            node.config.federal.allow,
        )
        desk.admitters.append(answering)
        disclosing = Disclosing(node.agency, self.engine, node.vault, self.index, desk, envelopes, node.parties, self.outbox, node.clock)
        return [answering, disclosing]

    def _follow_expunged(self) -> None:
        """Bring store and ledger of expunged records together, when the store changed since; also what other commands expunged."""
        changes = self.index.records.changes()
        if changes != self._expunged_at:
            node = self.node
            follow(path_of(node.config, node.folder), self.index.follow_model(), node.keyring.node_key, node.clock())
            self._expunged_at = self.index.records.changes()

    def _age(self) -> None:
        """Once a day, withdraw the records of which nothing was heard for too long (R25)."""
        today = utc_day(self.node.clock())
        if today != self._aged_on:
            mark_unchecked(self.node.engine, self.node.clock(), self.node.config.disposition_days)
            self._aged_on = today

    def _keep_register(self) -> None:
        """What the gallery owes beside searches: a manifest of its records after each batch of changes, for the public log (R24)."""
        self._age()
        self.register.store = self.index.follow_model()
        self.register.follow(self.node.clock(), LEAVES_A_PASS)

    def _requester(self, envelopes: Envelopes) -> list[CourierRole]:
        node = self.node
        searching = Searching(
            node.agency,
            self.engine,
            node.vault,
            node.keyring,
            envelopes,
            node.parties,
            self.follower,
            node.link,
            self.outbox,
            node.config.near_duplicates,
            node.clock,
        )
        exigent = ExigentClocks(node.folder, self.engine, node.vault, node.keyring, node.parties, self.outbox, node.clock)
        shown = Leads(self.engine, node.vault, envelopes, node.parties, self.outbox, node.clock)
        return [exigent, searching, shown, Retention(node.engine, node.vault, self.packs, node.parties, node.clock)]

    def _latest_checkpoint(self) -> bytes | None:
        latest = self.follower.latest
        return None if latest is None else latest.to_bytes()

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until stopped."""
        await self._start(stop)
        if stop.is_set():
            return
        gc.freeze()  # modules and kernels stay for ever: a collection that walks them all takes as long as several messages
        loops: list[Coroutine[None, None, None]] = [
            self.courier.receive(stop),
            self.courier.work(stop),
            self.courier.send(stop),
            self._refresh(stop),
            self._look_whether_it_acts(stop),
        ]
        if self.node.keyring.witness_key is not None:
            loops.append(self._witness(stop))
        if Role.HOLDER in self.node.config.roles and self.node.config.intake.folder:
            from agency_node.holder.watch_process import keep_watching  # noqa: PLC0415  # few nodes have a folder of drops

            loops.append(keep_watching(self.node.folder, stop))
        tasks = [asyncio.create_task(loop) for loop in loops]
        stopped = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait([*tasks, stopped], return_when=asyncio.FIRST_COMPLETED)
            for loop in tasks:
                if loop.done():
                    loop.result()  # a loop that broke ends the node with its error
        finally:
            stopped.cancel()
            for loop in tasks:
                loop.cancel()
            await asyncio.gather(*tasks, stopped, return_exceptions=True)
            if Role.HOLDER in self.node.config.roles:
                await asyncio.to_thread(self.index.close)
            await self.node.transport.close()

    async def _start(self, stop: asyncio.Event) -> None:
        """Pin or refresh the roster, publish the week's key, read the log, pack the gallery; wait for a broker that is not there yet."""
        model = self.node.embedder().model
        await asyncio.to_thread(warm, model, Epoch.at(self.node.clock()))
        while not stop.is_set():
            check_acts(self.node.engine)
            try:
                await self.node.parties.refresh()
                self._check_roles()
                check_approved(self.node.config, self.node.folder, self.packs, self.node.parties.roster())
                await self._publish_week_key()
                await self.node.link.give_back_leases()
                if Role.HOLDER in self.node.config.roles:
                    await self.index.prepare(self.node.link)
            except BrokerError:
                await pause(stop, 0.5)
                continue
            self.ready.set()
            return

    def _check_roles(self) -> None:
        """The roster must give this agency what `node.toml` switches on, with this very key."""
        node, listed = self.node, self.node.parties.roster().agency(self.node.agency)
        if listed.node_key != node.keyring.node_key.verifying_key:
            raise ConfigError(
                "the roster lists another node key for this agency: send the roots the entry that `sealmatch node init` printed"
            )
        if listed.mode.value != node.config.mode.value:
            raise ConfigError(
                f"the roster lists this agency in mode {listed.mode.value}, and node.toml says {node.config.mode.value}: change `mode` in "
                "node.toml, or have the root holders list the agency anew"
            )
        missing = [role.value for role in node.config.roles if role.value not in {str(one.value) for one in listed.roles}]
        if missing:
            raise ConfigError(
                f"the roster does not give this agency the role {missing[0]}: switch it off in node.toml, or have the roster changed"
            )

    async def _publish_week_key(self) -> None:
        await self.node.link.put_sealing_key(self.node.keyring.current_week().sign(self.node.keyring.node_key))

    async def _look_whether_it_acts(self, stop: asyncio.Event) -> None:
        """End the node with `RetiredError` once a command moved it away, or has it leave the federation (R27)."""
        while not stop.is_set():
            check_acts(self.node.engine)
            await pause(stop, LOOK_S)

    async def _witness(self, stop: asyncio.Event) -> None:
        """Cosign heads; a witness that saw a fork signs no more, and its node goes on to say why it halted."""
        node = self.node
        await Witness(self.engine, node.link, node.parties, node.keyring, node.clock).run(stop)
        await stop.wait()

    def _forget_keys(self) -> None:
        """Destroy sealing keys that nothing can come for any more: of searches that have ended, and of weeks long past."""
        for key_id in ended_search_keys(self.node.engine):
            self.node.keyring.destroy(key_id)
        self.node.keyring.destroy_old_weeks(lambda _: has_open_searches(self.node.engine))

    async def _refresh(self, stop: asyncio.Event) -> None:
        """Follow roster and log, open entries whose time has come, publish the next week's key when its week begins."""
        week = Week.at(self.node.clock())
        while not stop.is_set():
            await pause(stop, REFRESH_S)
            self._forget_keys()
            if Role.HOLDER in self.node.config.roles:
                await asyncio.to_thread(self._follow_expunged)
                await asyncio.to_thread(self._keep_register)
            try:
                await self.node.parties.refresh()
                await self.follower.follow()
                await self.openings.publish_due()
                if Week.at(self.node.clock()) != week:
                    await self._publish_week_key()
                    week = Week.at(self.node.clock())
            except (BrokerError, HaltedError, PeerError):
                continue


def quiet_transport() -> None:
    """The HTTP library names every address that it asks, ids of messages and searches among them: not in this node's log."""
    for name in ("httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.WARNING)


def serve(node: Node, on_ready: Callable[[], None]) -> None:
    """Serve until SIGTERM or SIGINT; `on_ready` is called once, when the node is."""

    quiet_transport()
    note_start(node)

    async def main() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        service = Service(node)
        announced = asyncio.create_task(_announce(service, on_ready))
        try:
            await service.run(stop)
        finally:
            announced.cancel()

    with serving_in(node.folder):
        check_acts(node.engine)
        with asyncio.Runner(loop_factory=_new_loop) as runner:
            runner.run(main())


def _new_loop() -> asyncio.AbstractEventLoop:
    """uvloop's, as the broker's server takes it, where there is one: it takes a third of the time of Python's own."""
    try:
        from uvloop import new_event_loop  # noqa: PLC0415
    except ImportError:
        return asyncio.new_event_loop()
    return new_event_loop()


async def _announce(service: Service, on_ready: Callable[[], None]) -> None:
    await service.ready.wait()
    on_ready()
