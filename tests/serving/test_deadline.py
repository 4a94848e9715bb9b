from roost_serving import deadline
from roost_serving.deadline import Deadline


def test_without_seconds_time_never_runs_out():
    assert Deadline(None).left is None


def test_what_is_left_shrinks_to_nothing(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(deadline.time, "monotonic", lambda: now[0])
    ends = Deadline(3.0)
    left = []
    for now[0] in (100.0, 101.0, 103.0, 200.0):
        left.append(ends.left)
    assert left == [3.0, 2.0, 0.0, 0.0]
