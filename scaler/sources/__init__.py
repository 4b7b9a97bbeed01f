"""The outside world -> Snapshot: a live Prometheus, or a recording of one."""
