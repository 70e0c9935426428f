"""Text files of words, line by line."""

import re
from collections.abc import Iterator
from pathlib import Path

from ..errors import VocabularyError

MAX_FILE_BYTES = 2_000_000


def lines_of(path: Path) -> Iterator[tuple[str, str]]:
    """The place, for messages, and the text of every line that says something.

    What follows a "#" at the beginning of a word is a comment.

    Raises:
        VocabularyError: the file is missing, too large, or no text in UTF-8.
    """
    for number, line in enumerate(_text(path).splitlines(), start=1):
        line = re.sub(r"(^|\s)#.*", "", line).strip()
        if line:
            yield f"{path}, line {number}", line


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise VocabularyError(f"{path}: too large for a file of labels (over 2 MB)")
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise VocabularyError(f"{path}: no such file of labels") from None
    except UnicodeDecodeError:
        raise VocabularyError(f"{path}: not a text file in UTF-8") from None
    except (OSError, ValueError) as error:
        raise VocabularyError(f"{path}: cannot be read as labels ({error})") from None
    if "\0" in text:
        raise VocabularyError(f"{path}: not a text file in UTF-8")
    return text
