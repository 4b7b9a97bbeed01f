"""The node agent: whose VRAM and whose work on this node's cards, from NVML to Prometheus.

nvml.py         what the driver says of each card, with its fallbacks; nothing else imports pynvml
owners.py       which pod a process belongs to, by its cgroup
kubelet.py      which pod was allotted which card; optional
ledger.py       both together: what each pod holds, held at most, and ran; what of it can be believed
sampler.py      a round every few seconds in a thread of its own; a driver that hangs holds up nothing else
exposition.py   the newest report as metrics
http.py         /metrics and the probes
"""
