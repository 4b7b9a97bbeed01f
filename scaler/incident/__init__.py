"""The recorded incident of 18 June 2025, bundled: what `make run` plays and what the tests measure the scaler by."""

from pathlib import Path

RECORDING = Path(__file__).with_name("incident.jsonl.gz")
SCALED_OBJECTS = Path(__file__).with_name("scaledobjects.yaml")
