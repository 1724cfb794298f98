"""A logger for the WebSocket library, without the records that show headers and frames."""

import logging
from collections.abc import Callable
from typing import Any


class QuietLogger(logging.LoggerAdapter[logging.Logger]):
    """Drops DEBUG records, in which websockets logs every header and frame: tokens and content."""

    def __init__(self, logger: logging.Logger, is_noise: Callable[[object], bool] = lambda message: False) -> None:
        """Wrap a logger; `is_noise` is called with the message of each record, and True drops it too."""
        super().__init__(logger, {})
        self._is_noise = is_noise

    def isEnabledFor(self, level: int) -> bool:
        """Whether records of a level are logged."""
        return level > logging.DEBUG and super().isEnabledFor(level)

    def log(self, level: int, msg: object, *args: Any, **kwargs: Any) -> None:
        """Log a record, unless it is noise."""
        if not self._is_noise(msg):
            super().log(level, msg, *args, **kwargs)
