"""Official downloads turned into what the readers want; the originals are left as they are."""
