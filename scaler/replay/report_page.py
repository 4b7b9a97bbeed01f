"""A replay as a page: the verdict, each pool's VRAM, each service's replicas and signals, and the tables of all."""

from __future__ import annotations

import math
from collections.abc import Sequence

from scaler.explain import at
from scaler.replay.against import Comparison
from scaler.replay.asked import Asked
from scaler.replay.clock import Clock
from scaler.replay.divergence import ServiceAccount
from scaler.replay.drawing import Drawing, PoolDrawing, ServiceDrawing
from scaler.replay.page_tables import asked_table, compared_tables, moments_tables, pool_table, services_table
from scaler.replay.story import against, details, is_blind, verdict, withheld_of, worst_pool
from scaler.replay.summary import PoolAccount, Replay
from scaler.replay.tables import warm_up_texts
from scaler.report.page import Band, Chart, Curve, Figure, Page, Role, Row, Section, Tellings
from scaler.report.thin import Changes, Extremes, Spans

MOST_CARDS = 24  # drawn; more are a grey area, and those that came lowest matter
MOST_OPEN = 3  # services that are open from the start
SIDES: tuple[Role, Role] = ("ours", "other")

WHAT_IT_IS = (
    "Real is what the recorded autoscaler did. Granted is what KEDA would have been told at that moment, given the "
    "real replicas. A recording cannot show what our answers would have changed: after a scale-up that we withhold, "
    "the next moment is still the one in which it happened."
)


def replay_page(
    replay: Replay,
    drawing: Drawing,
    source: str,
    step_s: float,
    comparison: Comparison | None,
    names: Sequence[str],
    asked: Asked | None = None,
) -> Page:
    """The page of A's replay; with a comparison B is drawn beside it. `names` are those of the settings, `asked` what
    the present triggers asked for."""
    start_s, end_s, clock = replay.start_s or 0.0, replay.end_s or 0.0, replay.clock
    accounts = sorted(replay.services.values(), key=_by_divergence)
    if comparison is not None:
        accounts.sort(key=lambda account: comparison.first_s.get(account.key, math.inf))
    sections = [
        _pool_section(replay.pools[name], each, drawing.at, clock, drawing.is_tightest(name))
        for name, each in drawing.pools.items()
    ]
    if comparison is not None:
        sections.append(_against_section(comparison, names, clock))
    sections.append(_services_section(accounts, asked or Asked(), clock))
    for number, account in enumerate(accounts):
        is_open = number < MOST_OPEN and bool(account.withheld or account.ahead)
        sections.append(_service_section(account, drawing.services[account.key], drawing.at, clock, is_open))
    subtitle = f"Dry run of {source}. {at(start_s)[:-4]} to {at(end_s)[:-4]} UTC, a decision every {step_s:g} s."
    if comparison is not None:
        subtitle += f" A is {names[0]}, B is {names[1]}; what stands without a letter is A's."
    return Page(
        title=f"vram-scaler replay, {at(start_s)} to {at(end_s)}",
        subtitle=subtitle,
        verdict=verdict(replay) if comparison is None else [*verdict(replay), against(comparison)],
        details=[*details(replay), *warm_up_texts([replay] if comparison is None else [replay, comparison.b])],
        figures=_figures(replay),
        sections=sections,
        notes=_notes(drawing),
        start_s=start_s,
        step_s=step_s,
        steps=drawing.at + 1,
        tellings=[_tellings(account, drawing, start_s, step_s, comparison, names) for account in accounts],
    )


def _figures(replay: Replay) -> list[Figure]:
    services, pools, pool = replay.services.values(), replay.pools.values(), worst_pool(replay)
    found = []
    if pool is not None and pool.warning_s is not None and pool.warning_s > 0:
        found.append(Figure(f"{pool.warning_s / 60:.0f} min", "from veto to first failure"))
    if not is_blind(replay):
        ups = sum(each.real_ups for each in services)
        real, granted = (sum(hours) for hours in zip(*((s.real_hours, s.granted_hours) for s in services), strict=True))
        found.append(Figure(f"{len(withheld_of(replay))} of {ups}", "real scale-ups withheld"))
        found.append(Figure(f"{real:.0f} → {granted:.0f}", "replica-hours, real → granted"))
    if pool is not None and pool.least_free_bytes is not None:
        of = f", pool {pool.name}" if len(pools) > 1 else ""
        found.append(Figure(f"{pool.below_hours:.1f} h", f"below the low watermark{of}"))
    if any(each.flow_steps for each in pools):
        found.append(Figure(f"{sum(each.failed_requests for each in pools):,.0f}", "failed requests"))
    return found


def _notes(drawing: Drawing) -> list[str]:
    texts = [WHAT_IT_IS]
    if drawing.is_thinned:
        texts.append(
            f"Replicas, grants and vetoes are drawn at every moment. Of measured curves, the least and the highest of "
            f"every {drawing.width} moments are, where they were: no dip and no peak is left out."
        )
    left_out = sum(side.told.left_out for each in drawing.services.values() for side in each.sides)
    texts.append(
        "A decision's steps are kept for the moments at which its numbers, verdict or first reason changed"
        + (
            f"; {left_out:,} of them were left out, those first that changed demand or grant alone."
            if left_out
            else "."
        )
    )
    texts.append("Failed requests are those that may be for lack of VRAM: all failures where the server does not tell.")
    return texts


