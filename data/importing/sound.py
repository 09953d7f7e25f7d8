"""What of a source can be used: outlines that cover pixels, pictures that are there once, classes
with a name."""

from __future__ import annotations

from collections import Counter

from data.importing.records import Picture, Shape, Source
from data.mend.notes import Notes
from data.segmentation import encoded, pixels_of, segmentation_problem
from layers.problems import Problem, ProblemError, is_line, shown

MOST_POINTS = 1_000_000  # of one object: far more than pixels along any outline


def check_found(found: Source) -> Source:
    """The source with what can be used of it, and a line a kind of what cannot.

    Pictures of which no object is left though they had some are left out: they would show their
    objects as background. ProblemError where no object is left, a class has no proper name, or an
    outline has more than MOST_POINTS points.
    """
    notes, pictures = Notes(), []
    for picture in found.pictures:
        kept = [shape for shape in picture.shapes if _usable(shape, picture, notes)]
        if not kept and (picture.shapes or picture.spoiled):
            notes.left_out("images of which no object can be used", str(picture.path))
            continue
        picture.shapes = kept
        pictures.append(picture)
    counts = Counter(shape.label for picture in pictures for shape in picture.shapes)
    lines = [*found.lines, *notes.lines()]
    if not counts:
        why = f" ({'; '.join(lines[:3])})" if lines else ""
        raise ProblemError(
            Problem(f"holds no object that can be used, so no class{why}", "the source", "annotate")
        )
    classes = tuple(name for name in found.classes if name in counts) or tuple(sorted(counts))
    unused = [name for name in found.classes if name not in counts]
    if unused:
        lines.append(f"classes without an object left out: {len(unused)} ({shown(unused)})")
    for name in classes:
        if not name.strip() or not is_line(name):
            what = f"is called {shown(name)}, which is empty or holds a line break"
            raise ProblemError(Problem(what, "a class", "rename it"))
    return Source(pictures, classes, lines)


def check_points(points: int, where: str) -> None:
    """ProblemError where one object has more than MOST_POINTS points."""
    if points > MOST_POINTS:
        fix = f"draw it with at most {MOST_POINTS}"
        raise ProblemError(Problem(f"has an outline of {points} points", where, fix))


def _usable(shape: Shape, picture: Picture, notes: Notes) -> bool:
    outline = shape.segmentation
    if isinstance(outline, list):
        points = sum(len(polygon) for polygon in outline) // 2
        check_points(max(points, len(outline)), f"image {picture.path}")
    found = segmentation_problem(outline, *picture.size)
    if found is not None:
        notes.left_out("unusable objects", f"{picture.path.name} {found[1].what}")
        return False
    if pixels_of(encoded(outline, *picture.size)) == 0:
        notes.left_out("objects that cover no pixel", picture.path.name)
        return False
    return True
