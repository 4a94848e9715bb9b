"""How the processes that `torchrun` started find each other, the first time and after one was killed."""

import os
import socket
import time
from datetime import timedelta

import torch
from torch import distributed
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

from roost.errors import TrainingFailed

PATIENCE = timedelta(days=1)
"""How long a process waits for another, which may have many images to decode; one that ended is noticed at once."""
MEETING = timedelta(minutes=5)
"""How long the processes may take to start."""
ATTEMPT_SECONDS = 5
PAUSE_SECONDS = 0.1
KEY = "roost/port"


def meet(accelerator: str) -> None:
    """Make the process group of torchrun's processes.

    The store of torchrun outlives a restart and still has the addresses of the processes that ended, to which PyTorch
    would connect (https://github.com/pytorch/pytorch/issues/135712). So the first process opens a store of its own,
    and the others follow the port that it says until one answers.

    Args:
        accelerator: What the processes compute on, `cpu` or `cuda`.

    Raises:
        TrainingFailed: The first process did not appear.
    """
    rank = int(os.environ["RANK"])
    distributed.init_process_group(
        "nccl" if accelerator == "cuda" else "gloo",
        store=_store(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), first=rank == 0),
        rank=rank,
        world_size=int(os.environ["WORLD_SIZE"]),
        timeout=PATIENCE,
        device_id=torch.device("cuda", int(os.environ["LOCAL_RANK"])) if accelerator == "cuda" else None,
    )


def _store(host: str, port: int, *, first: bool) -> TCPStore:
    """The store of this start, found through the one that torchrun keeps."""
    kept = TCPStore(host, port, is_master=False, timeout=MEETING)
    if first:
        store = TCPStore(host, 0, is_master=True, wait_for_workers=False, timeout=MEETING)
        kept.set(KEY, str(store.port))
        return store
    end = time.monotonic() + MEETING.total_seconds()
    while time.monotonic() < end:
        own = int(kept.get(KEY))
        if _answers(host, own):
            return TCPStore(host, own, is_master=False, timeout=MEETING)
        time.sleep(PAUSE_SECONDS)  # the port is of a first process that ended, and the next has not come yet
    raise TrainingFailed(f"The first process did not open its store on {host}. Start torchrun again.", host=host)


def _answers(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=ATTEMPT_SECONDS):
            return True
    except OSError:
        return False
