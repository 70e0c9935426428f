"""What the synthetic world is made of: classes, colours, textures and the compositions held out.

Base classes have masks in training; novel ones occur in its images and captions only.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class ShapeClass:
    """One class of the world: COCO's category id (from 1), name, thing or stuff, base or novel."""

    id: int
    name: str
    is_thing: bool
    seen: bool


BASE_THINGS = (
    "ball", "wheel", "target", "clock", "dice", "window", "crate",
    "tent", "pizza", "star", "heart", "arrow", "house", "cup",
)  # fmt: skip
NOVEL_THINGS = ("ladder", "snake", "key", "flower", "butterfly", "umbrella")
BASE_STUFF = ("grass", "water", "sand", "brick", "wood", "carpet")
NOVEL_STUFF = ("lava", "tiles")

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (214, 39, 40),
    "orange": (245, 135, 30),
    "yellow": (240, 215, 50),
    "green": (50, 160, 60),
    "cyan": (60, 205, 215),
    "blue": (40, 80, 210),
    "purple": (130, 50, 170),
    "pink": (245, 150, 190),
    "brown": (125, 75, 45),
    "black": (35, 35, 40),
    "gray": (135, 135, 135),
    "white": (240, 240, 240),
}
TEXTURES = ("plain", "striped", "spotted", "checked")


def classes() -> tuple[ShapeClass, ...]:
    """Every class in the order of its category id: base and novel things, base and novel stuff."""
    groups = (
        (BASE_THINGS, True, True),
        (NOVEL_THINGS, True, False),
        (BASE_STUFF, False, True),
        (NOVEL_STUFF, False, False),
    )
    rows = [(name, thing, seen) for names, thing, seen in groups for name in names]
    return tuple(ShapeClass(i, *row) for i, row in enumerate(rows, start=1))


def is_held_out(color: str, thing: str) -> bool:
    """True for one in eleven pairs of colour and thing: no training image or caption has them."""
    things = BASE_THINGS + NOVEL_THINGS
    return (3 * things.index(thing) + 5 * list(COLORS).index(color)) % 11 == 0


def held_out_compositions() -> tuple[tuple[str, str], ...]:
    """The (colour, thing) pairs that only validation and test show."""
    pairs = ((c, t) for t in BASE_THINGS + NOVEL_THINGS for c in COLORS)
    return tuple(pair for pair in pairs if is_held_out(*pair))
