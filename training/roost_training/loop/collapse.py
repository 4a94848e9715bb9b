"""How training fails: numbers that are not finite, or nearly the same features for every image."""

from collections.abc import Mapping

from roost.errors import TrainingFailed
from roost_training.loop.settings import TrainSettings


def diverged(seen: str, **facts: object) -> TrainingFailed:
    """What to tell of a loss, weights or features that are not finite."""
    return TrainingFailed(f"{seen}. Try a lower learning rate, a longer warm-up, or --precision fp32.", **facts)


def is_low(figures: Mapping[str, float], settings: TrainSettings) -> bool:
    """Whether a score is under its floor."""
    return bool(_under(figures, settings))


def failure(figures: Mapping[str, float], settings: TrainSettings, *, epoch: int) -> TrainingFailed:
    """What to tell of an encoder whose scores stayed under a floor."""
    seen = " and ".join(
        f"{name} {found:.4g}, under min_{name} = {floor:g}" for name, found, floor in _under(figures, settings)
    )
    return TrainingFailed(
        f"The encoder collapsed: in epoch {epoch} it had {seen}, so that every image has nearly the same features. "
        "Try a lower learning_rate, a larger batch, a longer warmup or weaker views. The last good checkpoint is kept; "
        "where the method is meant to do this, resume from it with these floors at 0.",
        **{name: figures[name] for name, _, _ in _under(figures, settings)},
    )


def _under(figures: Mapping[str, float], settings: TrainSettings) -> list[tuple[str, float, float]]:
    floors = {"rankme": settings.min_rankme, "feature_std": settings.min_feature_std}
    return [(name, figures[name], floor) for name, floor in floors.items() if figures[name] < floor]
