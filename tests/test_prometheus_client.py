"""Whatever a Prometheus, or what stands in front of it, answers: a typed outcome, in time, and never a zero."""

from __future__ import annotations

import gzip
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from scaler.policy import Timing
from scaler.snapshot import CardKey, HeldVram, Problem, WorkloadKey
from scaler.sources import checked_session
from scaler.sources.checked_session import QueryFailed
from scaler.sources.prometheus import PrometheusSettings, PrometheusSource
from scaler.sources.source import SourceUnavailable
from tests.fake_prometheus import Answering, Asked, FakePrometheus, Reply, success, vector

AT_S = 1_750_204_800.0
DEADLINE_S = 0.6
SERVICE = {"namespace": "models", "deployment": "resnet"}
CARD = {"UUID": "GPU-1", "node": "node-1", "modelName": "Tesla T4"}
RESNET = WorkloadKey("models", "resnet")
GIB = 1024**3


def healthy(asked: Asked) -> Reply:
    """One service with 12 requests waiting, one card with 2 GiB of 15 free, each in the query that asks for it."""
    if '"spec_replicas"' in asked.query:
        return vector(({**SERVICE, "signal": "spec_replicas"}, "2"))
    if '"queued"' in asked.query:
        return vector(({**SERVICE, "signal": "queued"}, "12"))
    if '"free_bytes"' in asked.query:
        return vector(
            ({**CARD, "signal": "free_bytes"}, str(2 * GIB)),
            ({"UUID": "GPU-1", "signal": "total_bytes"}, str(15 * GIB)),
        )
    if '"scraped_pods"' in asked.query:
        return vector(({**SERVICE, "signal": "scraped_pods"}, "2"))
    return vector()


def except_for(signal: str, reply: Reply) -> Answering:
    return lambda asked: reply if f'"{signal}"' in asked.query else healthy(asked)


def source(fake: FakePrometheus | str, **settings: Any) -> PrometheusSource:
    url = fake if isinstance(fake, str) else fake.url
    return PrometheusSource(PrometheusSettings(url=url, **{"deadline_s": "600ms", **settings}), Timing())


@pytest.mark.parametrize(
    ("answering", "words"),
    [
        pytest.param(lambda _: Reply(silent=True), "unavailable: no answer", id="slow"),
        pytest.param(lambda _: Reply(dripping="body"), "unavailable: ", id="dripping body"),
        pytest.param(lambda _: Reply(dripping="header"), "unavailable: no answer", id="dripping header"),
        pytest.param(
            lambda _: Reply(429, b"later", {"Retry-After": "3600"}), "unavailable: HTTP 429: 'later'", id="429"
        ),
        pytest.param(lambda _: Reply(500, b"oh"), "unavailable: HTTP 500: 'oh'", id="500"),
        pytest.param(lambda _: Reply(503), "unavailable: HTTP 503", id="503"),
        pytest.param(lambda _: Reply(401), "refused: HTTP 401", id="401"),
        pytest.param(lambda _: Reply(403), "refused: HTTP 403", id="403 to POST and GET"),
        pytest.param(lambda _: Reply(404, b"no"), "refused: HTTP 404: 'no'", id="wrong path"),
        pytest.param(
            lambda _: Reply(302, headers={"Location": "http://192.0.2.1/"}), "bad-reply: HTTP 302", id="redirect"
        ),
        pytest.param(
            lambda _: Reply(400, b'{"status":"error","errorType":"bad_data","error":"parse error"}'),
            "bad-query: HTTP 400, bad_data: parse error",
            id="bad query",
        ),
        pytest.param(lambda _: Reply(body=b"<html>Sign in</html>"), "bad-reply: not JSON: '<html>Sign in", id="HTML"),
        pytest.param(lambda _: Reply(body=b""), "bad-reply: not JSON", id="empty body"),
        pytest.param(lambda _: Reply(body=b"[" * 100_000), "bad-reply: not JSON", id="JSON too deep"),
        pytest.param(lambda _: Reply(body=b"[1, 2]"), "bad-reply: JSON, but not an object", id="JSON list"),
        pytest.param(lambda _: Reply(body=b'{"status":"success"}'), "bad-reply: no data.result", id="no data"),
        pytest.param(
            lambda _: Reply(body=b'{"status":"error","errorType":"execution","error":"boom"}'),
            "bad-reply: status 'error', execution: boom",
            id="status error on 200",
        ),
        pytest.param(
            lambda _: success({"resultType": "scalar", "result": [0, "3"]}),
            "bad-reply: resultType 'scalar'",
            id="scalar",
        ),
        pytest.param(
            lambda _: success({"resultType": "vector", "result": [{"metric": {}, "histogram": [0, {}]}]}),
            "bad-reply: a series that is not one",
            id="native histogram",
        ),
        pytest.param(lambda _: vector((SERVICE, "many")), "bad-reply: a series that is not one", id="not a number"),
        pytest.param(
            lambda _: Reply(
                body=b'{"status":"success","data":{"resultType":"vector","result":[{"metric":{},"value":[7,"1"]}]}}\n#'
            ),
            "bad-reply: not JSON",
            id="JSON and more",
        ),
        pytest.param(lambda _: Reply(headers={"Content-Length": "999"}), "unavailable: ", id="body that stops"),
    ],
)
def test_nothing_readable_is_unavailable_with_one_line_and_in_time(answering: Answering, words: str) -> None:
    with FakePrometheus(answering) as fake:
        started = time.monotonic()
        with pytest.raises(SourceUnavailable) as raised:
            source(fake).snapshot_at(AT_S)
        took_s = time.monotonic() - started
    text = str(raised.value)
    assert text.startswith(f"{fake.url}: all 11 queries failed; replicas: ")
    assert words in text
    assert "\n" not in text
    assert len(text) < 450
    assert took_s < DEADLINE_S + 0.5


