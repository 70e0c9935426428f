"""The folder of `ovseg predict`'s results: whose it is, and how it is emptied."""

from pathlib import Path

from ovseg_cli.errors import StorageError, UsageError
from ovseg_cli.storage import storage_errors

RESULT_FOLDERS = ("overlays", "panoptic", "semantic")
ERRORS = "errors.jsonl"
CATEGORIES = "categories.json"  # written first and removed last: the folder's mark
_FILES = ("panoptic.json", "instances.jsonl", ERRORS, "report.html", CATEGORIES)
_WRITTEN = ("*.png", "*.mp4")


def has_results(folder: Path) -> bool:
    """Whether an earlier `predict`, finished or not, wrote its results there."""
    return (folder / CATEGORIES).exists()


def check_folder(folder: Path, *, overwrite: bool = False) -> None:
    """Results of two times are never mixed, and what somebody else wrote is never touched.

    Args:
        folder: where results shall go.
        overwrite: whether those of an earlier time may go.

    Raises:
        UsageError: there are results of an earlier time, or other files in their place.
        StorageError: a file is where the folder or one above it shall be, or what is there cannot
            be looked at.
    """
    with storage_errors(folder):
        place = next((place for place in (folder, *folder.parents) if place.exists()), None)
        if place is not None and not place.is_dir():
            raise StorageError(
                f"{place}: a file stands where a folder is needed; choose another folder"
            )
        there = [name for name in (*RESULT_FOLDERS, *_FILES) if (folder / name).exists()]
    if there and not has_results(folder):
        raise UsageError(
            f"{folder / there[0]}: in the place of a result, and not written by predict; "
            "choose another folder by --output"
        )
    if there and not overwrite:
        raise UsageError(
            f"{folder}: the results of an earlier predict are there; --overwrite replaces them, "
            "--output takes another folder"
        )


def remove_results(folder: Path) -> None:
    """Removes what an earlier `predict` wrote, and nothing else.

    Raises:
        StorageError: the folder cannot be written.
    """
    if not has_results(folder):
        return
    with storage_errors(folder):
        for name in RESULT_FOLDERS:
            for pattern in _WRITTEN:
                for path in (folder / name).glob(pattern):
                    path.unlink()
        for name in _FILES:
            (folder / name).unlink(missing_ok=True)
