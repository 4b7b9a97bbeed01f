"""The compiled protocol against KEDA's numbers: names, field numbers and types are KEDA's and must never change."""

from __future__ import annotations

import pytest
from google.protobuf.descriptor import FieldDescriptor

from scaler._pb import externalscaler_pb2

FILE = externalscaler_pb2.DESCRIPTOR
TYPES = {
    FieldDescriptor.TYPE_STRING: "string",
    FieldDescriptor.TYPE_INT64: "int64",
    FieldDescriptor.TYPE_DOUBLE: "double",
    FieldDescriptor.TYPE_BOOL: "bool",
}


@pytest.mark.parametrize(
    ("message", "fields"),
    [
        ("ScaledObjectRef", "1 string name, 2 string namespace, 3 repeated ScalerMetadataEntry scalerMetadata"),
        ("ScaledObjectRef.ScalerMetadataEntry", "1 string key, 2 string value"),
        ("IsActiveResponse", "1 bool result"),
        ("GetMetricSpecResponse", "1 repeated MetricSpec metricSpecs"),
        ("MetricSpec", "1 string metricName, 2 int64 targetSize, 3 double targetSizeFloat"),
        ("GetMetricsRequest", "1 ScaledObjectRef scaledObjectRef, 2 string metricName"),
        ("GetMetricsResponse", "1 repeated MetricValue metricValues"),
        ("MetricValue", "1 string metricName, 2 int64 metricValue, 3 double metricValueFloat"),
    ],
)
def test_fields_are_kedas(message: str, fields: str) -> None:
    outer, _, inner = message.partition(".")
    descriptor = FILE.message_types_by_name[outer]
    if inner:
        descriptor = descriptor.nested_types_by_name[inner]
    assert ", ".join(described(field) for field in descriptor.fields) == fields


def described(field: FieldDescriptor) -> str:
    kind = field.message_type.name if field.message_type is not None else TYPES[field.type]
    return f"{field.number} {'repeated ' if field.is_repeated else ''}{kind} {field.name}"


@pytest.mark.parametrize(
    ("method", "takes", "gives", "streams"),
    [
        ("IsActive", "ScaledObjectRef", "IsActiveResponse", False),
        ("StreamIsActive", "ScaledObjectRef", "IsActiveResponse", True),
        ("GetMetricSpec", "ScaledObjectRef", "GetMetricSpecResponse", False),
        ("GetMetrics", "GetMetricsRequest", "GetMetricsResponse", False),
        ("StreamMetricSpec", "ScaledObjectRef", "GetMetricSpecResponse", True),
    ],
)
def test_methods_are_kedas(method: str, takes: str, gives: str, streams: bool) -> None:
    service = FILE.services_by_name["ExternalScaler"]
    assert service.full_name == "externalscaler.ExternalScaler"
    found = service.methods_by_name[method]
    assert (found.input_type.name, found.output_type.name) == (takes, gives)
    assert (found.client_streaming, found.server_streaming) == (False, streams)


def test_there_is_nothing_else() -> None:
    assert len(FILE.services_by_name["ExternalScaler"].methods) == 5
    assert set(FILE.message_types_by_name) == {
        "ScaledObjectRef", "IsActiveResponse", "GetMetricSpecResponse", "MetricSpec", "GetMetricsRequest",
        "GetMetricsResponse", "MetricValue",
    }  # fmt: skip


def test_bytes_on_the_wire() -> None:
    # Field 1, length 1, "e"; field 2, length 1, "m"; field 3, an entry of key "a" and value "b".
    given = externalscaler_pb2.ScaledObjectRef(name="e", namespace="m", scalerMetadata={"a": "b"})
    assert given.SerializeToString() == b"\x0a\x01e\x12\x01m\x1a\x06\x0a\x01a\x12\x01b"
