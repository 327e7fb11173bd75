"""One module per model that a server can host; src/verifier_core.py has their registry."""
