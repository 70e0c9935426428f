"""Captions: what people might say about a scene, with attributes dropped at random."""

import numpy as np

from .scene import Region, Scene

CAPTIONS = 5


def _noun_phrase(rng: np.random.Generator, thing: Region) -> str:
    words = []
    if thing.size and rng.random() < 0.1:
        words.append(thing.size)
    if thing.texture != "plain" and rng.random() < 0.3:
        words.append(thing.texture)
    if rng.random() < 0.35:
        words.append(thing.color)
    words.append(thing.name)
    if rng.random() < 0.12:
        return " ".join(words)
    article = "an" if words[0][0] in "aeiou" else "a"
    return " ".join([article, *words])


def _joined(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def _place(rng: np.random.Generator, scene: Scene, share: float) -> str:
    if rng.random() >= share:
        return ""
    if not scene.stuff:
        return " on a plain background"
    return " on " + " and ".join(region.name for region in scene.stuff)


def _relation(first: Region, second: Region) -> str:
    dx, dy = (first.center[i] - second.center[i] for i in (0, 1))
    if abs(dx) > abs(dy):
        return "left of" if dx < 0 else "right of"
    return "above" if dy < 0 else "below"


def _listing(rng: np.random.Generator, scene: Scene) -> str:
    order = rng.permutation(len(scene.things))
    phrases = [_noun_phrase(rng, scene.things[i]) for i in order]
    return _joined(phrases) + _place(rng, scene, 0.5)


def _some(rng: np.random.Generator, scene: Scene) -> str:
    count = int(rng.integers(1, len(scene.things) + 1))
    chosen = rng.choice(len(scene.things), count, replace=False)
    phrases = [_noun_phrase(rng, scene.things[i]) for i in chosen]
    return _joined(phrases) + _place(rng, scene, 0.3)


def _related(rng: np.random.Generator, scene: Scene) -> str:
    if len(scene.things) < 2:
        return _some(rng, scene)
    i, j = rng.choice(len(scene.things), 2, replace=False)
    first, second = scene.things[i], scene.things[j]
    phrases = (_noun_phrase(rng, first), _noun_phrase(rng, second))
    return f"{phrases[0]} {_relation(first, second)} {phrases[1]}" + _place(rng, scene, 0.3)


def _ground(rng: np.random.Generator, scene: Scene) -> str:
    names = [region.name for region in scene.stuff]
    if not names:
        return _some(rng, scene)
    rng.shuffle(names)
    return " and ".join(names)


def captions(rng: np.random.Generator, scene: Scene) -> tuple[str, ...]:
    """Five sentences about a scene: listings, relations, some of its things, and its stuff."""
    if not scene.things:
        return tuple(_ground(rng, scene) for _ in range(CAPTIONS))
    about_ground = _ground if rng.random() < 0.35 else _some
    makers = (_listing, _listing, _some, _related, about_ground)
    return tuple(maker(rng, scene) for maker in makers)
