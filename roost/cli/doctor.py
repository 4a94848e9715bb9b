"""`roost doctor` and `roost version`."""

import importlib.metadata
import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import typer

import roost
from roost.address import DEFAULT_TARGET
from roost.cli.app import FAILED, how_to_install
from roost.cli.options import Gateway, Json
from roost.cli.output import emit, table
from roost.errors import RoostError

EXTRAS = {
    "training": ("torch", "torchvision", "lightning-fabric", "scikit-learn", "safetensors", "tensorboard"),
    "export": ("torch", "onnx", "onnxscript", "onnxruntime"),
    "serving": ("aiohttp", "grpcio-health-checking", "prometheus-client", "qdrant-client", "tritonclient"),
}
INSTALLED_BY = {"training": "training", "export": "training", "serving": "serving"}
ONNX_RUNTIMES = ("onnxruntime", "onnxruntime-gpu")


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    level: Literal["ok", "warn", "fail"]
    subject: str
    found: str
    advice: str = ""


def doctor(*, gateway: Gateway = DEFAULT_TARGET, json: Json = False) -> None:
    """Look at this installation and the gateway, and say what to do about what is wrong.

    The exit code is 1 where something fails; a part of Roost that is not installed is only a warning.

    Example: roost doctor
    """
    findings = [*_machine(), *_extras(), _gateway(gateway)]
    if json:
        for finding in findings:
            emit(finding)
    else:
        table(["", "subject", "found", "advice"], [(f.level, f.subject, f.found, f.advice) for f in findings])
    if any(finding.level == "fail" for finding in findings):
        raise typer.Exit(FAILED)


def version() -> None:
    """Print Roost's version.

    Example: roost version
    """
    typer.echo(roost.__version__)


def _machine() -> Iterator[Finding]:
    yield Finding("ok", "roost", roost.__version__)
    yield Finding("ok", "python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    cores, usable = os.cpu_count() or 1, len(os.sched_getaffinity(0))
    yield Finding("ok", "cores", f"{usable} of {cores}")
    free = shutil.disk_usage(".").free / 2**30
    level = "ok" if free >= 1 else "warn"
    yield Finding(level, "disk", f"{free:.1f} GiB free here", "" if level == "ok" else "Make room before indexing.")


def _extras() -> Iterator[Finding]:
    for part, packages in EXTRAS.items():
        found = {package: _installed(package) for package in packages}
        if part == "serving":
            found["onnxruntime"] = next(filter(None, map(_installed, ONNX_RUNTIMES)), None)
        missing = [package for package, release in found.items() if release is None]
        if missing:
            yield Finding("warn", part, f"lacks {', '.join(missing)}", how_to_install(INSTALLED_BY[part]))
        else:
            yield Finding("ok", part, ", ".join(f"{package} {release}" for package, release in found.items()))


def _installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _gateway(target: str) -> Finding:
    from roost.client import Client

    try:
        with Client(target, timeout=5) as client:
            models = client.models()
    except RoostError as error:
        return Finding("fail", "gateway", f"none at {target}", error.message)
    served = ", ".join(f"{model.reference} ({model.items:,} items)" for model in models)
    return Finding("ok", "gateway", f"{target} serves {served}")
