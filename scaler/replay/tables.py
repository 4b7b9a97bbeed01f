"""A replay as tables for a terminal: a row a service, a row a pool, then what changed and when."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from scaler.decision import Verdict
from scaler.explain import at
from scaler.quantity import format_bytes
from scaler.replay.clock import Clock
from scaler.replay.divergence import Ahead, ServiceAccount, Withheld
from scaler.replay.summary import Change, PoolAccount, ProblemAccount, Replay, Veto
from scaler.snapshot import Problem

# Enough to see when something began and how it went on; the counts are always whole.
SHOWN_MOMENTS = 3
NOTE = (
    "Real is what the recorded autoscaler had; granted is what KEDA would have been told at that moment, given the\n"
    "real replicas: a recording cannot show what our answers would have changed. Withheld: real scale-ups to more\n"
    "than was granted. Ahead: granted before the recorded autoscaler did the same. Hours: of replicas."
)


def tables(replay: Replay) -> RenderableType:
    """The whole report. Times are UTC; the days are in the title, and beside each time only where that is ambiguous."""
    if replay.start_s is None or replay.end_s is None:
        return Text("no snapshot in that time: nothing was replayed")
    clock = replay.clock
    return Group(
        Text(title(replay), style="bold"),
        *map(Text, warm_up_texts([replay])),
        _services(list(replay.services.values()), clock),
        _scale_ups(list(replay.services.values()), clock),
        _pools(list(replay.pools.values()), clock),
        *([_problems(replay.problems, clock)] if replay.problems else []),
        _changes(replay, clock),
        Text(NOTE, style="dim"),
    )


def title(replay: Replay) -> str:
    """What was replayed."""
    assert replay.start_s is not None
    assert replay.end_s is not None
    return f"{at(replay.start_s)} to {at(replay.end_s)}, {replay.steps} steps"


def warm_up_texts(sides: Sequence[Replay]) -> list[str]:
    """That the start knows too little to scale anything down, and until when: a line where it is so under any of the
    settings."""
    found = [side.warm_up for side in sides if side.warm_up is not None]
    if not found:
        return []
    longest, clock = max(found, key=lambda each: each.until_s), sides[0].clock
    return [
        f"Warming up until {clock.at(longest.until_s)}: nothing is known of before {clock.at(longest.known_s)}, so no "
        "scaleDownWindow is over\nand nothing is scaled down. Vetoes and scale-ups count from the start."
    ]


def table(title: str, *columns: tuple[str, bool]) -> Table:
    """A table with these columns, each with whether it holds numbers."""
    made = Table(title=title, title_justify="left", title_style="bold", pad_edge=False, show_edge=False)
    for name, is_number in columns:
        is_narrow = name not in (
            "service",
            "what",
            "why",
            "reasons",
        )  # only words may break, where they leave no room for the figures
        made.add_column(name, justify="right" if is_number else "left", no_wrap=is_narrow, overflow="fold")
    return made


def _services(accounts: Sequence[ServiceAccount], clock: Clock) -> Table:
    made = table(
        "\nServices",
        ("service", False),
        ("max\nreal", True),
        ("max\ngranted", True),
        ("hours\nreal", True),
        ("hours\ngranted", True),
        ("first veto\n(steps)", False),
        ("withheld", True),
        ("ahead", True),
        ("no\nanswer", True),
    )
    for account in accounts:
        made.add_row(
            f"{account.key.namespace}/{account.key.name}",
            str(account.real_max),
            str(account.granted_max),
            f"{account.real_hours:.1f}",
            f"{account.granted_hours:.1f}",
            clock.at(account.first_veto_s) + (f" ({account.vetoed_steps})" if account.vetoed_steps else ""),
            *(
                str(count) if count else "-"
                for count in (len(account.withheld), len(account.ahead), account.unknown_steps)
            ),
        )
    return made


def _scale_ups(accounts: Sequence[ServiceAccount], clock: Clock) -> Table:
    made = table("\nScale-ups that differ", ("service", False), ("withheld", False), ("ahead", False))
    for account in accounts:
        if account.withheld or account.ahead:
            name = f"{account.key.namespace}/{account.key.name}"
            withheld = [withheld_text(each, clock) for each in account.withheld[:SHOWN_MOMENTS]]
            ahead = [ahead_text(each, clock) for each in account.ahead[:SHOWN_MOMENTS]]
            made.add_row(name, _listed(withheld, len(account.withheld)), _listed(ahead, len(account.ahead)))
    return made


def _pools(accounts: Sequence[PoolAccount], clock: Clock) -> Table:
    made = table(
        "\nPools",
        ("pool", False),
        ("cards", True),
        ("least free VRAM", False),
        ("below low\nwatermark", True),
        ("vetoes", False),
        ("first\nfailure", False),
        ("minutes\nbetween", True),
        ("failed\nrequests", True),
        ("blind", True),
    )
    for account in accounts:
        least = "not seen"
        if account.least_free_bytes is not None:
            least = f"{format_bytes(account.least_free_bytes)} at {clock.at(account.least_at_s)}"
        made.add_row(
            account.name,
            str(account.cards),
            least,
            f"{account.below_hours:.2f} h",
            _vetoes(account.vetoes, clock),
            clock.at(account.first_failure_s),
            minutes(account.warning_s),
            f"{account.failed_requests:,.0f}" if account.flow_steps else "not seen",
            f"{account.blind_steps} steps" if account.blind_steps else "-",
        )
    return made


def _problems(problems: Mapping[Problem, ProblemAccount], clock: Clock) -> Table:
    made = table(
        "\nNot seen, doubted, or suspect", ("signal", False), ("why", False), ("first", False), ("steps", True)
    )
    for problem, account in problems.items():
        made.add_row(problem.signal, problem.text, clock.at(account.first_s), str(account.steps))
    return made


def _changes(replay: Replay, clock: Clock) -> Table:
    made = table(
        "\nChanges",
        ("time", False),
        ("what", False),
        ("replicas", True),
        ("demand", True),
        ("granted", True),
        ("verdict", False),
        ("reasons", False),
        ("free VRAM", True),
    )
    for change in replay.changes:
        made.add_row(clock.at(change.time_s), *_change(change), style="dim" if change.decision is None else "")
    if replay.changes_left_out:
        made.caption = f"and {replay.changes_left_out} changes more; --all shows them"
        made.caption_justify = "left"
    return made


def _change(change: Change) -> tuple[str, ...]:
    pool, decision = change.pool, change.decision
    free = "unknown" if pool is None or pool.free_bytes is None else format_bytes(pool.free_bytes)
    if decision is None:
        name = pool.name if pool is not None else ""
        return f"pool {name}", "", "", "", "veto begins" if pool is not None and pool.vetoed else "veto ends", "", free
    numbers = (
        "?" if number is None else str(number) for number in (decision.replicas, decision.demand, decision.granted)
    )
    what = f"{decision.key.namespace}/{decision.key.name}"
    why = " ".join(decision.reasons)
    if decision.verdict is Verdict.UNKNOWN and decision.steps:
        why += f": {decision.steps[0].text}"
    return what, *numbers, str(decision.verdict), why, free


def withheld_text(withheld: Withheld, clock: Clock) -> str:
    """00:03:00 2→3, granted 2 (low-vram), 5.5 GiB free"""
    what = f"{clock.at(withheld.time_s)} {withheld.before}→{withheld.after}"
    return f"{what}, granted {withheld.granted} ({withheld.reason}), {_free(withheld.free_bytes)}"


def ahead_text(ahead: Ahead, clock: Clock) -> str:
    """05:59:45 2→3, 6.0 min earlier, 6.8 GiB free"""
    match ahead.outcome:
        case "followed":
            then = f"{minutes(ahead.earlier_s)} min earlier"
        case "withdrawn":
            then = f"withdrawn {clock.at(ahead.until_s)}"
        case _:
            then = "not followed"
    return f"{clock.at(ahead.time_s)} {ahead.before}→{ahead.after}, {then}, {_free(ahead.free_bytes)}"


def minutes(duration_s: float | None) -> str:
    """Seconds as minutes to a tenth."""
    return "-" if duration_s is None else f"{duration_s / 60:.1f}"


def _free(free_bytes: float | None) -> str:
    return "free unknown" if free_bytes is None else f"{format_bytes(free_bytes)} free"


def _vetoes(vetoes: Sequence[Veto], clock: Clock) -> str:
    if not vetoes:
        return "-"
    shown = [
        f"{clock.at(v.start_s)} to {'the end' if v.end_s is None else clock.at(v.end_s)}"
        for v in vetoes[:SHOWN_MOMENTS]
    ]
    return _listed(shown, len(vetoes))


def _listed(lines: list[str], count: int) -> str:
    more = [f"and {count - len(lines)} more"] if count > len(lines) else []
    return "\n".join([*lines, *more])
