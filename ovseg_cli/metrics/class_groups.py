"""The groups of classes that a metric is averaged over."""

from collections.abc import Mapping, Sequence

import numpy as np

from ovseg_cli.structures import Vocabulary

Groups = Mapping[str, tuple[int, ...]]


def class_groups(vocabulary: Vocabulary) -> dict[str, tuple[int, ...]]:
    """All, things, stuff, and where training is known base (seen) and novel (unseen) ones.

    Groups without a class are left out.
    """
    thing = np.array(vocabulary.is_thing, dtype=bool)
    groups = {"all": np.ones_like(thing), "things": thing, "stuff": ~thing}
    if vocabulary.seen:
        seen = np.array(vocabulary.seen, dtype=bool)
        groups |= {"base": seen, "novel": ~seen}
        groups |= {"base_things": seen & thing, "novel_things": ~seen & thing}
        groups |= {"base_stuff": seen & ~thing, "novel_stuff": ~seen & ~thing}
    found = {name: tuple(np.flatnonzero(members).tolist()) for name, members in groups.items()}
    return {name: members for name, members in found.items() if members}


def group_means(values: np.ndarray, groups: Groups) -> dict[str, float]:
    """The mean of each group's classes; classes that are nan do not count.

    Args:
        values: (K,) one a class, nan where it has none.
        groups: class indices by name.
    """
    return {name: mean_of(values, members) for name, members in groups.items()}


def mean_of(values: np.ndarray, members: Sequence[int]) -> float:
    """The mean of some classes' values without nan; nan of none.

    Args:
        values: (K,) one a class, nan where it has none.
        members: class indices.
    """
    chosen = values[list(members)]
    chosen = chosen[~np.isnan(chosen)]
    return float(chosen.mean()) if len(chosen) else float("nan")


def harmonic_mean(base: float, novel: float) -> float:
    """2 b n / (b + n), 0 where both are 0."""
    return 2 * base * novel / (base + novel) if base + novel else 0.0
