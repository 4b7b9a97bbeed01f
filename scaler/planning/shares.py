"""What the services of a pool may have of its room: what is outstanding, whose claims there are, and how they end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from msgspec import Struct

from scaler.decision import Step, StepMaker
from scaler.planning.arbitration import Claim, Share, arbitrate
from scaler.planning.cards import PoolCard
from scaler.planning.footprints import extra_bytes, footprints_of
from scaler.planning.headroom import Headroom, Need
from scaler.planning.memory import Memory
from scaler.planning.promises import promised
from scaler.planning.rooms import nodes, rooms, unplaced
from scaler.planning.spread import Nodes, headroom
from scaler.planning.supply import NO_SUPPLY, STARTING_S, Supply, supply
from scaler.planning.wants import Want
from scaler.policy import FleetPolicy, PoolPolicy, ServiceKey
from scaler.quantity import format_bytes
from scaler.signals.footprint import CardClass
from scaler.signals.vram_lessons import places
from scaler.snapshot import Snapshot, WorkloadKey


class Allotment(Struct, frozen=True):
    """A claim's outcome: its share, the most that KEDA can have been told by it, and the steps that say why."""

    share: Share
    at_most: int
    steps: StepMaker


def allot(
    snapshot: Snapshot,
    fleet: FleetPolicy,
    memory: Memory,
    pool: PoolPolicy,
    cards: Sequence[PoolCard],
    wants: Mapping[ServiceKey, Want],
) -> dict[ServiceKey, Allotment]:
    """The allotments of all services of the pool that want more than may run by now and are not barred from it."""
    wanting = [w for w in wants.values() if w.barrier is None and w.unlimited > w.least_now]
    if not wanting:
        return {}
    least_soon = {each.workload: each.least_soon for each in wants.values()}
    outstanding = _Outstanding(snapshot, fleet, memory, pool, cards, least_soon)
    claims, promises = [outstanding.claim(each) for each in wanting], outstanding.promises()
    result = arbitrate(claims, outstanding.started(), promises)
    told = sum(replicas for _, replicas in promises)
    return {
        claim.key: Allotment(share, result.at_most[claim.key], partial(outstanding.steps, claim, share, told))
        for claim in claims
        for share in (result.shares[claim.key],)
    }


_NO_EXTRA: Mapping[tuple[CardClass, bool], float] = {}


