"""Released names into ours, by rules."""

import re
from collections.abc import Iterable

_NUMBER = re.compile(r"<(?:(\d)\*)?(\d)([+-]\d)?>")


def renamed(name: str, rules: Iterable[tuple[str, str]]) -> str:
    """A name after all rules.

    Args:
        name: of a tensor.
        rules: patterns and what stands in their place, where `<3-1>` and `<2*1>` are 2; numbers
            are of one digit.
    """
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return _NUMBER.sub(lambda n: str(int(n[1] or 1) * int(n[2]) + int(n[3] or 0)), name)
