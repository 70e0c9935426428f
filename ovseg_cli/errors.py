"""Errors that a user can mend: each says where, what was found and what would do."""


class OvsegError(Exception):
    """The user can mend it: one sentence, shown without a traceback, exit code 2."""

    exit_code = 2


class UsageError(OvsegError):
    """An option or argument that cannot be used as given."""


class RecipeError(OvsegError):
    """A recipe file, section, option or value that cannot be used."""


class RunError(OvsegError):
    """A run directory that is locked, or lacks what a stage needs."""


class InputError(OvsegError):
    """An image, annotation file or other input that cannot be read."""


class VocabularyError(OvsegError):
    """Labels, a label file or a built-in vocabulary that cannot be used."""


class CheckpointError(OvsegError):
    """Weights that are missing, damaged or of another model."""


class StorageError(OvsegError):
    """No space left, or a folder that cannot be written: exit code 1."""

    exit_code = 1


class TrainingError(OvsegError):
    """Training that cannot go on (the loss stayed non-finite): exit code 1."""

    exit_code = 1


class SomeInputsFailedError(OvsegError):
    """Some of many inputs failed and are listed; the others are done: exit code 3."""

    exit_code = 3
