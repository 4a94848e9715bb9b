"""What a person knows of some images: which belong together, and which do not.

Must-links hold through others: where a belongs to b and b to c, a belongs to c, and what may not be linked with one of
them may not be linked with any (Wagstaff, Cardie, Rogers, Schrödl, Constrained K-means Clustering with Background
Knowledge, ICML 2001, section 3).
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from roost.errors import BadData
from roost_training.images import pixel_cache
from roost_training.images.data import Images

KINDS = ("must", "cannot")


@dataclass(frozen=True)
class Constraints:
    """Groups of images that belong together, and which groups do not."""

    groups: np.ndarray
    """Each image's group, int64 (images,); -1 where nothing is known of it."""
    apart: np.ndarray
    """Which groups may not be linked, bool (groups, groups), symmetric."""
    must: np.ndarray
    """The pairs as they were read, places of images, int64 (pairs, 2)."""
    cannot: np.ndarray

    @property
    def fingerprint(self) -> str:
        """Of the pairs."""
        return pixel_cache.digest([f"must {self.must.tolist()}", f"cannot {self.cannot.tolist()}"])


def read(path: Path, images: Images) -> Constraints:
    """Read pairs of images from a CSV file whose lines are `path_a,path_b,must` or `path_a,path_b,cannot`.

    Paths are relative to the folder of images, with forward slashes; quotes are those of CSV. Pairs with an image that
    is held out for scoring are left out.

    Raises:
        BadData: The file cannot be read, a line is malformed or names an unknown image, a pair that cannot be linked is
            one by must-links, or no pair is left.
    """
    places = {name: place for place, name in enumerate(images.paths)}
    pairs: dict[str, list[tuple[int, int]]] = {kind: [] for kind in KINDS}
    lines: list[int] = []
    for line, names, kind in _lines(path):
        for name in names:
            if name not in places and name not in images.held_out:
                raise BadData(_unknown(path, line, name, images), path=path, line=line, image=name)
        if images.held_out.isdisjoint(names):
            pairs[kind].append((places[names[0]], places[names[1]]))
            lines += [line] if kind == "cannot" else []
    must, cannot = (np.array(pairs[kind], dtype=np.int64).reshape(-1, 2) for kind in KINDS)
    if not len(must) + len(cannot):
        raise BadData(f"{path} has no pair of images that are trained on. Add some.", path=path)
    joined = coo_array((np.ones(len(must)), (must[:, 0], must[:, 1])), shape=(len(images), len(images)))
    component = connected_components(joined, directed=False)[1]
    for line, (a, b) in zip(lines, cannot, strict=True):
        if component[a] == component[b]:
            raise BadData(
                f"{path}, line {line}: {images.paths[a]} and {images.paths[b]} cannot be linked, and yet must-links "
                "join them, at once or through other images. Remove this line or one of those.",
                path=path,
                line=line,
            )
    known = np.union1d(must, cannot)
    names, group = np.unique(component[known], return_inverse=True)
    groups = np.full(len(images), -1)
    groups[known] = group
    apart = np.zeros((len(names), len(names)), dtype=bool)
    apart[groups[cannot[:, 0]], groups[cannot[:, 1]]] = True
    return Constraints(groups=groups, apart=apart | apart.T, must=must, cannot=cannot)


def _lines(path: Path) -> Iterator[tuple[int, tuple[str, str], str]]:
    """Line numbers, the two names, and the kind."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, strict=True)
            for row in reader:
                if not row:
                    continue
                fields = [field.strip() for field in row]
                if len(fields) != 3 or fields[2] not in KINDS:
                    raise BadData(
                        f"{path}, line {reader.line_num}: {','.join(row)!r} is no pair. "
                        "Write path_a,path_b,must or path_a,path_b,cannot.",
                        path=path,
                        line=reader.line_num,
                    )
                yield reader.line_num, (fields[0], fields[1]), fields[2]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadData(f"The pairs file {path} cannot be read: {error}.", path=path) from error


def _unknown(path: Path, line: int, name: str, images: Images) -> str:
    for skipped, reason in images.skipped:
        if name == skipped:
            return f"{path}, line {line}: {name} could not be used: {reason}"
    return (
        f"{path}, line {line}: there is no image {name}. Paths are relative to the folder of images, with forward "
        f"slashes, such as {images.paths[0]}."
    )
