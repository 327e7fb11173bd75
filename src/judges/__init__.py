"""The judges: what each one is (base.py), and a module for each network that they hear through."""
