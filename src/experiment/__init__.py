"""Pools and sweeps: generated, scored by everybody, kept to be scored again."""
