"""Our own files, what is downloaded, and datasets."""

import os
import stat
from pathlib import Path

from ..checkpoints.catalogue import TINY
from ..datasets.known import known_datasets
from ..mining.tagger_data import tagger_folder
from ..recipe import recipes_folder, shipped_recipes
from ..storage import cache_folder
from .finding import Finding, problem, warning


def recipes() -> Finding:
    """The recipes that come with the package."""
    count = len(shipped_recipes())
    found = f"{count} in {recipes_folder()}"
    if not count:
        return problem("recipes", found, "install ovseg again: its data is missing")
    return Finding("recipes", found)


def model_in_the_box() -> Finding:
    """The small model that comes with the package."""
    if not (TINY / "recipe.yaml").is_file():
        mend = "install ovseg again, or train one: recipes/tiny/masqclip.sh"
        return problem("model tiny", "missing", mend)
    return Finding("model tiny", f"{_megabytes(TINY)}, knows synthetic shapes only")


def tagger_data() -> Finding:
    """NLTK's tagger; nouns are found by rules without."""
    name, folder = "NLTK's tagger data", tagger_folder()
    if folder is None:
        found = "missing: mine-captions finds nouns by rules"
        return warning(name, found, "ovseg models pull nltk")
    return Finding(name, str(folder))


def cache() -> Finding:
    """What was downloaded or worked out before."""
    folder = cache_folder()
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        mend = "name a folder of your own in OVSEG_CACHE"
        return problem("cache", f"{folder}: cannot be written", mend)
    return Finding("cache", f"{folder}: {_megabytes(folder) if folder.is_dir() else 'empty yet'}")


def datasets() -> Finding:
    """Which of the known datasets are below OVSEG_DATA."""
    named = os.environ.get("OVSEG_DATA")
    if not named:
        return Finding("datasets", "OVSEG_DATA names no folder of datasets")
    folder = Path(named)
    if not folder.is_dir():
        mend = "let OVSEG_DATA name the folder that holds your datasets"
        return problem("datasets", f"{folder}: no such folder", mend)
    states = {dataset.name: dataset.state(folder) for dataset in known_datasets()}
    here = [name for name, state in states.items() if state == "here"]
    raw = [name for name, state in states.items() if state == "not prepared"]
    found = f"{len(here)} of {len(states)} in {folder}{': ' if here else ''}{', '.join(here)}"
    if raw:
        names = ", ".join(raw)
        return warning("datasets", f"{found}; not prepared: {names}", "ovseg datasets prepare NAME")
    return Finding("datasets", found)


def _megabytes(folder: Path) -> str:
    return f"{sum(map(_size, folder.rglob('*'))) / 1e6:.1f} MB"


def _size(path: Path) -> int:
    """Bytes of a file itself; 0 for what is none, a link, or gone meanwhile."""
    try:
        found = path.lstat()
    except OSError:
        return 0
    return found.st_size if stat.S_ISREG(found.st_mode) else 0
