"""open_clip's weights as files, in the cache that is shared with Hugging Face's hub."""

from pathlib import Path

import open_clip

from ovseg_cli.errors import InputError


def fetch_open_clip(architecture: str, pretrained: str) -> Path:
    """Fetches the file that `load_open_clip` reads; what is there is not fetched again.

    Args:
        architecture: open_clip's name.
        pretrained: open_clip's tag.

    Raises:
        InputError: no such weights, no connection, or the hub is to be left alone (HF_HUB_OFFLINE).
    """
    tag = open_clip.pretrained.get_pretrained_cfg(architecture, pretrained)
    if not tag:
        raise InputError(f"{architecture}:{pretrained}: open_clip has no such weights")
    try:
        return Path(open_clip.pretrained.download_pretrained(tag))
    except (OSError, RuntimeError, ValueError) as error:  # open_clip's own, and its URL client's
        raise InputError(
            f"{architecture}:{pretrained}: cannot be fetched from Hugging Face's hub "
            f"({' '.join(str(error).split())[:300]}); check the connection and HF_HUB_OFFLINE; the "
            "same command goes on where it stopped"
        ) from error
