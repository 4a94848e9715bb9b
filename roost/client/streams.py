"""A stream of the blocking client: sent from a queue, received into another, and ended before its process is."""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import grpc

from roost.client import status
from roost.errors import RoostError
from roost.v1 import gateway_pb2 as pb

TURN = 0.2  # seconds
END_SECONDS = 5.0


class Stream:
    """A call of IngestItems.

    What is begun must be ended. A process that exits stops gRPC's threads wherever they are; when Python lets go of
    the call after that, it waits for ever for the call's lock if one of them held it. So it is let go of before.

    Args:
        begin: Makes the call, given its requests.
        target: The gateway's address, for messages.
        timeout: How long to wait for an answer, in seconds.
    """

    def __init__(self, begin: Callable[[Iterator[pb.IngestItemsRequest]], Any], *, target: str, timeout: float) -> None:
        self._target, self._timeout = target, timeout
        self._sent: queue.SimpleQueue[pb.IngestItemsRequest | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[pb.IngestItemsResponse | RoostError | None] = queue.SimpleQueue()
        """None follows the last."""
        self._call: Any = begin(iter(self._sent.get, None))
        self._receiver = threading.Thread(target=self._receive, args=(self._call,), daemon=True)
        self._receiver.start()

    def send(self, request: pb.IngestItemsRequest) -> None:
        """Queue a request."""
        self._sent.put(request)

    def take(self) -> pb.IngestItemsResponse:
        """Wait for the next answer.

        Raises:
            RoostError: The stream ended, or there was no answer in time.
        """
        try:
            answer = self._next()
        except queue.Empty:
            raise status.no_answer(self._target, self._timeout)
        if answer is None:
            raise status.ended_early(self._target)
        if isinstance(answer, RoostError):
            raise answer
        return answer

    def finish(self) -> None:
        """Say that nothing follows, and wait for the end; all is answered, so that how it ends changes nothing."""
        self._sent.put(None)
        with suppress(queue.Empty):
            self._next()

    def end(self) -> None:
        """Give up what is not answered; does nothing to a stream that has ended."""
        call, self._call = self._call, None
        if call is not None:
            self._sent.put(None)  # frees the thread of gRPC that waits for the next request
            call.cancel()
            if threading.current_thread() is not self._receiver:  # there the garbage collector ends what nobody has
                self._receiver.join(END_SECONDS)

    def _receive(self, call: Any) -> None:
        """Move the answers into a queue, whose reader can wait with a timeout."""
        try:
            for response in call:
                self._answers.put(response)
            self._answers.put(None)
        except grpc.RpcError as error:
            self._answers.put(status.from_rpc(error, target=self._target, timeout=self._timeout))
            error.__traceback__ = None  # it is the call itself, which would hold on to itself through this frame

    def _next(self) -> pb.IngestItemsResponse | RoostError | None:
        """Wait in short turns: Python sleeps through a Ctrl-C that comes just before a wait, however long that is."""
        until = time.monotonic() + self._timeout
        while True:
            try:
                return self._answers.get(timeout=min(TURN, max(0.0, until - time.monotonic())))
            except queue.Empty:
                if time.monotonic() >= until:
                    raise
