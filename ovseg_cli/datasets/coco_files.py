"""COCO's annotation files, read and checked before anything is decoded.

The layout of Lin et al., ECCV 2014, of Kirillov et al., CVPR 2019 (panoptic), and of LVIS (Gupta et
al., CVPR 2019), whose images have the address of COCO's in place of a name.
"""

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, cast

from ovseg_cli.errors import InputError
from ovseg_cli.structures import Vocabulary

Kind = Literal["panoptic", "instances"]
_ABSENT, _INCOMPLETE = "neg_category_ids", "not_exhaustive_category_ids"  # LVIS's


@dataclass(frozen=True)
class ImageRecord:
    """An image and what is annotated in it, undecoded.

    Attributes:
        image_id: the file's id; the place in the file, from 1, where its ids are texts.
        file_name: relative to the split's folder, checked to stay inside it.
        size: (height, width) in pixels.
        panoptic_file: the panoptic PNG's name, None without one.
        segments: `segments_info` entries, or instance annotations.
        left_out: ids of segments of classes that were not chosen.
        absent: LVIS's category ids that were looked for in vain; None where all were looked for.
        incomplete: LVIS's category ids of which not every object is annotated.
    """

    image_id: int
    file_name: str
    size: tuple[int, int]
    panoptic_file: str | None
    segments: tuple[dict[str, Any], ...]
    left_out: tuple[int, ...] = ()
    absent: tuple[int, ...] | None = None
    incomplete: tuple[int, ...] = ()


@dataclass(frozen=True)
class AnnotationFile:
    """A checked annotation file.

    Attributes:
        vocabulary: the categories by ascending id.
        class_of: the class index of each category id.
        records: one an image, in the file's order.
    """

    vocabulary: Vocabulary
    class_of: dict[int, int]
    records: tuple[ImageRecord, ...]


def read_annotations(path: Path, kind: Kind, vocabulary_file: Path | None = None) -> AnnotationFile:
    """Reads `panoptic_*.json` or `instances_*.json`.

    Args:
        path: the annotation file.
        kind: which of the two formats it has.
        vocabulary_file: a JSON file that says which classes are `seen`, if there is one.

    Raises:
        InputError: the file is missing or damaged; the first bad entry is named.
    """
    content = read_json(path)
    for section in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(section), list):
            raise InputError(f"{path}: no list '{section}'; is this COCO's {kind} format?")
    vocabulary, class_of = _categories(path, content["categories"], kind)
    if vocabulary_file is not None and vocabulary_file.is_file():
        vocabulary = _with_seen(vocabulary, vocabulary_file)
    numbers = _image_numbers(path, content["images"])
    annotations = _by_image(path, content, kind, class_of, numbers)
    records = tuple(
        _record(path, i, image, number, annotations.get(number, []))
        for i, (image, number) in enumerate(zip(content["images"], numbers.values(), strict=True))
    )
    return AnnotationFile(vocabulary, class_of, records)


def read_captions(path: Path) -> dict[int, tuple[str, ...]]:
    """The captions of each image id; nothing where there is no such file."""
    return captions_in(path, read_json(path)) if path.is_file() else {}


def captions_in(path: Path, content: Any) -> dict[int, tuple[str, ...]]:
    """The captions of each image id in a file that is parsed already.

    Args:
        path: for messages.
        content: of the file.

    Raises:
        InputError: it is not COCO's captions format; the first bad entry is named.
    """
    captions: dict[int, list[str]] = defaultdict(list)
    entries = content.get("annotations") if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise InputError(f"{path}: no list 'annotations'; is this COCO's captions format?")
    for i, entry in enumerate(entries):
        image_id, caption = _fields(path, f"annotations[{i}]", entry, image_id=int, caption=str)
        captions[image_id].append(caption)
    return {image_id: tuple(texts) for image_id, texts in captions.items()}


