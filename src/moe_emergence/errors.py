"""What can go wrong through no fault of the code: each says what was given, what was expected, what to do.

The command line prints such an error as one line and exits with 2; anything else is a defect and keeps its traceback.
"""


class MoEEmergenceError(Exception):
    """A mistake or a state of the world that the user can mend; the message names both values and the way out."""


class ConfigError(MoEEmergenceError):
    """A setting outside its range, unknown, or at odds with another one."""


class DataError(MoEEmergenceError):
    """A corpus that is missing, unreadable, too small, or not the one recorded."""


class ModelError(MoEEmergenceError):
    """A base model that cannot be read, or that cannot be upcycled as asked."""


class RunDirectoryError(MoEEmergenceError):
    """A run directory that is in use, already used, or not what its records say."""


class CheckpointError(MoEEmergenceError):
    """A checkpoint that is missing, incomplete, or does not fit the model."""


class AnalysisError(MoEEmergenceError):
    """Recorded data that lacks what a measure needs."""


class TrainingError(MoEEmergenceError):
    """Training that cannot go on, such as a loss that is no longer finite."""


class Interrupted(MoEEmergenceError):
    """The user asked a run to stop; what was done is kept and the run can be continued."""
