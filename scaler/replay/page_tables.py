"""The tables of a replay's page: what they hold stands in its charts, too, and is all there is with scripts off."""

from __future__ import annotations

from collections.abc import Sequence

from scaler.quantity import format_bytes
from scaler.replay.against import Comparison
from scaler.replay.against_tables import answers, pair, what
from scaler.replay.asked import Asked
from scaler.replay.clock import Clock
from scaler.replay.divergence import ServiceAccount
from scaler.replay.summary import PoolAccount, Veto
from scaler.replay.tables import minutes
from scaler.report.page import Column, Table

MOST_ROWS = 200  # of a table of moments


def pool_table(account: PoolAccount, clock: Clock) -> Table:
    """A pool's figures."""
    least = "not seen"
    if account.least_free_bytes is not None:
        least = f"{format_bytes(account.least_free_bytes)} at {clock.at(account.least_at_s)}"
    facts = [
        ("least free VRAM", least),
        ("below the low watermark", f"{account.below_hours:.2f} h"),
        ("vetoes", _vetoes(account.vetoes, clock)),
        ("first failure", clock.at(account.first_failure_s)),
        ("minutes from the first veto to it", minutes(account.warning_s)),
        (
            "requests failed",
            f"{account.failed_requests:,.0f} of {account.requests:,.0f}" if account.flow_steps else "not seen",
        ),
        ("moments without a reading", str(account.blind_steps)),
    ]
    return Table(f"Pool {account.name}", (Column("what"), Column("figure")), facts)


def services_table(accounts: Sequence[ServiceAccount]) -> Table:
    """A row a service."""
    columns = (
        Column("service"),
        *(Column(name, True) for name in ("max real", "max granted", "hours real", "hours granted")),
        *(Column(name, True) for name in ("withheld", "ahead", "vetoed moments", "no answer")),
    )
    rows = [
        (
            "/".join(each.key),
            *(str(each.real_max), str(each.granted_max), f"{each.real_hours:.1f}", f"{each.granted_hours:.1f}"),
            *(str(len(each.withheld)), str(len(each.ahead)), str(each.vetoed_steps), str(each.unknown_steps)),
        )
        for each in accounts
    ]
    note = (
        "Withheld: real scale-ups to more than was granted. Ahead: granted before the real autoscaler did the same. "
        "Hours: replicas x time, over the moments with an answer."
    )
    return Table("Replicas as they were and as they would have been granted", columns, rows, note)


def asked_table(asked: Asked, clock: Clock) -> Table:
    """What the present triggers asked for, of the services whose triggers were evaluated."""
    rows = []
    for key, account in asked.services.items():
        beyond = "never"
        if account.beyond:
            first = account.beyond[0]
            beyond = f"{len(account.beyond)} times, first {clock.at(first.time_s)}: {first.asked}, not {first.granted}"
        figures = (str(account.asked_max), f"{account.asked_hours:.1f}", f"{account.granted_hours:.1f}")
        rows.append(("/".join(key), *figures, beyond))
    names = ("max asked", "hours asked", "hours granted")
    columns = (Column("service"), *(Column(name, True) for name in names), Column("asked for more than was granted"))
    return Table("What the present triggers asked for", columns, rows)


def moments_tables(account: ServiceAccount, clock: Clock) -> list[Table]:
    """The scale-ups of a service that differ: those withheld, and those ahead."""
    found = []
    if account.withheld:
        rows = [
            (
                clock.at(each.time_s),
                f"{each.before}→{each.after}",
                str(each.granted),
                str(each.reason),
                _free(each.free_bytes),
            )
            for each in account.withheld[:MOST_ROWS]
        ]
        names = ("moment", "real scale-up", "granted", "reason", "free VRAM then")
        found.append(Table("Withheld", [Column(each) for each in names], rows, _cut(len(account.withheld))))
    if account.ahead:
        rows = [
            (
                clock.at(each.time_s),
                f"{each.before}→{each.after}",
                minutes(each.earlier_s) if each.outcome == "followed" else "never",
                {
                    "followed": f"followed {clock.at(each.until_s)}",
                    "withdrawn": f"withdrawn {clock.at(each.until_s)}",
                }.get(each.outcome, "granted to the end"),
                _free(each.free_bytes),
            )
            for each in account.ahead[:MOST_ROWS]
        ]
        names = ("moment", "granted", "minutes earlier", "then", "free VRAM then")
        found.append(Table("Ahead", [Column(each) for each in names], rows, _cut(len(account.ahead))))
    return found


def compared_tables(comparison: Comparison, clock: Clock) -> tuple[Table, ...]:
    """A and B: a row a service, and the moments at which they part."""
    rows = []
    for key, a in comparison.a.services.items():
        b = comparison.b.services.get(key, ServiceAccount(key))
        steps = comparison.differ_steps.get(key, 0)
        rows.append(
            (
                "/".join(key),
                pair(f"{a.granted_hours:.1f}", f"{b.granted_hours:.1f}"),
                pair(a.granted_max, b.granted_max),
                pair(a.vetoed_steps, b.vetoed_steps),
                pair(len(a.withheld), len(b.withheld)),
                pair(len(a.ahead), len(b.ahead)),
                f"{steps}, from {clock.at(comparison.first_s[key])}" if steps else "none",
            )
        )
    columns = [Column("service")] + [
        Column(name)
        for name in ("hours granted", "max granted", "vetoed moments", "withheld", "ahead", "moments that differ")
    ]
    partings = [(clock.at(each.time_s), what(each), *answers(each)) for each in comparison.partings[:MOST_ROWS]]
    moments = [Column(name) for name in ("moment", "what", "A", "B")]
    left_out = len(comparison.partings) + comparison.partings_left_out
    return (
        Table("A | B; one number where they agree", columns, rows),
        Table("Where they part", moments, partings, _cut(left_out) if partings else "Nowhere."),
    )


def _vetoes(vetoes: Sequence[Veto], clock: Clock) -> str:
    lines = [
        f"{clock.at(each.start_s)} to {'the end' if each.end_s is None else clock.at(each.end_s)}"
        for each in vetoes[:MOST_ROWS]
    ]
    return "\n".join(lines) or "none"


def _free(free_bytes: float | None) -> str:
    return "unknown" if free_bytes is None else format_bytes(free_bytes)


def _cut(count: int) -> str:
    return f"The first {MOST_ROWS} of {count}." if count > MOST_ROWS else ""
