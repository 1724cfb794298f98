"""The errors that end a measurement.

CommitcastError
└── BenchmarkError      the measurement is invalid, or impossible here
    └── WrongDataError  the receiver got other data than was stored
"""

from commitcast.persistence.errors import CommitcastError


class BenchmarkError(CommitcastError):
    """The measurement is invalid, or impossible here."""

    code = "internal"


class WrongDataError(BenchmarkError):
    """The receiver got other data than was stored: a gap, a repeat, or other content."""