class _Outstanding:
    """The pool's room, and what is on its way into it."""

    def __init__(
        self,
        snapshot: Snapshot,
        fleet: FleetPolicy,
        memory: Memory,
        pool: PoolPolicy,
        cards: Sequence[PoolCard],
        least_soon: Mapping[WorkloadKey, int],
    ) -> None:
        self._pool, self._memory, self._workloads = pool, memory, snapshot.workloads
        self._services, self._deployments = fleet.in_pool(pool.name), fleet.workloads
        self._footprints = footprints_of(pool, cards, fleet, snapshot, memory)
        self._totals = self._footprints.totals
        self._places = places(card.reading for card in cards)
        self._supplies: dict[WorkloadKey, Supply] = {}
        self._cards: dict[WorkloadKey, int] = {}
        hidden, starting, going = 0, [], dict[WorkloadKey, int]()
        rolling, ahead = dict[WorkloadKey, int](), dict[WorkloadKey, int]()
        time_s, declared, name = snapshot.taken_at_s, self._footprints.declared, pool.name
        for workload, past in memory.workloads.items():
            # Whoever sits on the pool's cards, or is to, holds VRAM, asked about by KEDA or not.
            on_cards = self._places.get(workload, 0)
            if not on_cards and workload not in declared and name not in past.footprints.pools:
                continue
            self._supplies[workload] = each = supply(past.counts, time_s)
            existing, missing, lately = each.existing, each.starting, each.lately
            # On how many cards a replica sits, as far as it has been seen; else one. Rounded down: pods that end are
            # on cards still.
            self._cards[workload] = cards_each = max(1, on_cards // lately if lately else 1, past.footprints.cards)
            if missing:
                starting.append(workload)
            # A card may name a pod before kube-state-metrics shows its replica, by 20 s and more.
            if on_cards > lately * cards_each:
                ahead[workload] = on_cards // cards_each - lately
            # Pods that run and that no card names sit in places that look free: an exporter may name one pod a card.
            unnamed = (existing - missing - each.given_up) * cards_each - on_cards
            if unnamed > 0:
                hidden += unnamed
            # In a rolling update each pod goes and comes elsewhere.
            if each.is_rolling:
                rolling[workload] = going[workload] = existing
                continue
            soon = least_soon.get(workload)
            leaving = lately - (self._wanted(workload, each) if soon is None else soon)
            if leaving > 0:
                going[workload] = leaving
        told_of = sorted(memory.promises.keys() & self._services.keys())
        self._told = {key: self._promised(key) for key in told_of}
        self._needs: dict[ServiceKey, Need] = {}
        # In the order of names: workloads come in another order in each process.
        self._hidden, self._rolling = hidden, dict(sorted(rolling.items()))
        self._roaming = {w: unplaced(self._supplies[w], self._places[w], self._cards[w]) for w in sorted(starting)}
        # One of them is in a free slot or on a card that names it; while pods end, whose names are there still, either.
        placed = {
            w: each.starting if each.lately > each.existing else each.starting - roaming
            for w, roaming in self._roaming.items()
            for each in (self._supplies[w],)
        }
        # Who is named ahead of its replica loads there, whatever else may still come for that promise elsewhere.
        placed |= {workload: placed.get(workload, 0) + pods for workload, pods in ahead.items()}
        self._rooms = rooms(cards, pool, self._footprints, placed, going)
        self._placement, self._nodes = pool.placement, Nodes({}, 0)
        if pool.placement == "spread":
            # Where a replica takes several cards, how many pods a node has cannot be read off its cards.
            self._placement = "spread" if max(self._cards.values(), default=1) == 1 else "worst"
            # All that exist, or end, and that no card names; those of them that have yet to land are outstanding.
            seen = self._places
            unseen = sum(max(0, each.lately - seen.get(w, 0)) for w, each in self._supplies.items())
            self._nodes = nodes(cards, going, unseen - sum(self._roaming.values()))

    def started(self) -> Headroom:
        """The room with all replicas in it that have started, are not resident, and sit on no card yet."""
        room = headroom(self._placement, self._rooms, self._pool.pending_replicas, self._nodes)
        room.occupy(self._hidden)
        for workload, replicas in self._roaming.items():
            room.add(self._reserved(workload), replicas)
        for workload, replicas in self._rolling.items():
            room.move(self._reserved(workload), replicas)
        return room

    def promises(self) -> list[tuple[Need, int]]:
        """What services may have been told and do not show yet."""
        return [(self._need(key), more) for key, more in self._told.items() if more > 0]

    def claim(self, want: Want) -> Claim:
        """What a service asks for."""
        # From zero KEDA brings up minReplicaCount at once, so the first replicas must fit together.
        first = max(1, want.service.min_replicas) if want.least_now == 0 else 1
        need, told = self._need(want.key), self._told.get(want.key, 0)
        # By position: all services may ask at once.
        return Claim(
            want.key, want.least_now, want.unlimited, want.terms.floor, want.service.priority, first, need, told
        )

    def steps(self, claim: Claim, share: Share, told: int) -> list[Step]:
        """The footprint that counted, and what bound; `told` replicas were promised to all services together."""
        workload = self._deployments[claim.key]
        kind = max(self._totals, key=lambda card: (claim.need.held_bytes[card], card), default=None)
        if kind is None:
            return []
        footprint = self._footprints.of(workload, kind)
        cards = f", on each of {claim.need.cards} cards" if claim.need.cards > 1 else ""
        steps = [Step("footprint", footprint.held_bytes, "bytes", f"{footprint.source}: {footprint.text}{cards}")]
        supply_now = self._supplies.get(workload)
        if supply_now is not None and supply_now.given_up:
            text = f"not ready for over {STARTING_S:g} s: nothing is reserved for them any more"
            steps.append(Step("given-up", supply_now.given_up, "replicas", text))
        if share.granted < claim.wanted:
            steps.append(self._fitting(claim, share, told - claim.promised))
        return steps

    def _fitting(self, claim: Claim, share: Share, told_others: int) -> Step:
        """How many more replicas get room, and what they are held against."""
        open_rooms, which = [room for room in self._rooms if room.open_slots], "with a slot"
        if self._placement == "spread":
            own = max(claim.promised, share.granted - claim.replicas)
            outstanding = sum(self._roaming.values()) + sum(self._rolling.values()) + told_others + own + 1
            open_rooms = [room for room in open_rooms if self._nodes.outstanding(room, 1) <= outstanding]
            which += f" that {outstanding} on their way can reach"
        if open_rooms:
            tightest = min(open_rooms, key=lambda room: room.room_bytes)
            over = f"{format_bytes(tightest.room_bytes)} above"
            if tightest.room_bytes < 0:
                over = f"{format_bytes(-tightest.room_bytes)} short of"
            text = f"card {tightest.key}, the tightest of {len(open_rooms)} {which}, is {over} the watermark"
        else:
            text = f"no free slot on {sum(room.slots == room.open_slots for room in self._rooms)} cards"
        starting = sum(each.starting for each in self._supplies.values())
        for count, what in ((starting, "still starting"), (told_others, "told to others and not seen yet")):
            if count > 0:
                text += f"; {count} {what}"
        if share.others:
            text += "; more would fit but for others' claims"
        return Step("fitting", share.granted - claim.replicas, "replicas", f"{text} (placement {self._placement})")

    def _promised(self, key: ServiceKey) -> int:
        workload = self._deployments[key]
        replicas = self._wanted(workload, self._supplies.get(workload, NO_SUPPLY))
        return promised(self._memory.promises[key], replicas)

    def _wanted(self, workload: WorkloadKey, supply_now: Supply) -> int:
        """spec.replicas; while it cannot be seen, what is taken to exist."""
        reading = self._workloads.get(workload)
        replicas = reading.spec_replicas if reading is not None else None
        return replicas if replicas is not None else supply_now.existing

    def _need(self, key: ServiceKey) -> Need:
        """What one more replica takes, on each class of card of the pool; looked up once for its claim and its
        promise."""
        need = self._needs.get(key)
        if need is None:
            workload = self._deployments[key]
            of, low = self._footprints.of, self._services[key].low_watermark
            held = {card: of(workload, card).held_bytes for card in self._totals}
            extra = extra_bytes(self._pool, low, self._totals) if low is not None else _NO_EXTRA
            need = self._needs[key] = Need(held, self._cards.get(workload, 1), extra)
        return need

    def _reserved(self, workload: WorkloadKey) -> Need:
        """What is held against others for a replica that starts."""
        held = {card: self._footprints.expected(workload, card).held_bytes for card in self._totals}
        return Need(held, self._cards.get(workload, 1), _NO_EXTRA)
