"""The operator's YAML file: the fleet's policy at the top level, where Prometheus is, and where to listen.

deploy/base/vram-scaler.yaml is the reference: every key with its default, unit and range.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PlainValidator, ValidationError

from scaler.address import Address, parse_address
from scaler.documents import STDIN, read_documents
from scaler.policy import BadPolicy, OperatorPolicy, describe
from scaler.sources.prometheus import PrometheusSettings

Listen = Annotated[Address, PlainValidator(parse_address)]


class Settings(OperatorPolicy):
    """The whole file."""

    prometheus: PrometheusSettings | None = Field(None, description="a mapping; without it no Prometheus is asked")
    listen: Listen = Field(
        Address("127.0.0.1", 6000),
        description="where KEDA asks over gRPC, e.g. 127.0.0.1:6000; port 0 takes a free one",
    )
    http: Listen = Field(
        Address("127.0.0.1", 8080),
        description="where /readyz, /metrics and /v1/decisions are, e.g. 127.0.0.1:8080; port 0 takes a free one",
    )


def load_settings(path: str | None) -> Settings:
    """The settings of that file (`-` is standard input); without a file, and where it says nothing, the defaults.

    Raises:
        BadPolicy: in one line: the file, and for each fault the key's path, its value and what it takes.
    """
    if path is None:
        return Settings()
    name = "standard input" if path == STDIN else path
    documents = read_documents(path) or [None]
    if len(documents) > 1:
        raise BadPolicy(f"{name}: {len(documents)} documents; it takes one")
    document = {} if documents[0] is None else documents[0]
    if not isinstance(document, dict):
        raise BadPolicy(f"{name}: {type(document).__name__}; it takes a mapping of settings")
    try:
        # The names inside, such as low_watermark, are ours alone: a key has one spelling.
        return Settings.model_validate(document, by_alias=True, by_name=False)
    except ValidationError as error:
        raise BadPolicy(f"{name}: {'; '.join(describe(error, Settings))}") from None
