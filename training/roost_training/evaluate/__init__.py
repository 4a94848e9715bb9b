"""What an embedding is worth: neighbours, retrieval, a linear probe, partitions, spectrum, and the hypersphere.

Every measure has its defaults in its signature and nowhere else; `settings_of` reads them there, so that a
figure can be printed beside what it was measured with.
"""

import inspect
from collections.abc import Callable

from roost_training.evaluate.hypersphere import alignment as alignment
from roost_training.evaluate.hypersphere import uniformity as uniformity
from roost_training.evaluate.neighbours import knn_accuracy as knn_accuracy
from roost_training.evaluate.neighbours import knn_predict as knn_predict
from roost_training.evaluate.partitions import Agreement as Agreement
from roost_training.evaluate.partitions import agreement as agreement
from roost_training.evaluate.probe import Probe as Probe
from roost_training.evaluate.probe import linear_probe as linear_probe
from roost_training.evaluate.retrieval import Retrieval as Retrieval
from roost_training.evaluate.retrieval import score_retrieval as score_retrieval
from roost_training.evaluate.spectrum import feature_std as feature_std
from roost_training.evaluate.spectrum import rankme as rankme
from roost_training.evaluate.spectrum import signs_of_collapse as signs_of_collapse


def settings_of(measure: Callable[..., object], **given: object) -> dict[str, object]:
    """The settings that a measure runs with: its defaults, and what the caller gives instead.

    Raises:
        TypeError: The measure has no such setting.
    """
    parameters = inspect.signature(measure).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}
    unknown = given.keys() - defaults.keys()
    if unknown:
        raise TypeError(f"{measure.__qualname__} has no setting {', '.join(sorted(unknown))}")
    return defaults | given
