"""Metrics, exactly as published: each is updated image by image and computed at the end."""
