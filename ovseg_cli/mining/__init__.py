"""Mask-noun pairs out of images with captions: nouns, their embeddings, the masks they name."""
