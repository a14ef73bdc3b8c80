"""The errors that itda raises on purpose: what, got, allowed, do, in one line."""


class ItdaError(Exception):
    """An error that itda foresaw; `exit_code` is what the command line ends with."""

    exit_code = 1


class UserError(ItdaError):
    """Input, data or a setting that its owner can mend; the message says how."""

    exit_code = 2


class DamagedFileError(UserError):
    """A file of a run that is truncated, altered or not what its checksum says."""


class MachineError(ItdaError):
    """A failure of the machine (full disk, unwritable folder); nothing saved before it is lost."""