def read_json(path: Path) -> Any:
    """Parses a JSON file.

    Raises:
        InputError: it is missing, unreadable or no JSON; line and column are named.
    """
    try:
        return json.loads(path.read_bytes())  # which may begin with Windows' byte order mark
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise InputError(f"{path}: not valid JSON at {where}: {error.msg}") from error
    except (OSError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as JSON: {error}") from error


def safe_name(path: Path, where: str, name: str) -> str:
    """A file name that stays inside the folder it is looked up in.

    Raises:
        InputError: the name is empty, absolute, or climbs out by `..`.
    """
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if not parts or parts[0] == "/" or ".." in parts or ":" in parts[0] or "\0" in name:
        raise InputError(f"{path}: {where}: file_name {name!r} leaves the data folder")
    return name


def _categories(path: Path, entries: list[Any], kind: Kind) -> tuple[Vocabulary, dict[int, int]]:
    found: dict[int, tuple[str, bool]] = {}
    for i, entry in enumerate(entries):
        where = f"categories[{i}]"
        category_id, name = _fields(path, where, entry, id=int, name=str)
        thing = bool(entry.get("isthing", 1)) if kind == "panoptic" else True
        if category_id in found or name in {known for known, _ in found.values()}:
            raise InputError(f"{path}: {where}: id {category_id} or name {name!r} is there twice")
        found[category_id] = (name, thing)
    ids = sorted(found)
    names = tuple(found[category_id][0] for category_id in ids)
    is_thing = tuple(found[category_id][1] for category_id in ids)
    vocabulary = Vocabulary(names, tuple((name,) for name in names), is_thing)
    return vocabulary, {category_id: index for index, category_id in enumerate(ids)}


def _with_seen(vocabulary: Vocabulary, path: Path) -> Vocabulary:
    content = read_json(path)
    names, seen = _fields(path, "the file", content, names=list, seen=list)
    if not all(isinstance(name, str) for name in names):
        raise InputError(f"{path}: 'names' has an entry that is no text")
    seen_of = dict(zip(names, seen, strict=False))
    missing = [name for name in vocabulary.names if name not in seen_of]
    if len(names) != len(seen):
        raise InputError(f"{path}: {len(names)} 'names', but {len(seen)} 'seen'")
    if missing:
        raise InputError(f"{path}: 'names' lacks the category {missing[0]!r}")
    flags = tuple(bool(seen_of[name]) for name in vocabulary.names)
    return Vocabulary(vocabulary.names, vocabulary.synonyms, vocabulary.is_thing, flags)


def _image_numbers(path: Path, images: list[Any]) -> dict[int | str, int]:
    """A number for each image id in the file's order; Mapillary Vistas has texts as ids."""
    places: dict[int | str, int] = {}
    for i, image in enumerate(images):
        image_id = _image_id(path, f"images[{i}]", image, "id")
        if image_id in places:
            raise InputError(f"{path}: images[{i}]: id {image_id} is there twice")
        places[image_id] = i + 1
    numbers = [image_id for image_id in places if isinstance(image_id, int)]
    return places if len(numbers) < len(places) else dict(zip(places, numbers, strict=True))


def _image_id(path: Path, where: str, entry: Any, key: str) -> int | str:
    is_text = isinstance(entry, dict) and isinstance(entry.get(key), str)
    (image_id,) = _fields(path, where, entry, **{key: str if is_text else int})
    return cast("int | str", image_id)


def _by_image(
    path: Path,
    content: dict[str, Any],
    kind: Kind,
    class_of: dict[int, int],
    numbers: dict[int | str, int],
) -> dict[int, list[dict[str, Any]]]:
    found: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for i, entry in enumerate(content["annotations"]):
        where = f"annotations[{i}]"
        image_id = _image_id(path, where, entry, "image_id")
        if image_id not in numbers:
            raise InputError(f"{path}: {where}: image_id {image_id!r} is not among 'images'")
        number = numbers[image_id]
        if kind == "panoptic":
            _check_panoptic(path, where, entry, class_of)
            if number in found:
                raise InputError(f"{path}: {where}: a second annotation of image {image_id}")
        else:
            _check_segment(path, where, entry, class_of)
        found[number].append(entry)
    return found


def _check_panoptic(path: Path, where: str, entry: Any, class_of: dict[int, int]) -> None:
    name, segments = _fields(path, where, entry, file_name=str, segments_info=list)
    safe_name(path, where, name)
    for j, segment in enumerate(segments):
        _check_segment(path, f"{where}.segments_info[{j}]", segment, class_of)
        if not 0 < segment["id"] < 256**3:
            raise InputError(f"{path}: {where}.segments_info[{j}]: id is not in 1 to 256^3 - 1")
    if len({segment["id"] for segment in segments}) != len(segments):
        raise InputError(f"{path}: {where}: a segment id is there twice")


def _check_segment(path: Path, where: str, entry: Any, class_of: dict[int, int]) -> None:
    _, category_id = _fields(path, where, entry, id=int, category_id=int)
    if category_id not in class_of:
        raise InputError(f"{path}: {where}: category_id {category_id} is not among 'categories'")


def _record(path: Path, i: int, image: Any, number: int, own: list[dict[str, Any]]) -> ImageRecord:
    where = f"images[{i}]"
    height, width = _fields(path, where, image, height=int, width=int)
    name = safe_name(path, where, _file_name(path, where, image))
    if height < 1 or width < 1:
        raise InputError(f"{path}: {where}: size {height} x {width}")
    if own and "segments_info" in own[0]:
        panoptic_file, segments = own[0]["file_name"], own[0]["segments_info"]
    else:
        panoptic_file, segments = None, own
    absent, incomplete = _looked_for(path, where, image)
    return ImageRecord(
        number, name, (height, width), panoptic_file, tuple(segments), (), absent, incomplete
    )


def _file_name(path: Path, where: str, image: dict[str, Any]) -> str:
    """LVIS's images lie in COCO's folders: val2017/000000397133.jpg is the end of the address."""
    if "coco_url" in image and ("file_name" not in image or _ABSENT in image):
        (address,) = _fields(path, where, image, coco_url=str)
        return "/".join(address.split("/")[-2:])
    (name,) = _fields(path, where, image, file_name=str)
    return str(name)


def _looked_for(
    path: Path, where: str, image: dict[str, Any]
) -> tuple[tuple[int, ...] | None, tuple[int, ...]]:
    if _ABSENT not in image:
        return None, ()
    types = {_ABSENT: list, _INCOMPLETE: list}
    absent, incomplete = _fields(path, where, image, **types)
    for number in (*absent, *incomplete):
        if not isinstance(number, int):
            raise InputError(f"{path}: {where}: {number!r} is no category id")
    return tuple(absent), tuple(incomplete)


def _fields(path: Path, where: str, entry: Any, **types: type) -> tuple[Any, ...]:
    if not isinstance(entry, dict):
        raise InputError(f"{path}: {where} is no object")
    for name, kind in types.items():
        if name not in entry:
            raise InputError(f"{path}: {where} has no '{name}'")
        if not isinstance(entry[name], kind) or isinstance(entry[name], bool):
            raise InputError(f"{path}: {where}: '{name}' is no {kind.__name__}")
    return tuple(entry[name] for name in types)
