"""What became of the images of one call."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from roost.errors import RoostError, Unexpected

GIVEN_UP = "CANCELLED"
"""Among errors' reasons: nobody waited for the image any more."""


@dataclass
class Tally:
    """Counts images as failed until it is told otherwise."""

    failed: int
    ok: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict)
    """How many failed, by the reasons of their errors."""

    def take(self, results: Sequence[object]) -> None:
        """Count each result, one per image."""
        reasons = [result.reason for result in results if isinstance(result, RoostError)]
        self.failed, self.ok = len(reasons), len(results) - len(reasons)
        if reasons:
            self.reasons = Counter(reasons)

    def end(self, error: BaseException) -> None:
        """The call ended with an error, so that those that count as failed failed for that."""
        reason = GIVEN_UP
        if isinstance(error, Exception):
            reason = error.reason if isinstance(error, RoostError) else Unexpected.reason
        self.reasons = {reason: self.failed}