def _pool_section(account: PoolAccount, drawing: PoolDrawing, last: int, clock: Clock, is_tightest: bool) -> Section:
    cards = sorted(drawing.cards.items(), key=lambda item: (item[1].least, item[0]))
    shown = cards[:MOST_CARDS]
    curves = [_changes(0, "real replicas", "real", drawing.real)]
    for number, granted in enumerate(drawing.granted):
        curves.append(_changes(0, _sided("granted", number, drawing.granted), SIDES[number], granted))
    curves += _asked(drawing)
    curves += [_extremes(1, f"card {key}", "card", each, is_quiet=True) for key, each in shown]
    curves.append(_extremes(1, "tightest card" if is_tightest else "what counts", "tightest", drawing.free_gib))
    low = drawing.low_gib
    curves.append(_changes(1, _sided("low watermark", 0, low), "watermark", low[0]))
    if len(low) > 1 and low[1].points.values != low[0].points.values:
        curves.append(_changes(1, "low watermark, B", "other", low[1]))
    curves.append(_extremes(2, "failed requests", "failures", drawing.failed_per_min))
    chart = Chart(
        label=f"Pool {account.name} over time: replicas, free VRAM of each card with the watermark, failed requests",
        rows=(
            Row("replicas of the pool's services", 150),
            Row("free VRAM, GiB", 165),
            Row("failed requests per minute", 105),
        ),
        curves=curves,
        bands=_bands(drawing.vetoes, last),
    )
    text = f"{account.cards} cards"
    if len(cards) > len(shown):
        text += f"; drawn are the {MOST_CARDS} whose free VRAM came lowest"
    tables = (pool_table(account, clock),)
    return Section(f"pool-{account.name}", f"Pool {account.name}", text, (chart,), tables)


def _services_section(accounts: Sequence[ServiceAccount], asked: Asked, clock: Clock) -> Section:
    tables = [services_table(accounts)]
    if asked.services:
        tables.append(asked_table(asked, clock))
    text = "Granted: told at that moment, given the real replicas. What our answers would have changed is not recorded."
    return Section("services", "Services", text, (), tables)


def _service_section(
    account: ServiceAccount, drawing: ServiceDrawing, last: int, clock: Clock, is_open: bool
) -> Section:
    name = "/".join(account.key)
    granted = [side.granted for side in drawing.sides]
    curves = [_changes(0, "real replicas", "real", drawing.real)]
    for number, side in enumerate(drawing.sides):
        curves.append(_changes(0, _sided("granted", number, granted), SIDES[number], side.granted))
    curves += [
        _changes(0, _sided("demand", 0, granted), "demand", drawing.sides[0].demand),
        *_asked(drawing),
        _extremes(1, "in flight as read", "real", drawing.inflight),
        _extremes(1, "own in flight, corrected", "ours", drawing.own_inflight),
        _extremes(2, "failed requests", "failures", drawing.failed_per_min),
    ]
    chart = Chart(
        label=f"{name} over time: real, granted and demanded replicas, requests in flight, failed requests",
        rows=(Row("replicas", 170), Row("requests in flight", 130), Row("failed requests per minute", 100)),
        curves=curves,
        bands=_bands([side.vetoes for side in drawing.sides], last),
        subject=name,
    )
    text = (
        f"{len(account.withheld)} scale-ups withheld, {len(account.ahead)} ahead; replica-hours "
        f"{account.real_hours:.1f} real, {account.granted_hours:.1f} granted"
    )
    tables = moments_tables(account, clock)
    return Section(f"service-{account.key.namespace}-{account.key.name}", name, text, (chart,), tables, is_open)


def _against_section(comparison: Comparison, names: Sequence[str], clock: Clock) -> Section:
    return Section("against", "A and B", f"A: {names[0]}; B: {names[1]}", (), compared_tables(comparison, clock))


def _tellings(
    account: ServiceAccount,
    drawing: Drawing,
    start_s: float,
    step_s: float,
    comparison: Comparison | None,
    names: Sequence[str],
) -> Tellings:
    """Reading begins where A and B part, else at the first veto, else at the first scale-up that differs from what was,
    else at the end."""
    sides = drawing.services[account.key].sides
    moments = [each.time_s for each in account.withheld[:1]] + [each.time_s for each in account.ahead[:1]]
    first_s = account.first_veto_s if account.first_veto_s is not None else min(moments, default=None)
    if comparison is not None:
        first_s = comparison.first_s.get(account.key, first_s)
    begin = drawing.at if first_s is None else round((first_s - start_s) / step_s)
    by_settings = {
        f"{letter}: {name}" if len(sides) > 1 else name: side.told.tellings
        for letter, name, side in zip("AB", names, sides, strict=False)
    }
    return Tellings("/".join(account.key), by_settings, begin, sum(side.told.left_out for side in sides))


def _asked(drawing: PoolDrawing | ServiceDrawing) -> list[Curve]:
    """What the present triggers asked for, where that is ever known; drawn over what it may coincide with."""
    is_known = any(each is not None for each in drawing.asked.points.values)
    return [_changes(0, "asked by the present triggers", "asked", drawing.asked)] if is_known else []


def _changes(row: int, name: str, role: Role, curve: Changes) -> Curve:
    return Curve(row, name, role, curve.points.at, curve.points.values, is_step=True)


def _extremes(row: int, name: str, role: Role, curve: Extremes, is_quiet: bool = False) -> Curve:
    points = curve.points()
    return Curve(row, name, role, points.at, points.values, is_quiet=is_quiet)


def _bands(vetoes: Sequence[Spans], last: int) -> list[Band]:
    return [Band(*span, number == 1) for number, spans in enumerate(vetoes) for span in spans.until(last)]


def _sided(name: str, number: int, sides: Sequence[object]) -> str:
    return f"{name}, {'AB'[number]}" if len(sides) > 1 else name


def _by_divergence(account: ServiceAccount) -> tuple[float, ...]:
    return -(len(account.withheld) + len(account.ahead)), -abs(account.real_hours - account.granted_hours)