def test_the_thread_that_reads_a_dripping_body_ends_at_its_timeout() -> None:
    """Else each tick would leave threads behind; read(n) would wait for n bytes, 20 ms each."""
    session = checked_session.CheckedSession()
    with FakePrometheus(lambda _: Reply(dripping="body")) as fake, ThreadPoolExecutor(1) as pool:
        try:
            outcome = pool.submit(session.get, fake.url, timeout=0.2).exception(timeout=2)
        finally:
            fake.close()
    assert isinstance(outcome, QueryFailed)
    assert "the reply was not complete in time" in str(outcome)


def test_a_server_that_is_down_is_unavailable() -> None:
    with FakePrometheus(healthy) as fake:
        url = fake.url
    with pytest.raises(SourceUnavailable, match="Connection refused"):
        source(url).snapshot_at(AT_S)


def test_a_huge_body_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = Reply(body=gzip.compress(b" " * 5 * 1024**2), headers={"Content-Encoding": "gzip"})
    with FakePrometheus(lambda _: bomb) as fake:
        asking = source(fake)
        monkeypatch.setattr(asking._client._session, "_max_body_bytes", 1024**2)
        with pytest.raises(SourceUnavailable, match="too-large: a reply of more than 1 MiB"):
            asking.snapshot_at(AT_S)
    assert checked_session.MAX_BODY_BYTES == 64 * 1024**2


PARTIAL = "partial response: 1 of 3 stores did not answer"


@pytest.mark.parametrize(
    ("answering", "problem"),
    [
        pytest.param(
            except_for("queued", Reply(422, b'{"errorType":"execution","error":"many-to-many"}')),
            Problem("stable", "bad-query: HTTP 422, execution: many-to-many"),
            id="one query failing",
        ),
        pytest.param(
            except_for("queued", vector(({**SERVICE, "signal": "queued"}, "NaN"))),
            Problem("queued", "not finite: 1 series, e.g. models/resnet nan; read as unknown"),
            id="NaN",
        ),
        pytest.param(
            except_for("queued", vector(({**SERVICE, "signal": "queued"}, "+Inf"))),
            Problem("queued", "not finite: 1 series, e.g. models/resnet inf; read as unknown"),
            id="Inf",
        ),
        pytest.param(
            except_for("queued", vector(({**SERVICE, "signal": "queued"}, "-3"))),
            Problem("queued", "negative: 1 series, e.g. models/resnet -3; read as unknown"),
            id="negative queue",
        ),
        pytest.param(
            except_for("queued", vector(({"namespace": "models", "signal": "queued"}, "3"))),
            Problem(
                "queued",
                "labels missing: 1 series, e.g. 3 of {'namespace': 'models', 'signal': 'queued'}; read as unknown",
            ),
            id="no deployment",
        ),
    ],
)
def test_one_signal_missing_is_none_with_a_problem_and_the_rest_stays(answering: Answering, problem: Problem) -> None:
    with FakePrometheus(answering) as fake:
        snapshot = source(fake).snapshot_at(AT_S)
    assert problem in snapshot.problems
    resnet = snapshot.workloads[RESNET]
    assert resnet.queued is None
    assert resnet.spec_replicas == 2
    assert snapshot.cards[CardKey("GPU-1")].free_bytes == 2 * GIB


