"""Words: labels as a user writes them, the benchmarks' class lists, templates, text embeddings."""

from .builtin import builtin_ids, builtin_names, builtin_title, builtin_vocabulary, category_ids
from .labels import parse_labels
from .templates import NAME_ONLY, TEMPLATES, VILD
from .text_embeddings import text_embeddings

__all__ = [
    "NAME_ONLY",
    "TEMPLATES",
    "VILD",
    "builtin_ids",
    "builtin_names",
    "builtin_title",
    "builtin_vocabulary",
    "category_ids",
    "parse_labels",
    "text_embeddings",
]
