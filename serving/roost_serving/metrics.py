"""Every metric of the gateway. Labels come from closed sets, whatever callers send."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

import roost
from roost.artifact import Manifest
from roost.errors import RoostError
from roost_serving.admission import Load

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
IMAGES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
REFUSALS = ("OVERLOADED", "RATE_LIMITED", "TOO_LARGE", "DISK_FULL", "UNAUTHENTICATED", "FORBIDDEN")
"""Reasons of errors by which the gateway protects itself."""
STAGES = ("queue", "decode", "infer", "place", "store", "search")
METHOD = ("grpc_type", "grpc_service", "grpc_method")


class Metrics:
    """The gateway's metrics, on a registry of their own. It is the pipeline's observer."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry = registry or CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        self.started = Counter("grpc_server_started_total", "RPCs begun.", METHOD, registry=registry)
        self.handled = Counter(
            "grpc_server_handled_total", "RPCs ended, by status code.", (*METHOD, "grpc_code"), registry=registry
        )
        self.handling = Histogram(
            "grpc_server_handling_seconds", "Time of an RPC, first to last byte.", METHOD, registry=registry,
            buckets=SECONDS,
        )  # fmt: skip
        self.received = Counter("grpc_server_msg_received_total", "Messages received.", METHOD, registry=registry)
        self.sent = Counter("grpc_server_msg_sent_total", "Messages sent.", METHOD, registry=registry)
        self.stages = Histogram(
            "roost_stage_seconds", "Time of one stage of an item's way through the gateway.", ("stage",),
            registry=registry, buckets=SECONDS,
        )  # fmt: skip
        self._stages = {stage: self.stages.labels(stage) for stage in STAGES}
        self.in_flight = Gauge("roost_in_flight_images", "Images held now.", registry=registry)
        self.in_flight_limit = Gauge("roost_in_flight_images_limit", "Images that may be held.", registry=registry)
        self.in_flight_bytes = Gauge("roost_in_flight_bytes", "Bytes of images held now.", registry=registry)
        self.in_flight_bytes_limit = Gauge("roost_in_flight_bytes_limit", "Bytes that may be held.", registry=registry)
        self.refused = Counter(
            "roost_refused_total", "Calls and items of streams that were refused.", ("reason",), registry=registry
        )
        self.calls = Counter(
            "roost_caller_calls_total", "RPCs ended, by the caller's key.", ("caller", "grpc_code"), registry=registry
        )
        for reason in REFUSALS:
            self.refused.labels(reason)
        self.images = Counter("roost_images_total", "Images, by result.", ("model", "result"), registry=registry)
        self.batches = Histogram(
            "roost_batch_images", "Images of one call, or points of one write to the store.", ("kind",),
            registry=registry, buckets=IMAGES,
        )  # fmt: skip
        self.anomalous = Counter("roost_anomalies_total", "Items flagged as anomalies.", ("model",), registry=registry)
        self.certificate = Gauge(
            "roost_tls_certificate_not_after_timestamp_seconds", "When the gateway's certificate ends; 0 without one.",
            registry=registry,
        )  # fmt: skip
        self.ready = Gauge("roost_dependency_up", "Whether the backend or store answers.", ("part",), registry=registry)
        self.breakers = Gauge(
            "roost_breaker_open", "Whether calls to the backend or store fail at once.", ("part",), registry=registry
        )
        self.models = Gauge(
            "roost_model_info", "Served model versions; always 1.", ("model", "version", "method", "encoder", "dim"),
            registry=registry,
        )  # fmt: skip
        self.reloads = Counter(
            "roost_model_reloads_total", "Model versions added, changed or dropped while serving.", registry=registry
        )
        self.unserved = Gauge(
            "roost_models_refused", "Versions in the repository that are not served as they are.", registry=registry
        )
        Info("roost_build", "This build of Roost.", registry=registry).info({"version": roost.__version__})

    def serve_model(self, manifest: Manifest) -> None:
        """Say that a model version is served, and begin its series at zero."""
        self.models.labels(*_described(manifest)).set(1)
        for result in ("ok", "error"):
            self.images.labels(manifest.reference, result)
        self.anomalous.labels(manifest.reference)

    def drop_model(self, manifest: Manifest) -> None:
        """Say that a model version is no longer served; what was counted for it stays."""
        self.models.remove(*_described(manifest))

    def reloaded(self, *, changed: int, refused: int) -> None:
        """A look at the repository changed so many model versions, and left so many out."""
        self.reloads.inc(changed)
        self.unserved.set(refused)

    def stage(self, stage: str, seconds: float) -> None:
        """One of `STAGES` took this long."""
        self._stages[stage].observe(seconds)

    def embedded(self, model: str, *, ok: int, failed: int) -> None:
        """So many images of a call, or of a stream's item, did what they were sent for, and so many did not."""
        self.batches.labels("embed").observe(ok + failed)
        self.images.labels(model, "ok").inc(ok)
        self.images.labels(model, "error").inc(failed)

    def stored(self, points: int) -> None:
        """One write to the store held this many points."""
        self.batches.labels("store").observe(points)

    def anomalies(self, model: str, count: int) -> None:
        """So many items were flagged as anomalies."""
        self.anomalous.labels(model).inc(count)

    def holding(self, load: Load) -> None:
        """So much is in flight now."""
        self.in_flight.set(load.images)
        self.in_flight_bytes.set(load.bytes)

    def ended(self, caller: str, code: str) -> None:
        """A call of a key's ended."""
        self.calls.labels(caller, code).inc()

    def failed(self, error: RoostError) -> None:
        """A call, or an item of a stream, was answered with an error."""
        if error.reason in REFUSALS:
            self.refused.labels(error.reason).inc()


def _described(manifest: Manifest) -> tuple[str, ...]:
    return manifest.name, str(manifest.version), manifest.method, manifest.encoder, str(manifest.dim)
