"""One start of a contender: its server, the load generator, and what both say and take."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import contenders
import models
from contenders import BEHIND, CONTENDERS, Contender, Start
from models import Made
from processes import Tree
from summary import Row
from work import Work

HERE = Path(__file__).parent
IMAGES = 64
"""Sent in turn; they fit into memory, and no two that follow each other are the same."""
MEBIBYTE = 2**20


class Failed(Exception):
    """A contender that did not start, ended, or answered wrong; its text has the last lines of the logs."""


@dataclass(frozen=True)
class Load:
    """How contenders are called."""

    images: Path
    """A folder of JPEG files."""
    callers: Sequence[int]
    seconds: float
    warmup_seconds: float
    rate: float | None
    """Images/s of an open loop, whose number of callers is 0; None for a closed loop."""


def expect(made: Made, precision: str, load: Load) -> None:
    """Have the plain loop compute what every contender has to answer."""
    given = _work(made, CONTENDERS["bare"], load, precision=precision, callers=[])
    subprocess.run([sys.executable, HERE / "limit.py", given], check=True, stdout=subprocess.DEVNULL)


def measure(made: Made, name: str, load: Load) -> Iterator[Row]:
    """Start a contender, have it called, and stop it: a row for each number of callers.

    Raises:
        Failed: It did not start, ended, or answered wrong.
        subprocess.CalledProcessError: Its packages cannot be had.
    """
    contender, logs = CONTENDERS[name], made.folder / "logs" / name
    with ExitStack() as running:
        servers: list[Tree] = []
        address = ""
        for each in [*([BEHIND[contender.behind]] if contender.behind else []), contender]:
            if each.command is not None:
                start = Start(made, contenders.free_port(), logs, behind=address)
                servers.append(running.enter_context(_serve(each, start, log=logs / f"server{len(servers)}.log")))
                address = f"127.0.0.1:{start.port}"
        given = _work(made, contender, load, precision=contender.precision, address=address, callers=load.callers)
        program = HERE / ("load.py" if servers else "limit.py")
        caller = running.enter_context(
            Tree.start(
                [sys.executable, program, given], log=logs / "load.log", environment=dict(os.environ), piped=True
            )
        )
        for server in servers:  # one that ends would be waited for in vain
            threading.Thread(target=_end_with, args=(server, caller), daemon=True).start()
        yield from _rows(caller, servers or [caller])
        if caller.process.wait():
            raise Failed("\n".join(tree.last_lines() for tree in (*servers, caller)))


def _serve(contender: Contender, start: Start, *, log: Path) -> Tree:
    if contender.environment:
        contenders.install(contender.environment)
    assert contender.command is not None
    return Tree.start(contender.command(start), log=log, environment=contenders.surroundings(contender, start))


def _end_with(server: Tree, caller: Tree) -> None:
    server.process.wait()
    caller.process.kill()


def _rows(caller: Tree, measured: Sequence[Tree]) -> Iterator[Row]:
    """What the load generator says, with what the contender's processes took meanwhile."""
    rest = spent = 0.0
    assert caller.process.stdout is not None
    for line in caller.process.stdout:
        row, now = json.loads(line), sum(tree.cpu_seconds() for tree in measured)
        peak = sum(tree.take_peak() for tree in measured)
        if row.pop("ready", False):
            rest = sum(tree.resident_bytes() for tree in measured)
        else:
            calls, load_seconds = max(row.pop("calls"), 1), row.pop("cpu_seconds")
            if measured[0] is caller:  # its processes ended before they could be asked
                taken, load_seconds = load_seconds, 0.0
            else:
                taken = now - spent
            yield row | {
                "cpu_ms": 1000 * taken / calls,
                "load_cpu_ms": 1000 * load_seconds / calls,
                "rest_mebibytes": rest / MEBIBYTE,
                "peak_mebibytes": peak / MEBIBYTE,
            }
        spent = now


def _work(
    made: Made, contender: Contender, load: Load, *, precision: str, callers: Sequence[int], address: str = ""
) -> str:
    given = Work(
        protocol=contender.protocol,
        address=address,
        model=contender.model or made.name,
        file=str(made.version(precision) / "model.onnx"),
        size=made.model.size,
        resize=made.model.resize,
        images=[str(path) for path in models.pick(load.images, IMAGES)],
        expected=str(made.folder / f"expected-{precision}.npy"),
        least_cosine=contender.least_cosine,
        callers=list(callers),
        seconds=load.seconds,
        warmup_seconds=load.warmup_seconds,
        rate=load.rate,
    )
    return json.dumps(asdict(given))
