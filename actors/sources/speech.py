"""What one process says, on its way from chunks of bytes to messages of its agent.

Owns the unfinished line and the parser of one process. Used on the source's thread.
"""

from commitcast.actors.sources.context import AgentContext
from commitcast.actors.sources.lines import Line, LineSplitter
from commitcast.actors.sources.parsers import Parser


class Speech:
    """What one process says, on its way from chunks of bytes to messages."""

    def __init__(self, parser: Parser, context: AgentContext) -> None:
        self._parser = parser
        self._context = context
        self._splitter = LineSplitter()
        self._session_id = parser.session_id

    def feed(self, chunk: bytes) -> None:
        """Put the messages that a chunk completes. Blocks while the agent is at its bound."""
        for line in self._splitter.feed(chunk):
            self._say(line)

    def end(self) -> None:
        """Put the last line if it had no newline."""
        for line in self._splitter.end():
            self._say(line)

    def _say(self, line: Line) -> None:
        if line.partial:
            self._context.put(self._parser.parse_piece(line.data, continues=line.continues))
            return
        for draft in self._parser.parse(line.data):
            self._context.put(draft)
        if self._parser.session_id != self._session_id:
            self._session_id = self._parser.session_id
            self._context.patch(configuration={"session_id": self._session_id})