@pytest.mark.parametrize(
    ("vram", "free_bytes", "problem"),
    [
        pytest.param(
            vector(({**CARD, "signal": "free_bytes"}, "NaN")),
            None,
            Problem("free_bytes", "not finite: 1 series, e.g. GPU-1 nan; read as unknown"),
            id="NaN: the card stays, unread",
        ),
        pytest.param(
            vector(({**CARD, "signal": "free_bytes"}, "9"), ({**CARD, "signal": "total_bytes"}, "8")),
            None,
            Problem("free_bytes", "above total_bytes: 1 series, e.g. GPU-1 9; read as unknown"),
            id="more free than there is",
        ),
        pytest.param(
            vector(
                ({**CARD, "node": "localhost", "signal": "free_bytes"}, "7"), ({**CARD, "signal": "free_bytes"}, "9")
            ),
            7.0,
            None,
            id="told twice: the lower value",
        ),
    ],
)
def test_doubtful_vram_is_no_vram(vram: Reply, free_bytes: float | None, problem: Problem | None) -> None:
    with FakePrometheus(except_for("free_bytes", vram)) as fake:
        snapshot = source(fake).snapshot_at(AT_S)
    assert snapshot.cards[CardKey("GPU-1")].free_bytes == free_bytes
    assert snapshot.cards[CardKey("GPU-1")].node == "node-1"
    assert problem is None or problem in snapshot.problems


@pytest.mark.parametrize(
    ("labels", "expected", "refused"),
    [
        pytest.param(["0.45"], 0.45, "", id="one value"),
        pytest.param(["0.3", "0.45", "0.4"], 0.45, "", id="pods differ: the largest"),
        pytest.param(["1"], 1.0, "", id="all of it"),
        pytest.param(["0.3", "1.2"], 0.3, "not above 0 and up to 1: 1 series, e.g. models/resnet 1.2", id="above 1"),
        pytest.param(["0"], None, "not above 0 and up to 1: 1 series, e.g. models/resnet 0", id="nothing"),
        pytest.param(["-0.5"], None, "negative: 1 series, e.g. models/resnet -0.5", id="negative"),
        pytest.param(["None"], None, "not finite: 1 series, e.g. models/resnet nan", id="no number"),
        pytest.param(["inf"], None, "not finite: 1 series, e.g. models/resnet inf", id="Inf"),
    ],
)
def test_what_vllm_reserves_is_read_from_the_label(labels: list[str], expected: float | None, refused: str) -> None:
    name = "gpu_memory_utilization"
    reply = vector(*(({**SERVICE, "signal": name, name: label}, "1") for label in labels))
    with FakePrometheus(except_for(name, reply)) as fake:
        snapshot = source(fake).snapshot_at(AT_S)
    assert snapshot.workloads[RESNET].gpu_memory_utilization == expected
    told = [problem.text for problem in snapshot.problems if problem.signal == name]
    assert told == ([f"{refused}; read as unknown"] if refused else [])


NO_PAIR = "no total with a largest within the card"


