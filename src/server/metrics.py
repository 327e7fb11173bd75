"""What /metrics shows, in Prometheus' format: queues, batches, latencies and what was refused."""

from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """The metrics of one server; a registry of its own, so that several can live in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        counter = partial(Counter, namespace="curator", registry=self.registry)
        gauge = partial(Gauge, namespace="curator", registry=self.registry)
        histogram = partial(Histogram, namespace="curator", registry=self.registry, buckets=SECONDS)
        self.ready = gauge("model_ready", "1: the model is loaded", ["model"])
        self.queue_depth = gauge("queue_depth", "clips waiting", ["model"])
        self.batch_clips = histogram(
            "batch_clips", "clips in a model call", ["model"], buckets=BATCH_SIZES
        )
        self.queue_seconds = histogram("queue_seconds", "a clip's wait", ["model"])
        self.compute_seconds = histogram("compute_seconds", "a model call", ["model"])
        self.clips = counter("clips", "clips scored", ["model"])
        self.dropped = counter("dropped_clips", "clips whose client had gone", ["model"])
        self.rejects = counter("rejects", "requests refused or failed", ["reason", "model"])
        self.request_seconds = histogram("request_seconds", "whole requests", ["path", "status"])
        self.uploading = gauge("requests_uploading", "scoring requests whose body still comes in")
        self.scoring = gauge("requests_scoring", "scoring requests that are complete, not answered")
        self.held_bytes = gauge("held_bytes", "uploads and decoded audio in memory")

    def reject(self, reason: str, model: str | None) -> None:
        """Count a refusal. A name that is not hosted is the client's own word, and no label."""
        label = "" if model is None or reason == "unknown_verifier" else model
        self.rejects.labels(reason, label).inc()
