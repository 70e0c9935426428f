"""Seeds that are made of several numbers, such as the step and the image."""


def seed_of(*parts: int) -> int:
    """A seed from several numbers; equal only where all are equal, for all practical purposes."""
    mixed = 0x9E3779B97F4A7C15
    for part in parts:
        mixed = ((mixed ^ (part & 0xFFFFFFFFFFFFFFFF)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        mixed ^= mixed >> 31
    return mixed >> 1
