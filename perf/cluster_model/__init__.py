"""The model of a run on many machines: perf/cluster.py is its command line."""
