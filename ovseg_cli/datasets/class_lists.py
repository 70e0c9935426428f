"""Annotations restricted to some of a dataset's classes, under words of a list's own."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar

from ovseg_cli.datasets.coco_files import AnnotationFile, ImageRecord, Kind
from ovseg_cli.errors import InputError
from ovseg_cli.structures import Vocabulary

T = TypeVar("T")
Part = Literal["all", "seen", "unseen"]


@dataclass(frozen=True)
class ClassList:
    """Classes by a dataset's category ids.

    Attributes:
        ids: the category id of each class.
        vocabulary: their words, and which are seen in training, if the list says so.
    """

    ids: tuple[int, ...]
    vocabulary: Vocabulary


def restricted(
    content: AnnotationFile,
    path: Path,
    kind: Kind,
    *,
    class_list: ClassList | None = None,
    part: Part = "all",
) -> AnnotationFile:
    """The annotations of a list's classes; an instance file has its things alone.

    Where categories are left out, images without an annotation of the others are, too, as in the
    files of COCO's split into 48 and 17 classes (Bansal et al., ECCV 2018).

    Args:
        content: of a whole file.
        path: the file's, for messages.
        kind: the file's format.
        class_list: the classes; None for the file's own categories.
        part: those that training has masks of, or has not; where that is not known, all are seen.

    Raises:
        InputError: the file lacks a class of the list, or no class is left.
    """
    own = ClassList(tuple(content.class_of), content.vocabulary)
    chosen = _part_of(_with_seen(class_list or own, own), kind, part)
    lacking = [i for i in chosen.ids if i not in content.class_of]
    if lacking:
        name = chosen.vocabulary.names[chosen.ids.index(lacking[0])]
        raise InputError(
            f"{path}: 'categories' lacks id {lacking[0]} ({name}) of the chosen class list; "
            "choose the dataset's own list or none"
        )
    if not chosen.ids:
        raise InputError(
            f"{path}: no {part} class is left; choose a class list that says which classes are "
            "seen, such as coco_48_17"
        )
    class_of = {category_id: index for index, category_id in enumerate(chosen.ids)}
    records = [_restricted(record, class_of) for record in content.records]
    if len(class_of) < len(content.class_of):
        records = [record for record in records if record.segments]
    return AnnotationFile(chosen.vocabulary, class_of, tuple(records))


def selected(vocabulary: Vocabulary, kept: Sequence[int]) -> Vocabulary:
    """Some classes of a vocabulary.

    Args:
        vocabulary: K classes.
        kept: indices of the classes to keep, in their new order.
    """

    def of(values: tuple[T, ...]) -> tuple[T, ...]:
        return tuple(values[i] for i in kept) if values else ()

    return Vocabulary(
        of(vocabulary.names), of(vocabulary.synonyms), of(vocabulary.is_thing), of(vocabulary.seen)
    )


def _with_seen(classes: ClassList, own: ClassList) -> ClassList:
    """The list with the file's seen flags, where it has none itself."""
    if classes.vocabulary.seen or not own.vocabulary.seen:
        return classes
    seen_of = dict(zip(own.ids, own.vocabulary.seen, strict=True))
    seen = tuple(seen_of.get(category_id, False) for category_id in classes.ids)
    return ClassList(classes.ids, replace(classes.vocabulary, seen=seen))


def _part_of(classes: ClassList, kind: Kind, part: Part) -> ClassList:
    vocabulary = classes.vocabulary
    kept = [
        i
        for i in range(len(vocabulary))
        if (kind == "panoptic" or vocabulary.is_thing[i])
        and (part == "all" or (not vocabulary.seen or vocabulary.seen[i]) == (part == "seen"))
    ]
    return ClassList(tuple(classes.ids[i] for i in kept), selected(vocabulary, kept))


def _restricted(record: ImageRecord, class_of: dict[int, int]) -> ImageRecord:
    kept = tuple(s for s in record.segments if s["category_id"] in class_of)
    left_out = tuple(s["id"] for s in record.segments if s["category_id"] not in class_of)
    return replace(record, segments=kept, left_out=left_out)
