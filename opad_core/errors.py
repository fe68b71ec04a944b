"""What can go wrong through a user's doing; each message is a sentence that a person can act on."""


class OpadError(Exception):
    """Bad input: images, a prompt, a folder, a configuration. Shown without a traceback."""


class DivergedError(OpadError):
    """The losses are no longer finite numbers."""


class OtherTrainingError(OpadError):
    """The state to resume from belongs to other images, settings, another method, seed or base."""


class OldCheckpointError(OtherTrainingError):
    """The state to resume from was written by an older version; the training can only start again."""