@pytest.mark.parametrize(
    ("total", "largest", "expected", "refused"),
    [
        pytest.param("9e9", "5e9", HeldVram(9e9, 5e9), [], id="two pods or more"),
        pytest.param("5e9", "5e9", HeldVram(5e9, 5e9), [], id="one pod"),
        pytest.param("0", "0", HeldVram(0.0, 0.0), [], id="one that holds nothing yet, beside others"),
        pytest.param("4e9", "5e9", HeldVram(4e9, 5e9), [], id="has held more than now"),
        pytest.param("4e9", "17e9", None, [("held", NO_PAIR, "models/resnet 1.7e+10 of 4e+09")], id="above the card"),
        pytest.param(None, "5e9", None, [("held", NO_PAIR, "models/resnet 5e+09 of nan")], id="half"),
        pytest.param(
            "NaN",
            "5e9",
            None,
            [
                ("held", NO_PAIR, "models/resnet 5e+09 of nan"),
                ("held_total_bytes", "not finite", "models/resnet nan"),
            ],
            id="NaN",
        ),
        pytest.param("17e9", "5e9", None, [("held", "together above total_bytes", "1.7e+10")], id="17 of 16.1 GB"),
    ],
)
def test_held_vram_that_contradicts_itself_is_no_reading(
    total: str | None, largest: str, expected: HeldVram | None, refused: list[tuple[str, str, str]]
) -> None:
    place = {**SERVICE, "UUID": "GPU-1"}
    parts = {"held_total_bytes": total, "held_largest_bytes": largest}
    reply = vector(*(({**place, "signal": signal}, text) for signal, text in parts.items() if text is not None))
    with FakePrometheus(except_for("held_total_bytes", reply)) as fake:
        snapshot = source(fake).snapshot_at(AT_S)
    assert snapshot.cards[CardKey("GPU-1")].held.get(RESNET) == expected
    told = [problem for problem in snapshot.problems if problem.signal.startswith("held")]
    assert [problem.signal for problem in told] == [signal for signal, _, _ in refused]
    for problem, (_, why, what) in zip(told, refused, strict=True):
        assert problem.text.startswith(f"{why}: 1 series, e.g. ")
        assert problem.text.endswith(f"{what}; read as unknown")


def test_partial_data_is_kept_with_the_servers_warning() -> None:
    reply = vector(
        ({**SERVICE, "signal": "queued"}, "4"), warnings=[PARTIAL, "PromQL info: metric might not be a counter"]
    )
    with FakePrometheus(except_for("queued", reply)) as fake:
        snapshot = source(fake).snapshot_at(AT_S)
    assert snapshot.workloads[RESNET].queued == 4
    assert snapshot.problems == (Problem("stable", f"the server warns: {PARTIAL}"),)


def test_an_empty_fleet_is_a_snapshot_that_says_what_is_not_scraped() -> None:
    with FakePrometheus(lambda _: vector()) as fake:
        snapshot = source(fake).snapshot_at(AT_S)
    assert (snapshot.workloads, snapshot.cards) == ({}, {})
    assert [problem.signal for problem in snapshot.problems] == ["replicas", "scrape", "vram"]


def test_a_passing_failure_is_asked_again_and_a_bad_query_is_not() -> None:
    seen: dict[str, int] = {}

    def first_time_503(asked: Asked) -> Reply:
        seen[asked.query] = seen.get(asked.query, 0) + 1
        if '"queued_burst"' in asked.query:
            return Reply(400)
        return Reply(503) if seen[asked.query] == 1 else healthy(asked)

    with FakePrometheus(first_time_503) as fake:
        asking = source(fake)
        snapshot = asking.snapshot_at(AT_S)
    assert [problem.signal for problem in snapshot.problems] == ["burst"]
    assert sorted(seen.values()) == [1] + [2] * 10
    assert asking.stats["burst"].failures == 1
    assert asking.stats["stable"].failures == 0
    assert asking.stats["stable"].last_duration_s > 0.05  # it waited about 0.1 s for the second attempt


@pytest.mark.parametrize("status", [403, 405, 501])
def test_where_post_is_refused_get_serves_and_is_remembered(status: int) -> None:
    def read_only(asked: Asked) -> Reply:
        return Reply(status) if asked.method == "POST" else healthy(asked)

    with FakePrometheus(read_only) as fake:
        asking = source(fake)
        assert asking.snapshot_at(AT_S).workloads[RESNET].queued == 12
        fake.asked.clear()
        asking.snapshot_at(AT_S)
        assert [asked.method for asked in fake.asked] == ["GET"] * 11


