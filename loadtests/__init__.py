"""Measurements of the service beside a yardstick in the same run, as ratios: machines differ, ratios less so.

python -m loadtests                 all of them, a quarter of an hour, loopback only
python -m loadtests echo            GetMetrics against a bare echo on the same kind of server
python -m loadtests slow-prometheus 500 ScaledObjects while each query takes 100 ms
python -m loadtests queries         queries per tick at 1, 100 and 1,000 ScaledObjects
python -m loadtests plan            plan() itself for 1,000 services on 500 cards, and for ten times as many
python -m loadtests agent           the node agent's share of a core and its memory, on a stand-in for the driver
"""
