"""A server as a tree of processes: what it weighs, what processor time it took, and its end.

Linux only: processes are read from /proc. Memory is the sum of what is resident in each process, so that pages that
several share count several times.
"""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
TICKS = os.sysconf("SC_CLK_TCK")
SAMPLE_SECONDS = 0.25
STOP_SECONDS = 20.0
LOG_LINES = 25


@dataclass(frozen=True)
class Stat:
    """A process at one moment."""

    pid: int
    parent: int
    started: int
    """Clock ticks after boot, which with the pid tells a process from a later one of the same pid."""
    cpu_seconds: float
    """Its own, and that of its children that ended."""
    resident_bytes: int
    running: bool
    """Whether it is more than an entry that its parent has not asked for yet."""


def stats() -> dict[int, Stat]:
    """Every process of the machine, by pid."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:  # https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html; fields count from the third, past the name
            fields = entry.joinpath("stat").read_text().rsplit(")", 1)[1].split()
        except OSError:  # it ended
            continue
        pid, ticks = int(entry.name), sum(map(int, fields[11:15]))
        found[pid] = Stat(
            pid,
            parent=int(fields[1]),
            started=int(fields[19]),
            cpu_seconds=ticks / TICKS,
            resident_bytes=int(fields[21]) * PAGE_BYTES,
            running=fields[0] != "Z",
        )
    return found


@dataclass
class Tree:
    """A process and all that descends from it, sampled by a thread; to be used in a `with` block."""

    process: subprocess.Popen[str]
    log: Path
    seen: dict[int, int] = field(default_factory=dict)
    """When each process that ever belonged to it was started; daemons stay in it when their parent ends."""
    _peak: int = 0
    _ended: threading.Event = field(default_factory=threading.Event)

    @classmethod
    def start(
        cls, command: Sequence[str | Path], *, log: Path, environment: Mapping[str, str], piped: bool = False
    ) -> Self:
        """Start a command in a session of its own; what it says goes to `log`, but for a stdout that is piped."""
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w") as stream:
            process = subprocess.Popen(
                list(map(str, command)),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if piped else stream,
                stderr=stream,
                env=environment,
                cwd=log.parent,
                start_new_session=True,
                text=True,
            )
        return cls(process, log)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self.stop()

    def members(self) -> list[Stat]:
        """The processes that live."""
        present = stats()
        if self.process.poll() is None:
            self.seen.setdefault(self.process.pid, present[self.process.pid].started)
        alive = {pid for pid, started in self.seen.items() if pid in present and present[pid].started == started}
        grown = True
        while grown:
            children = {stat.pid for stat in present.values() if stat.parent in alive} - alive
            self.seen |= {pid: present[pid].started for pid in children}
            alive |= children
            grown = bool(children)
        return [present[pid] for pid in alive if present[pid].running]

    def cpu_seconds(self) -> float:
        """Processor time of those that live."""
        return sum(stat.cpu_seconds for stat in self.members())

    def resident_bytes(self) -> int:
        """Memory of those that live."""
        return sum(stat.resident_bytes for stat in self.members())

    def take_peak(self) -> int:
        """The most bytes that were resident since this was last asked."""
        peak, self._peak = max(self._peak, self.resident_bytes()), 0
        return peak

    def last_lines(self) -> str:
        """The end of what it said."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-LOG_LINES:])

    def stop(self) -> None:
        """End all its processes: first by asking the first of them, then by force."""
        self.members()
        if self.process.poll() is None:
            self.process.terminate()
        until = time.monotonic() + STOP_SECONDS
        while (left := self.members()) and time.monotonic() < until:
            self.process.poll()
            time.sleep(SAMPLE_SECONDS)
        for stat in left:
            os.kill(stat.pid, signal.SIGKILL)
        self.process.wait()

    def _sample(self) -> None:
        while not self._ended.wait(SAMPLE_SECONDS):
            self._peak = max(self._peak, self.resident_bytes())
