"""Qdrant's filter messages as the engine's filters."""

from typing import cast

import qdrant_edge

from roost_serving.edge.errors import Refused
from roost_serving.edge.protocol import qdrant
from roost_serving.edge.values import from_id


def to_filter(message: "qdrant.Filter") -> qdrant_edge.Filter:
    """A filter of the kinds that Roost uses: field matches and ranges, ids, and filters inside filters.

    Raises:
        Refused: INVALID_ARGUMENT, for a kind of condition that the engine's process does not serve.
    """
    if message.HasField("min_should"):
        raise Refused.invalid("The embedded store does not serve `min_should` filters")
    return qdrant_edge.Filter(
        must=[_condition(condition) for condition in message.must],
        # An empty list of alternatives is not "none is met" but "there are none".
        should=[_condition(condition) for condition in message.should] or None,
        must_not=[_condition(condition) for condition in message.must_not],
    )


def _condition(
    message: "qdrant.Condition",
) -> qdrant_edge.FieldCondition | qdrant_edge.HasIdCondition | qdrant_edge.Filter:
    kind = message.WhichOneof("condition_one_of")
    if kind == "field":
        return _field(message.field)
    if kind == "has_id":
        return qdrant_edge.HasIdCondition({from_id(point_id) for point_id in message.has_id.has_id})
    if kind == "filter":
        return to_filter(message.filter)
    raise Refused.invalid(f"The embedded store does not serve conditions of kind {kind!r}")


def _field(message: "qdrant.FieldCondition") -> qdrant_edge.FieldCondition:
    if message.HasField("match"):
        return qdrant_edge.FieldCondition(message.key, match=_match(message.match))
    if message.HasField("range"):
        bounds = {
            side: getattr(message.range, side) for side in ("gte", "gt", "lte", "lt") if message.range.HasField(side)
        }
        return qdrant_edge.FieldCondition(message.key, range=qdrant_edge.RangeFloat(**bounds))
    raise Refused.invalid(f"The embedded store serves a match or a range on {message.key!r}, and nothing else")


def _match(message: "qdrant.Match") -> qdrant_edge.MatchValue | qdrant_edge.MatchAny:
    kind = message.WhichOneof("match_value")
    if kind in ("keyword", "integer"):
        return qdrant_edge.MatchValue(getattr(message, kind))
    if kind == "boolean":
        # The engine reads Python's True as the integer 1 and would match nothing; it reads numpy's as a boolean.
        # Imported here, since the process starts faster without it.
        import numpy as np

        return qdrant_edge.MatchValue(cast(bool, np.bool_(message.boolean)))
    if kind == "keywords":
        return qdrant_edge.MatchAny(list(message.keywords.strings))
    if kind == "integers":
        return qdrant_edge.MatchAny(list(message.integers.integers))
    raise Refused.invalid(f"The embedded store does not serve matches of kind {kind!r}")
