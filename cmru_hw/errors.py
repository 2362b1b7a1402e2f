"""Errors a caller can catch; all derive from `CmruHwError`."""


class CmruHwError(Exception):
    """Base of every error this package raises on purpose; its text is one line for a person to act on."""


class ConfigError(CmruHwError):
    """A file or argument from the user is wrong: names the file, the field and the rule."""


class MappingError(CmruHwError):
    """The network cannot be built on the chosen technology: names the tensor and the index."""


class TrainingError(CmruHwError):
    """Training cannot go on (a loss that is not finite, a checkpoint of another run)."""


class SimulatorNotFound(CmruHwError):
    """ngspice is missing or too old."""


class SimulationError(CmruHwError):
    """A SPICE run failed: carries the deck's path and the simulator's own line."""


class WorkError(CmruHwError):
    """Work that was handed out was not done: workers that die, a disk that is full."""
