"""Annotated images: COCO's layout, and the framing of images for the networks."""