def test_a_query_travels_in_the_body_at_its_instant() -> None:
    with FakePrometheus(healthy) as fake:
        source(fake, headers={"X-Scope-OrgID": "tenant"}).snapshot_at(AT_S + 0.5)
    assert {(asked.method, asked.path, asked.in_address) for asked in fake.asked} == {("POST", "/api/v1/query", "")}
    assert {asked.form["time"] for asked in fake.asked} == {"1750204800.500"}
    assert {asked.headers["x-scope-orgid"] for asked in fake.asked} == {"tenant"}
    assert "authorization" not in fake.asked[0].headers


def test_tokens_and_passwords_are_read_anew_at_every_tick(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    with FakePrometheus(healthy) as fake:
        by_token = source(fake, bearer_token_file=str(file))
        by_password = source(fake, basic_auth={"username": "scaler", "passwordFile": str(file)})
        for secret, basic in (("one", "c2NhbGVyOm9uZQ=="), ("two", "c2NhbGVyOnR3bw==")):
            file.write_text(secret + "\n")
            fake.asked.clear()
            by_token.snapshot_at(AT_S)
            by_password.snapshot_at(AT_S)
            assert {a.headers["authorization"] for a in fake.asked} == {f"Bearer {secret}", f"Basic {basic}"}
        file.write_text("two\nlines")
        with pytest.raises(SourceUnavailable, match=r"bearerTokenFile .*secret: it takes one line"):
            by_token.snapshot_at(AT_S)
        file.unlink()
        with pytest.raises(SourceUnavailable, match=r"passwordFile .*secret: No such file"):
            by_password.snapshot_at(AT_S)


def test_a_missing_ca_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceUnavailable, match=r"none\.pem"):
        source("https://127.0.0.1:9", ca_file=str(tmp_path / "none.pem")).snapshot_at(AT_S)


def test_neither_proxy_nor_netrc_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login a password b\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with FakePrometheus(healthy) as fake:
        source(fake).snapshot_at(AT_S)
    assert "authorization" not in fake.asked[0].headers


def ranged(asked: Asked, most_instants: int, shift_s: float = 0.0) -> Reply:
    """As many replicas as the step's index, at every instant of a range."""
    if asked.path.endswith("/query"):
        return healthy(asked)
    start, end, step = (float(asked.form[name]) for name in ("start", "end", "step"))
    instants = [start + shift_s + index * step for index in range(int((end - start) / step) + 1)]
    if len(instants) > most_instants:
        return Reply(
            422, b'{"errorType":"execution","error":"query processing would load too many samples into memory"}'
        )
    values = [[at_s, "2"] for at_s in instants]
    series: list[dict[str, object]] = [{"metric": {**SERVICE, "signal": "spec_replicas"}, "values": values}]
    return success({"resultType": "matrix", "result": series if "spec" in asked.query else []})


def test_a_range_that_is_too_large_is_asked_for_in_smaller_parts() -> None:
    with FakePrometheus(lambda asked: ranged(asked, 20)) as fake:
        snapshots = list(source(fake).snapshots(AT_S, AT_S + 15 * 499, 15))
    assert [snapshot.taken_at_s for snapshot in snapshots] == [AT_S + 15 * index for index in range(500)]
    assert {snapshot.workloads[RESNET].spec_replicas for snapshot in snapshots} == {2}
    # 60 are refused, and 30; then 15 at a time: 33 x 15 + 5, each by 11 queries
    assert len(fake.asked) == 11 * (2 + 34)


def test_instants_that_were_not_asked_for_are_no_answer() -> None:
    with FakePrometheus(lambda asked: ranged(asked, 1000, shift_s=-7)) as fake:
        first = next(source(fake).snapshots(AT_S, AT_S + 60, 15))
    assert first.workloads == {}
    problem = next(problem for problem in first.problems if problem.signal == "replicas")
    assert problem.text.startswith("bad-reply: values for other instants than asked")


def test_a_step_below_a_millisecond_is_refused() -> None:
    with pytest.raises(ValueError, match=r"step 0\.0001 s: it takes at least 1 ms"):
        next(source("http://127.0.0.1:9").snapshots(AT_S, AT_S + 1, 0.0001))
