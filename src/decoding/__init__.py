"""The branchable decoder, and the built-in model's loader and codec."""
