"""The verifier server: routes, what a request passes, queues, metrics."""
