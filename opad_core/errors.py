"""Errors that a user can cause. Each message says what is wrong and how to fix it."""


class OpadError(Exception):
    """Bad input: images, a prompt, a folder, a configuration. Shown without a traceback."""


class UnusableDeviceError(OpadError):
    """The device does not exist here."""


class NotEnoughMemoryError(OpadError):
    """The GPU has too little free memory for the training."""


class OtherBaseError(OpadError):
    """The concept was learned on another base than the one loaded."""


class DivergedError(OpadError):
    """The losses are no longer finite numbers."""


class OtherTrainingError(OpadError):
    """The state to resume from belongs to a training with other images, settings, method, seed or base."""


class OldCheckpointError(OtherTrainingError):
    """The state to resume from was written by an older version; the training has to start again."""
