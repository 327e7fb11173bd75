"""Which weight files there are, where they lie, how they come, and reading them safely."""
