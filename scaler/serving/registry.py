"""The ScaledObjects that KEDA asks about, learnt from its calls: there is nothing to register and nothing to watch."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from scaler.policy import BadPolicy, OperatorPolicy, ServiceKey, ServicePolicy, service_policy

# KEDA asks at least every pollingInterval, 30 s by default, also at 0 replicas. A quarter of an hour outlives its
# restarts and the longest usual interval of 5 minutes.
FORGOTTEN_AFTER_S = 900.0
MOST_SCALED_OBJECTS = 20_000
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?", re.ASCII)


@dataclass(slots=True)
class ScaledObject:
    """One ScaledObject as last asked about: its policy, or what is wrong with its metadata. `asked_s` None = kept."""

    key: ServiceKey
    metadata: dict[str, str] | None
    policy: ServicePolicy | None
    fault: str
    asked_s: float | None


class Registry:
    """All ScaledObjects to plan for. Not for threads: the event loop's alone.

    `kept` are planned for from the start, as if KEDA had asked; `shadow` are shown and told to nobody, until KEDA asks.

    Attributes:
        refused_total: asked about, but not taken in because `most` are known already.
    """

    def __init__(
        self,
        operator: OperatorPolicy,
        kept: Mapping[ServiceKey, ServicePolicy] | None = None,
        shadow: Mapping[ServiceKey, ServicePolicy] | None = None,
        most: int = MOST_SCALED_OBJECTS,
        steady_s: Callable[[], float] = time.monotonic,
        settle_s: float | None = None,
    ) -> None:
        self._settle_s = operator.settle_s if settle_s is None else settle_s
        self._first_asked_s: float | None = None
        self._operator, self._most, self._steady_s = operator, most, steady_s
        self._known: dict[tuple[str, str], ScaledObject] = {
            key: ScaledObject(key, None, policy, "", None) for key, policy in (kept or {}).items()
        }
        self._shadow = dict(shadow or {})
        self.refused_total = 0

    def __len__(self) -> int:
        return len(self._known)

    @property
    def is_full(self) -> bool:
        return len(self._known) >= self._most

    @property
    def is_settled(self) -> bool:
        """Whether KEDA has asked for long enough: each ScaledObject has come up, and what another instance told before
        has been seen or is void. Before the first call nobody is told anything."""
        return self._first_asked_s is None or self._steady_s() - self._first_asked_s >= self._settle_s

    def ask(self, namespace: str, name: str, metadata: Mapping[str, str]) -> ScaledObject:
        """The ScaledObject as KEDA describes it now. A changed policy is planned with at the next tick.

        In the usual case one look-up and one comparison of 12 entries, 3 us; metadata is read once for each change.
        """
        given = dict(metadata)
        if self._first_asked_s is None:
            self._first_asked_s = self._steady_s()
        known = self._known.get((namespace, name))
        if known is None:
            return self._meet(namespace, name, given)
        if known.metadata != given:
            known.metadata = given
            known.policy, known.fault = self._read(known.key, given)
        if known.asked_s is not None:
            known.asked_s = self._steady_s()
        return known

    def keep(self, key: ServiceKey) -> None:
        """Counts as asking, without saying anything new: an open stream may still carry yesterday's metadata."""
        known = self._known.get(key)
        if known is not None and known.asked_s is not None:
            known.asked_s = self._steady_s()

    def policies(self) -> dict[ServiceKey, ServicePolicy]:
        """What to plan for now; forgets what has not been asked about for a quarter of an hour."""
        oldest_s = self._steady_s() - FORGOTTEN_AFTER_S
        gone = [place for place, each in self._known.items() if each.asked_s is not None and each.asked_s < oldest_s]
        for place in gone:
            del self._known[place]
        if gone and all(each.asked_s is None for each in self._known.values()):
            self._first_asked_s = None  # KEDA asks another instance now
        return {each.key: each.policy for each in self._known.values() if each.policy is not None}

    def shadows(self) -> dict[ServiceKey, ServicePolicy]:
        """What to plan for while nobody acts on it: the services listed for that, less those that KEDA asks about.

        KEDA asks for a ScaledObject that somebody applied, and an HPA acts on the answer. To refuse it for an entry
        that was left in a file would freeze the service; so it is answered, by the metadata that KEDA sends.
        """
        return {key: policy for key, policy in self._shadow.items() if key not in self._known}

    def asked_shadows(self) -> list[ServiceKey]:
        """The services listed as shadows that KEDA asks about none the less."""
        return sorted(key for key in self._shadow if key in self._known)

    def _meet(self, namespace: str, name: str, metadata: dict[str, str]) -> ScaledObject:
        key = ServiceKey(namespace, name)
        met = ScaledObject(key, metadata, *self._read(key, metadata), self._steady_s())
        if not self.is_full:
            self._known[namespace, name] = met
        else:
            self.refused_total += 1
        return met

    def _read(self, key: ServiceKey, metadata: dict[str, str]) -> tuple[ServicePolicy | None, str]:
        for field, value in zip(("namespace", "name"), key, strict=True):
            if not _NAME.fullmatch(value):
                return None, f"{field}: {value[:80]!r}: it takes a Kubernetes name of 1 to 253 characters"
        try:
            return service_policy(key, metadata, self._operator), ""
        except BadPolicy as fault:
            return None, str(fault)
