"""The operator's YAML file: the fleet's policy at the top level, where Prometheus is, and where to listen.

deploy/base/vram-scaler.yaml is the reference: every key with its default, unit and range.
"""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, PlainValidator, ValidationError, model_validator

from scaler.address import Address, parse_address
from scaler.documents import STDIN, read_documents
from scaler.policy import (
    BadPolicy,
    KubernetesName,
    OperatorPolicy,
    Section,
    ServiceKey,
    ServicePolicy,
    describe,
    service_policy,
)
from scaler.sources.prometheus import PrometheusSettings

Listen = Annotated[Address, PlainValidator(parse_address)]


class ShadowService(Section):
    """A service that is planned for and shown while nobody acts on it: a ScaledObject that is not applied."""

    namespace: KubernetesName = Field(min_length=1, description="a Kubernetes name of 1 to 253 characters")
    name: KubernetesName = Field(min_length=1, description="a Kubernetes name of 1 to 253 characters")
    metadata: dict[str, str] = Field(
        default_factory=dict, description="the trigger's metadata as KEDA would send it, every value quoted"
    )

    @property
    def key(self) -> ServiceKey:
        """The ScaledObject that it would be."""
        return ServiceKey(self.namespace, self.name)


class Settings(OperatorPolicy):
    """The whole file."""

    prometheus: PrometheusSettings | None = Field(None, description="a mapping; without it no Prometheus is asked")
    listen: Listen = Field(
        Address("127.0.0.1", 6000),
        description="where KEDA asks over gRPC, e.g. 127.0.0.1:6000; port 0 takes a free one",
    )
    http: Listen = Field(
        Address("127.0.0.1", 8080),
        description="where the status page, /readyz, /metrics and /v1/decisions are, e.g. 127.0.0.1:8080; port 0 takes "
        "a free one",
    )
    shadow: tuple[ShadowService, ...] = Field(
        (), description="services that are planned for and shown while nobody acts on it; namespace, name and metadata"
    )

    @model_validator(mode="after")
    def _shadows_usable(self) -> Self:
        keys = [each.key for each in self.shadow]
        for index, key in enumerate(keys):
            if key in keys[:index]:
                raise ValueError(f"shadow[{index}]: {'/'.join(key)} stands twice")
        self.shadow_policies()
        return self

    def shadow_policies(self) -> dict[ServiceKey, ServicePolicy]:
        """The services of `shadow`, as policies."""
        found = {}
        for index, each in enumerate(self.shadow):
            try:
                found[each.key] = service_policy(each.key, each.metadata, self)
            except BadPolicy as fault:
                raise ValueError(f"shadow[{index}], {'/'.join(each.key)}: {fault}") from None
        return found


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
