"""The synthetic set: small scenes of drawn things on procedural stuff, with masks and captions."""
