"""Settings of the Prometheus source that cannot be used are refused with key, value and range."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from scaler.policy import describe
from scaler.sources.prometheus import PrometheusSettings


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        pytest.param(
            {"url": "prometheus:9090"}, "prometheus.url: 'prometheus:9090': not such an address", id="no scheme"
        ),
        pytest.param({"url": "http://a:b@host"}, "without user and query", id="secret in the address"),
        pytest.param({"deadline": "5"}, "prometheus.deadline: '5': not a duration", id="no unit"),
        pytest.param({"deadline": "2m"}, "100ms to 1m", id="too long a deadline"),
        pytest.param({"headers": {"A b": "c"}}, "prometheus.headers", id="header name"),
        pytest.param({"headers": {"A": "c\nX: y"}}, "'A' is not a header that can be sent", id="header injection"),
        pytest.param(
            {"bearerTokenFile": "/a", "headers": {"authorization": "x"}},
            "bearerTokenFile and headers.Authorization exclude each other; give one",
            id="two ways in",
        ),
        pytest.param(
            {"queries": {"freeByte": "x"}},
            "prometheus.queries.freeByte: unknown key; did you mean freeBytes?",
            id="unknown override",
        ),
        pytest.param({"queries": {"queued": " "}}, "prometheus.queries.queued", id="empty override"),
    ],
)
def test_bad_settings_name_key_value_and_range(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as raised:
        PrometheusSettings.model_validate(settings)
    assert words in "; ".join(describe(raised.value, PrometheusSettings, "prometheus."))


def test_the_defaults_ask_the_usual_port_for_five_seconds() -> None:
    settings = PrometheusSettings.model_validate({"url": "https://mimir.example/prometheus/"})
    assert PrometheusSettings().url == "http://127.0.0.1:9090"
    assert (settings.url, settings.deadline_s) == ("https://mimir.example/prometheus", 5.0)
