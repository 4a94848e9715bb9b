"""Generate the code beside the protos, and lint them: `python -m roost.v1.generate [--check]`.

Needs grpcio-tools and buf, which only a developer's environment has.
"""

import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
SERVICE = "roost/v1/gateway.proto"
PROTOS = ("roost/v1/errors.proto", SERVICE)
GENERATED = ("errors_pb2.py", "errors_pb2.pyi", "gateway_pb2.py", "gateway_pb2.pyi", "gateway_pb2_grpc.py")


def protoc(*options: str, protos: Sequence[str] = PROTOS) -> None:
    """Run the protocol compiler, with Google's common protos in reach."""
    include = sysconfig.get_path("purelib")
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I.", f"-I{include}", *options, *protos]
    subprocess.run(command, cwd=ROOT, check=True)


def generate(folder: Path) -> None:
    """Write messages, type stubs and service stubs under `folder`."""
    protoc(f"--python_out={folder}", f"--pyi_out={folder}")
    protoc(f"--grpc_python_out={folder}", protos=[SERVICE])


def lint() -> None:
    """Hold the protos to buf's STANDARD and COMMENTS rules."""
    with tempfile.TemporaryDirectory() as folder:
        image = f"{folder}/image.binpb"
        protoc("--include_imports", "--include_source_info", f"--descriptor_set_out={image}")
        buf = Path(sys.executable).with_name("buf")
        subprocess.run([buf, "lint", image, "--config", "buf.yaml"], cwd=ROOT, check=True)


def stale() -> list[str]:
    """The generated files that are not what the protos give."""
    here = Path(__file__).parent
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        fresh = Path(folder) / "roost/v1"
        return [name for name in GENERATED if (fresh / name).read_bytes() != (here / name).read_bytes()]


def main() -> int:
    """Lint, then generate, or with --check compare."""
    lint()
    if "--check" not in sys.argv[1:]:
        generate(ROOT)
        return 0
    old = stale()
    if old:
        print(f"Not what the protos give: {', '.join(old)}. Run `make proto`.", file=sys.stderr)
    return 1 if old else 0


if __name__ == "__main__":
    raise SystemExit(main())
