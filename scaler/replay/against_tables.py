"""Two settings over the same recorded time, as tables for a terminal."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from scaler.replay.against import Answer, Comparison, Parting
from scaler.replay.clock import Clock
from scaler.replay.divergence import ServiceAccount
from scaler.replay.summary import PoolAccount
from scaler.replay.tables import NOTE, table, title, warm_up_texts

A_AND_B = "A is --config, B is --against; where one number stands, they agree. "


def against_tables(comparison: Comparison, name_a: str, name_b: str, most: int | None) -> RenderableType:
    """What differs per service and per pool, and the first `most` moments where it does (None: all that were kept)."""
    replay = comparison.a
    if replay.start_s is None or replay.end_s is None:
        return Text("no snapshot in that time: nothing was replayed")
    clock = replay.clock
    return Group(
        Text(title(replay), style="bold"),
        Text(f"A: {name_a}\nB: {name_b}"),
        *map(Text, warm_up_texts([comparison.a, comparison.b])),
        _services(comparison, clock),
        _pools(comparison, clock),
        _partings(comparison, clock, most),
        Text(A_AND_B + "Differ: moments at which they grant different numbers.\n" + NOTE, style="dim"),
    )


def pair(a: object, b: object) -> str:
    """Both where they differ, one where not."""
    return str(a) if a == b else f"{a} | {b}"


def _services(comparison: Comparison, clock: Clock) -> Table:
    made = table(
        "\nServices, A | B",
        ("service", False),
        ("hours\nreal", True),
        ("hours\ngranted", True),
        ("max\ngranted", True),
        ("vetoed\nsteps", True),
        ("withheld", True),
        ("ahead", True),
        ("no\nanswer", True),
        ("differ\n(steps)", False),
    )
    for key, a in comparison.a.services.items():
        b = comparison.b.services.get(key, ServiceAccount(key))
        steps = comparison.differ_steps.get(key, 0)
        made.add_row(
            "/".join(key),
            f"{a.real_hours:.1f}",
            pair(f"{a.granted_hours:.1f}", f"{b.granted_hours:.1f}"),
            pair(a.granted_max, b.granted_max),
            pair(a.vetoed_steps, b.vetoed_steps),
            pair(len(a.withheld), len(b.withheld)),
            pair(len(a.ahead), len(b.ahead)),
            pair(a.unknown_steps, b.unknown_steps),
            f"from {clock.at(comparison.first_s[key])} ({steps})" if steps else "never",
        )
    return made


def _pools(comparison: Comparison, clock: Clock) -> Table:
    made = table(
        "\nPools, A | B",
        ("pool", False),
        ("below low\nwatermark", True),
        ("vetoes", True),
        ("first veto", False),
        ("minutes to\nfirst failure", True),
        ("differ\n(steps)", True),
    )
    for name in dict.fromkeys((*comparison.a.pools, *comparison.b.pools)):
        a, b = (side.pools.get(name, PoolAccount(name)) for side in (comparison.a, comparison.b))
        made.add_row(
            name,
            pair(f"{a.below_hours:.2f} h", f"{b.below_hours:.2f} h"),
            pair(len(a.vetoes), len(b.vetoes)),
            pair(*(clock.at(each.vetoes[0].start_s if each.vetoes else None) for each in (a, b))),
            pair(*("-" if each.warning_s is None else f"{each.warning_s / 60:.1f}" for each in (a, b))),
            str(comparison.pool_steps.get(name, 0)),
        )
    return made


def _partings(comparison: Comparison, clock: Clock, most: int | None) -> Table:
    made = table("\nWhere they part", ("time", False), ("what", False), ("A", False), ("B", False))
    shown = comparison.partings[:most]
    for parting in shown:
        made.add_row(clock.at(parting.time_s), what(parting), *answers(parting))
    left_out = len(comparison.partings) - len(shown) + comparison.partings_left_out
    if not comparison.partings:
        made.caption = "nowhere: A and B answer the same at every moment"
    elif left_out:
        shows = "; --all shows them" if len(comparison.partings) > len(shown) else ""
        made.caption = f"and {left_out} moments more{shows}"
    made.caption_justify = "left"
    return made


def what(parting: Parting) -> str:
    """Of what A and B think differently."""
    return f"pool {parting.pool}" if parting.service is None else "/".join(parting.service)


def answers(parting: Parting) -> tuple[str, str]:
    """What A and what B say."""
    return _answer(parting.a), "the same" if parting.a == parting.b else _answer(parting.b)


def _answer(answer: Answer | bool | None) -> str:
    if answer is None:
        return "not known"
    if isinstance(answer, bool):
        return "veto" if answer else "no veto"
    granted = "no answer" if answer.granted is None else f"{answer.granted} of {answer.demand}"
    return f"{granted}, {answer.verdict}" + (f" ({answer.reason})" if answer.reason is not None else "")
