"""The sections of `perf/gpu.py`, one module each; `report` is what they write to, `models` what
they decode with."""
