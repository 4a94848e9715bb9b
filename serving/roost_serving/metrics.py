"""Every metric of the gateway. Labels come from closed sets, whatever callers send: see docs/decisions/0015."""

from collections.abc import Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

import roost
from roost import clusters
from roost.artifact import Manifest
from roost.clusters import Placement
from roost.errors import RoostError
from roost_serving.admission import Load

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
IMAGES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
LOADING = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
BYTES = tuple(4**power * 1024 for power in range(9))
FOUND = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
SCORES = (0.25, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 3.0)
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
            "roost_stage_seconds", "Time of one stage of an item's way through the gateway.", ("stage", "model"),
            registry=registry, buckets=SECONDS,
        )  # fmt: skip
        self.payload = Histogram(
            "roost_payload_bytes", "Size of a message received.", ("rpc",), registry=registry, buckets=BYTES
        )
        self.in_flight = Gauge("roost_in_flight_images", "Images held now.", registry=registry)
        self.in_flight_limit = Gauge("roost_in_flight_images_limit", "Images that may be held.", registry=registry)
        self.in_flight_bytes = Gauge("roost_in_flight_bytes", "Bytes of images held now.", registry=registry)
        self.in_flight_bytes_limit = Gauge("roost_in_flight_bytes_limit", "Bytes that may be held.", registry=registry)
        self.refused = Counter(
            "roost_refused_total", "Calls and items of streams that were refused.", ("reason", "rpc"), registry=registry
        )
        self.calls = Counter(
            "roost_caller_calls_total", "RPCs ended, by the caller's key.", ("caller", "grpc_code"), registry=registry
        )
        self.images = Counter("roost_images_total", "Images, by result.", ("model", "result"), registry=registry)
        self.image_errors = Counter(
            "roost_image_errors_total", "Images that failed, by the error's reason.", ("model", "reason"),
            registry=registry,
        )  # fmt: skip
        self.batches = Histogram(
            "roost_batch_images", "Images of one call, or points of one write to the store.", ("kind",),
            registry=registry, buckets=IMAGES,
        )  # fmt: skip
        self._calls, self._writes = self.batches.labels("embed"), self.batches.labels("store")
        self.anomalous = Counter("roost_anomalies_total", "Items flagged as anomalies.", ("model",), registry=registry)
        self.scores = Histogram(
            "roost_anomaly_score", "Anomaly scores of items placed; above 1 is an anomaly.", ("model",),
            registry=registry, buckets=SCORES,
        )  # fmt: skip
        self.found = Histogram(
            "roost_search_results", "Neighbours that a search found.", ("model",), registry=registry, buckets=FOUND
        )
        self.waiting = Gauge(
            "roost_waiting_items", "Items of streams that wait for room among what is in flight.", registry=registry
        )
        self.lag = Histogram(
            "roost_event_loop_lag_seconds", "How late the event loop comes to what is due, every half a second.",
            registry=registry, buckets=SECONDS,
        )  # fmt: skip
        self.tasks = Gauge("roost_event_loop_tasks", "Tasks of the event loop.", registry=registry)
        self.certificate = Gauge(
            "roost_tls_certificate_not_after_timestamp_seconds", "When the gateway's certificate ends; 0 without one.",
            registry=registry,
        )  # fmt: skip
        self.ready = Gauge("roost_dependency_up", "Whether the backend or store answers.", ("part",), registry=registry)
        self.breakers = Gauge(
            "roost_breaker_open", "Whether calls to the backend or store fail at once.", ("part",), registry=registry
        )
        self.models = Gauge(
            "roost_model_info", "Served model versions; always 1.",
            ("model", "version", "method", "encoder", "dim", "precision", "fingerprint"), registry=registry,
        )  # fmt: skip
        self.reloads = Counter(
            "roost_model_reloads_total", "Model versions added, changed or dropped while serving.", registry=registry
        )
        self.unserved = Gauge(
            "roost_models_refused", "Versions in the repository that are not served as they are.", registry=registry
        )
        self.loads = Histogram(
            "roost_model_load_seconds", "Time to check and load a version while serving, by result.", ("result",),
            registry=registry, buckets=LOADING,
        )  # fmt: skip
        self.looked = Gauge(
            "roost_repository_last_success_timestamp_seconds",
            "When the repository was last found to hold nothing that is not served.", registry=registry,
        )  # fmt: skip
        self._of: dict[str, OfModel] = {}
        Info("roost_build", "This build of Roost.", registry=registry).info({"version": roost.__version__})

    def serve_model(self, manifest: Manifest) -> None:
        """Say that a model version is served, and begin its series at zero."""
        self.models.labels(*_described(manifest)).set(1)
        self._of.setdefault(manifest.reference, OfModel(self, manifest.reference))

    def drop_model(self, manifest: Manifest) -> None:
        """Say that a model version is no longer served; counters stay, and histograms, which are large, go."""
        self.models.remove(*_described(manifest))
        self._of.pop(manifest.reference, None)
        for histogram in (self.scores, self.found):
            histogram.remove(manifest.reference)
        for stage in STAGES:
            self.stages.remove(stage, manifest.reference)

    def reloaded(self, *, changed: int, refused: int) -> None:
        """A look at the repository changed so many model versions, and left so many out."""
        self.reloads.inc(changed)
        self.unserved.set(refused)
        if refused == 0:
            self.looked.set_to_current_time()

    def loaded(self, seconds: float, *, ok: bool) -> None:
        """A version was checked and loaded, or refused, in so many seconds."""
        self.loads.labels("ok" if ok else "error").observe(seconds)

    def stage(self, stage: str, seconds: float, *, model: str) -> None:
        """One of `STAGES` took this long."""
        if (of := self._of.get(model)) is not None:
            of.stages[stage].observe(seconds)

    def embedded(self, model: str, *, ok: int, failed: int, reasons: Mapping[str, int] | None = None) -> None:
        """So many images of a call, or of a stream's item, did what they were sent for, and so many did not."""
        self._calls.observe(ok + failed)
        if (of := self._of.get(model)) is not None and not failed:
            of.ok.inc(ok)
            return
        self.images.labels(model, "ok").inc(ok)
        self.images.labels(model, "error").inc(failed)
        for reason, count in (reasons or {}).items():
            self.image_errors.labels(model, reason).inc(count)

    def stored(self, points: int) -> None:
        """One write to the store held this many points."""
        self._writes.observe(points)

    def placed(self, model: str, placements: Sequence[Placement]) -> None:
        """Items were placed among a model's clusters."""
        if (of := self._of.get(model)) is None:
            return
        for placement in placements:
            of.scores.observe(placement.anomaly_score)
        of.anomalous.inc(sum(placement.anomaly for placement in placements))

    def searched(self, model: str, hits: int) -> None:
        """A search found so many."""
        if (of := self._of.get(model)) is not None:
            of.found.observe(hits)

    def holding(self, load: Load) -> None:
        """So much is in flight now."""
        self.in_flight.set(load.images)
        self.in_flight_bytes.set(load.bytes)

    def looped(self, *, lag: float, tasks: int, waiting: int) -> None:
        """The loop came so many seconds late, and holds so many tasks and items of streams that wait."""
        self.lag.observe(lag)
        self.tasks.set(tasks)
        self.waiting.set(waiting)

    def ended(self, caller: str, code: str) -> None:
        """A call of a key's ended."""
        self.calls.labels(caller, code).inc()

    def begin_method(self, rpc: str) -> None:
        """Begin the series of a method's refusals at zero."""
        for reason in REFUSALS:
            self.refused.labels(reason, rpc)

    def failed(self, error: RoostError, *, rpc: str) -> None:
        """A call, or an item of a stream, was answered with an error."""
        if error.reason in REFUSALS:
            self.refused.labels(error.reason, rpc).inc()


class OfModel:
    """The series of a served version, looked up once: to look them up costs more than to count."""

    def __init__(self, metrics: Metrics, reference: str) -> None:
        self.ok = metrics.images.labels(reference, "ok")
        metrics.images.labels(reference, "error")
        self.anomalous = metrics.anomalous.labels(reference)
        self.stages = {stage: metrics.stages.labels(stage, reference) for stage in STAGES}
        self.scores = metrics.scores.labels(reference)
        self.found = metrics.found.labels(reference)


def _described(manifest: Manifest) -> tuple[str, ...]:
    fingerprint = manifest.fingerprint(without=clusters.FILE)[:12]  # as it was before there were clusters
    sizes = str(manifest.version), manifest.method, manifest.encoder, str(manifest.dim)
    return manifest.name, *sizes, manifest.precision, fingerprint
