"""Plain text: each line is what the assistant says. Pure."""

from commitcast.actors.sources.draft import Draft
from commitcast.actors.sources.parsers.decoding import text_of
from commitcast.actors.sources.parsers.parser import Parser


class TextParser(Parser):
    """For any program: one message a line."""

    plain_type = "assistant"
    shows_steps = True

    def _read(self, line: bytes) -> list[Draft]:
        text = text_of(line)
        self._note_text(text)
        return [Draft(text)]
