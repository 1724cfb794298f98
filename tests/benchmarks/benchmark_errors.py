"""What ends a measurement.

CommitcastError
└── BenchmarkError      the measurement is void, or cannot be made here
    └── WrongDataError  the receiver was given something else than was stored
"""

from commitcast.persistence.errors import CommitcastError


class BenchmarkError(CommitcastError):
    """The measurement is void, or cannot be made here."""

    code = "internal"


class WrongDataError(BenchmarkError):
    """The receiver was given something else than was stored: a gap, a repeat, or other content."""
