"""What the gateway can be told: `roost serve --flag`, `ROOST_SERVE_*`, or the table `[serve]` of a TOML file."""

import os
from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator
from pydantic_settings import SettingsConfigDict

from roost import preprocess
from roost.errors import BadSettings
from roost.settings import Settings


class ServeSettings(Settings):
    """Settings of the gateway. Each field's description is the flag's help."""

    model_config = SettingsConfigDict(env_prefix="ROOST_SERVE_")
    section: ClassVar[str] = "serve"

    backend: str = Field(
        "onnx://model_repository", description="Where embeddings are computed: onnx://, openvino:// or triton://."
    )
    store: str = Field("edge://data/index", description="Where vectors live: edge://, qdrant:// or memory://.")
    repository: Path = Field(Path("model_repository"), description="Model repository that triton:// serves from.")
    reload_seconds: NonNegativeFloat = Field(
        5.0, description="Look for new model versions this often; 0: only on SIGHUP or `roost reload`."
    )
    triton_key_file: Path | None = Field(
        None, description="File that holds the key with which triton:// loads models, where loading is restricted."
    )
    store_api_key_file: Path | None = Field(None, description="File that holds the API key of qdrant://.")
    host: str = Field("127.0.0.1", description="Address that gRPC listens on.")
    port: int = Field(50051, ge=0, le=65535, description="Port of gRPC; 0 takes a free one.")
    http_host: str = Field("127.0.0.1", description="Address of /metrics, /livez and /readyz.")
    http_port: int = Field(8080, ge=0, le=65535, description="Port of /metrics, /livez and /readyz; 0: a free one.")
    workers: PositiveInt = Field(
        default_factory=lambda: len(os.sched_getaffinity(0)),
        description="Threads that decode images and, unless with triton://, infer. One per core by default.",
    )
    max_in_flight: PositiveInt = Field(512, description="Images held at once; a call beyond them is refused.")
    max_in_flight_bytes: PositiveInt = Field(256 * 1024 * 1024, description="Bytes of images held at once; likewise.")
    max_image_bytes: PositiveInt = Field(preprocess.DEFAULT_LIMITS.max_bytes, description="Largest image, in bytes.")
    max_image_pixels: PositiveInt = Field(
        preprocess.DEFAULT_LIMITS.max_pixels, description="Largest image, in pixels before scaling."
    )
    max_message_bytes: PositiveInt = Field(32 * 1024 * 1024, description="Largest gRPC message, in bytes.")
    tls_certificate_file: Path | None = Field(None, description="PEM certificate of gRPC; without it, in the clear.")
    tls_key_file: Path | None = Field(None, description="PEM key of the certificate.")
    tls_callers_file: Path | None = Field(None, description="PEM authorities that callers' certificates must be from.")
    keys_file: Path | None = Field(None, description="File of API keys (`roost keys`); without it anyone may call.")
    open_health: bool = Field(True, description="Whether health needs no key where calls do.")
    open_metrics: bool = Field(True, description="Whether /metrics needs no key where calls do.")
    drain_seconds: NonNegativeFloat = Field(
        0.0, description="Wait between saying NOT_SERVING and closing, so that load balancers notice."
    )
    grace_seconds: NonNegativeFloat = Field(10.0, description="How long running calls may take to end at shutdown.")
    log_format: Literal["text", "json"] = Field("text", description="How events are logged, one a line: text or json.")
    tracing: bool = Field(False, description="Send OpenTelemetry traces to where OTEL_EXPORTER_OTLP_ENDPOINT says.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severity logged.")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if (self.tls_certificate_file is None) != (self.tls_key_file is None):
            raise ValueError("tls_certificate_file and tls_key_file belong together")
        if self.tls_callers_file is not None and self.tls_certificate_file is None:
            raise ValueError("tls_callers_file needs a tls_certificate_file, for the gateway itself")
        return self

    @property
    def limits(self) -> preprocess.Limits:
        """What one image may cost."""
        return preprocess.Limits(max_bytes=self.max_image_bytes, max_pixels=self.max_image_pixels)

    def store_api_key(self) -> str | None:
        """The store's API key, read from its file.

        Raises:
            BadSettings: The file cannot be read.
        """
        if self.store_api_key_file is None:
            return None
        try:
            return self.store_api_key_file.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise BadSettings(f"The API key file cannot be read: {error}.", key="store_api_key_file") from error
