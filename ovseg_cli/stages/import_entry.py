"""`ovseg models import --name`: a released file of the catalogue becomes a model by name."""

from collections.abc import Sequence
from pathlib import Path

from ovseg_cli.checkpoints.catalogue import catalogue_entry
from ovseg_cli.checkpoints.origins import Licence, Origin
from ovseg_cli.checkpoints.released_systems import SYSTEMS
from ovseg_cli.errors import UsageError

from .import_model import ImportReport, import_model
from .models_here import is_run_directory, model_folder


def import_entry(
    file: Path,
    name: str,
    folder: Path | None = None,
    *,
    recipe: str | None = None,
    overrides: Sequence[str] = (),
) -> ImportReport:
    """`import_model` with what the catalogue says: layout, licence, check sum, where it came from.

    Args:
        file: as it was released.
        name: of its entry.
        folder: new or empty; None for the cache, where `--model NAME` finds it.
        recipe: see `import_model`.
        overrides: see `import_model`.

    Raises:
        UsageError: no such entry, or one that is no released file; it is imported already, or the
            folder holds something.
        CheckpointError: see `import_model`.
    """
    entry = catalogue_entry(name)
    if entry.system is None or not (entry.url or entry.page):
        raise UsageError(f"{name}: is no released file to be imported; see 'ovseg models list'")
    place = folder or model_folder(name)
    if folder is None and is_run_directory(place):
        raise UsageError(f"{name}: is imported already; delete {place} to import it anew")
    usual = entry.system in SYSTEMS and SYSTEMS[entry.system].licence.name == entry.licence
    origin = Origin(
        url=entry.url or entry.page,
        sha256=entry.sha256,
        entry=name,
        licence=None if usual else Licence(entry.licence, commercial=bool(entry.commercial)),
    )
    return import_model(
        file,
        entry.system,
        place,
        origin=origin,
        recipe=recipe,
        overrides=overrides,
    )
