"""Every error that torchspeed raises on purpose, each with the exit code of the command line.

A message says what was found, where, and what to do. Exit codes follow sysexits.h: 65 bad data or checkpoint,
74 input/output, 75 try again (pre-empted and saved), 78 bad configuration.
"""


class TorchspeedError(Exception):
    """Base class; the command line prints the message alone, without a traceback."""

    exit_code = 78


class JobError(TorchspeedError):
    """The job cannot be loaded or does not fit together (model, data, loss)."""


class PlanError(TorchspeedError):
    """A plan names an unknown lever or option, or two levers that exclude each other."""


class DeviceError(TorchspeedError):
    """The device that was asked for is not there."""


class RunDirectoryError(TorchspeedError):
    """The run directory cannot be written, or holds another run."""


class MissingPackage(TorchspeedError):
    """An optional package is not installed; says which command installs it."""

    def __init__(self, package: str, *, extra: str, why: str) -> None:
        super().__init__(f"{package} is not installed ({why}); run: pip install 'torchspeed[{extra}]'")


class DataError(TorchspeedError):
    """The data are empty, unequal, out of range, unreadable or not finite."""

    exit_code = 65


class CheckpointError(TorchspeedError):
    """A checkpoint is torn, edited, of another job, or of a newer format."""

    exit_code = 65


class DivergedError(TorchspeedError):
    """The loss stopped being finite in mid-training."""

    exit_code = 65


class StorageError(TorchspeedError):
    """A file or directory cannot be written."""

    exit_code = 74


class Preempted(TorchspeedError):
    """A signal asked the run to stop; its state is saved and ``--resume`` goes on from there."""

    exit_code = 75


class NotApplicable(Exception):
    """A lever does not apply here, with the sentence why. Not an error: whoever tries levers skips it."""
