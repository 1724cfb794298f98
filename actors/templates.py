"""Templates of what clients may launch, written by the server's owner. A client names one and gives a prompt.

A client's prompt goes to the program's standard input. Where the owner allows it, it is one whole argument. In either
place the program must take it as text: a shell or an interpreter runs what it reads, and a program's name does not show
whether it runs, evaluates or forwards its input or its arguments.
"""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal, get_args

import msgspec

from commitcast.actors.kernel.supervision import RestartPolicy
from commitcast.actors.sources.command import EXIT_TIMEOUT_S, PROMPT_PLACEHOLDER, CommandSource
from commitcast.actors.sources.runner import Source, check_source
from commitcast.persistence.errors import InvalidValueError

MAX_RUNNING: Final = 8
"""Agents of one template at work for one tenant: each may be a program that takes a core and money."""
MAX_RUNNING_IN_ALL: Final = 64
"""The same for all tenants together; their number has no limit."""
_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
"""Part of an agent's id."""

PromptPlace = Literal["stdin", "argument"]


class Template:
    """A source that clients may launch, and its limits."""

    def __init__(
        self,
        source: Source,
        *,
        type: str | None = None,
        configuration: dict[str, Any] | None = None,
        restart: RestartPolicy | Literal["never", "on_failure"] = "never",
        max_running: int = MAX_RUNNING,
        max_running_in_all: int | None = None,
        prompt: PromptPlace = "stdin",
    ) -> None:
        """Make a template.

        Args:
            source, type, configuration, restart: as for `AgentRuntime.launch`.
            max_running: agents of it at work at the same time for one tenant, that is, for all callers whose agents
                have the same prefix; more are refused.
            max_running_in_all: the same for all tenants together. None is 64, or `max_running` if that is more.
            prompt: where a command gets the client's prompt. "stdin": on its standard input, so the command must not be
                a shell or an interpreter, such as `sh` or `python3 -`, which would run it. "argument": in place of each
                argument that is "{prompt}" and nothing else, which the program must take as text and must not run,
                evaluate or forward. A prompt that begins with "-" is then refused, unless an argument "--" comes
                before it.

        Raises:
            InvalidValueError: one of them cannot be used.
        """
        _check_place(prompt, source)
        if isinstance(source, CommandSource):
            _check_prompt(source.argv, prompt)
            source = source.for_clients()
        self.source = check_source(source)
        self.type = type
        self.configuration = configuration
        self.restart = RestartPolicy.of(restart)
        in_all = max(MAX_RUNNING_IN_ALL, max_running) if max_running_in_all is None else max_running_in_all
        for name, count in (("max_running", max_running), ("max_running_in_all", in_all)):
            if count < 1:
                raise InvalidValueError(f"{name} must be 1 or more, not {count}")
        self.max_running, self.max_running_in_all = max_running, in_all


class _CommandTemplate(msgspec.Struct, forbid_unknown_fields=True):
    """A table of a file of templates."""

    command: list[str]
    type: str | None = None
    folder: str | None = None
    environment: dict[str, str] = {}
    restart: Literal["never", "on_failure"] = "never"
    max_running: int = MAX_RUNNING
    exit_timeout_s: float = EXIT_TIMEOUT_S
    max_running_in_all: int | None = None
    prompt: PromptPlace = "stdin"


def checked_templates(templates: Mapping[str, Template]) -> dict[str, Template]:
    """Return templates by their names.

    Raises:
        InvalidValueError: a name is not valid, or its value is not a `Template`.
    """
    for name, template in templates.items():
        if not isinstance(template, Template):
            raise InvalidValueError(
                f"the template {name!r:.80} must be a Template, not {template!r:.80}: wrap its source"
            )
        if not _NAME.fullmatch(name):
            raise InvalidValueError(f"{name!r:.80} is not a valid template name: use 1 to 64 of A-Z a-z 0-9 . _ -")
    return dict(templates)


def load_templates(path: Path) -> dict[str, Template]:
    """Return the templates in a TOML file: a table for each, with `command` and, if need be, `type`, `folder`,
    `environment`, `prompt`, `restart`, `max_running`, `max_running_in_all` and `exit_timeout_s`.

    Raises:
        InvalidValueError: the file cannot be read, or one of them cannot be used.
    """
    try:
        tables = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidValueError(f"the templates in {path} cannot be read: {error}") from error
    if not tables:
        raise InvalidValueError(f"{path} has no templates: write a table such as [review] with command = [...]")
    return checked_templates({name: _template(path, name, table) for name, table in tables.items()})


def _template(path: Path, name: str, table: Any) -> Template:
    try:
        settings = msgspec.convert(table, _CommandTemplate)
        source = CommandSource(
            settings.command,
            type=settings.type,
            cwd=settings.folder,
            env=settings.environment,
            exit_timeout_s=settings.exit_timeout_s,
        )
        return Template(
            source,
            restart=settings.restart,
            max_running=settings.max_running,
            max_running_in_all=settings.max_running_in_all,
            prompt=settings.prompt,
        )
    except (msgspec.ValidationError, InvalidValueError) as error:
        raise InvalidValueError(f"the template {name} in {path} cannot be used: {error}") from error


def _check_place(place: object, source: Source) -> None:
    """Check that there is such a place, and that the source has it."""
    if place not in get_args(PromptPlace):
        raise InvalidValueError(f'prompt must be "stdin" or "argument", not {place!r:.80}')
    if place == "argument" and not isinstance(source, CommandSource):
        raise InvalidValueError(
            'prompt = "argument" is only for a CommandSource: leave it out; other sources read `context.prompt`'
        )


def _check_prompt(command: tuple[str, ...], place: PromptPlace) -> None:
    """Check that a prompt can only get where the owner has said that it may."""
    holding = [argument for argument in command if PROMPT_PLACEHOLDER in argument]
    if place == "stdin" and holding:
        raise InvalidValueError(
            f"its arguments contain {PROMPT_PLACEHOLDER}, but a client's prompt goes to standard input: leave "
            f'{PROMPT_PLACEHOLDER} out, or write prompt = "argument" if the program takes that argument as text: '
            "in either place, a shell or an interpreter would run it"
        )
    if place == "argument" and not holding:
        raise InvalidValueError(
            f'prompt = "argument" needs an argument "{PROMPT_PLACEHOLDER}": add one, or leave that line out, so that '
            "the prompt goes to standard input"
        )
    for argument in holding:
        if argument != PROMPT_PLACEHOLDER or command[0] == argument:
            raise InvalidValueError(
                f"{PROMPT_PLACEHOLDER} in {argument!r:.80} must be a whole argument, and not the program: write "
                f'"{PROMPT_PLACEHOLDER}" by itself after the program\'s name and options'
            )
