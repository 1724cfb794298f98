"""What clients may launch: templates that the server's owner has written. A client chooses one and gives a prompt.

Must never let a prompt become anything but text for the program: it goes to its standard input, or into an argument
that the program cannot read as an option.
"""

import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, Final, Literal

import msgspec

from commitcast.actors.kernel.supervision import RestartPolicy
from commitcast.actors.sources.command import EXIT_TIMEOUT_S, PROMPT_PLACEHOLDER, CommandSource
from commitcast.actors.sources.runner import Source, check_source
from commitcast.persistence.errors import InvalidValueError

MAX_RUNNING: Final = 8
"""Agents of one template at work for one tenant: each may be a program that takes a core and money."""
MAX_RUNNING_IN_ALL: Final = 64
"""The same for all tenants together, of whom there may be any number."""
_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
"""Part of an agent's id."""
_SHELLS: Final = "sh ash bash csh dash fish ksh mksh rbash tcsh zsh busybox toybox eval exec command"
_WRAPPERS: Final = (
    "env xargs nohup nice ionice chrt taskset timeout setsid stdbuf flock script unshare nsenter chroot parallel watch "
    "sudo su doas runuser setpriv su-exec gosu ssh docker podman kubectl nerdctl lxc find make"
)
_LANGUAGES: Final = "awk gawk mawk nawk sed perl lua tclsh expect"
_INTERPRETERS: Final = frozenset(f"{_SHELLS} {_WRAPPERS} {_LANGUAGES}".split())
"""Programs that run what they are given: a prompt beside their name is refused, wherever either stands."""
_VERSION: Final = "-.0123456789"
"""What may stand behind such a name, as in `bash5`."""
_OPTION: Final = re.compile(r"--?(?!(?:e|eval|p|print|c|command|exec|r|run)=)[A-Za-z][\w-]*=\{prompt\}")
"""One whose value is text; by the others a runtime is given code."""


class Template:
    """How to launch an agent for a client."""

    def __init__(
        self,
        source: Source,
        *,
        type: str | None = None,
        configuration: dict[str, Any] | None = None,
        restart: RestartPolicy | Literal["never", "on_failure"] = "never",
        max_running: int = MAX_RUNNING,
        max_running_in_all: int | None = None,
    ) -> None:
        """Make a template.

        Args:
            source, type, configuration, restart: as for `AgentRuntime.launch`.
            max_running: agents of it at work at the same time for one tenant, that is, for all callers whose agents
                have the same prefix; more are refused.
            max_running_in_all: the same for all tenants together. None is 64, or `max_running` if that is more.

        Raises:
            InvalidValueError: one of them cannot be used.
        """
        if isinstance(source, CommandSource):
            _check_prompt_is_text(source.argv)
            source = source.for_clients()
        self.source = check_source(source)
        self.type = type
        self.configuration = configuration
        self.restart = RestartPolicy.of(restart)
        if max_running < 1:
            raise InvalidValueError(f"max_running must be 1 or more, not {max_running}")
        self.max_running = max_running
        self.max_running_in_all = max(MAX_RUNNING_IN_ALL, max_running)
        if max_running_in_all is not None:
            if max_running_in_all < 1:
                raise InvalidValueError(f"max_running_in_all must be 1 or more, not {max_running_in_all}")
            self.max_running_in_all = max_running_in_all


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


def checked_templates(templates: Mapping[str, Template]) -> dict[str, Template]:
    """Return templates by their names.

    Raises:
        InvalidValueError: a name is none.
    """
    for name in templates:
        if not _NAME.fullmatch(name):
            raise InvalidValueError(f"{name!r:.80} is no name of a template: use 1 to 64 of A-Z a-z 0-9 . _ -")
    return dict(templates)


def load_templates(path: Path) -> dict[str, Template]:
    """Return the templates in a TOML file: a table for each, with `command` and, if need be, `type`, `folder`,
    `environment`, `restart`, `max_running`, `max_running_in_all` and `exit_timeout_s`.

    Raises:
        InvalidValueError: the file cannot be read, or one of them cannot be used.
    """
    try:
        tables = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidValueError(f"the templates in {path} cannot be read: {error}") from error
    if not tables:
        raise InvalidValueError(f"{path} holds no template: write a table such as [review] with command = [...]")
    return checked_templates({name: _named(path, name, lambda t=table: _template(t)) for name, table in tables.items()})  # type: ignore[misc]


def _named(path: Path, name: str, make: Callable[[], Template]) -> Template:
    try:
        return make()
    except (msgspec.ValidationError, InvalidValueError) as error:
        raise InvalidValueError(f"the template {name} in {path} cannot be used: {error}") from error


def _template(table: Any) -> Template:
    found = msgspec.convert(table, _CommandTemplate)
    source = CommandSource(
        found.command,
        type=found.type,
        cwd=found.folder,
        env=found.environment,
        exit_timeout_s=found.exit_timeout_s,
    )
    return Template(
        source,
        restart=found.restart,
        max_running=found.max_running,
        max_running_in_all=found.max_running_in_all,
    )


def _check_prompt_is_text(command: Sequence[str]) -> None:
    """Check that a prompt is an argument of its own behind `--`, or all of an option's value, and no interpreter's.

    What the program makes of the text then is between its owner and it.
    """
    words = [word for argument in command for word in argument.split()]
    is_run = any(PurePath(word).name.rstrip(_VERSION) in _INTERPRETERS for word in words)
    for number, argument in enumerate(command):
        is_own = argument == PROMPT_PLACEHOLDER and "--" in command[:number]
        is_text = not is_run and (is_own or _OPTION.fullmatch(argument))
        if PROMPT_PLACEHOLDER in argument and not is_text:
            raise InvalidValueError(
                f"a prompt in {argument!r:.80} could be read as an option or command: write {PROMPT_PLACEHOLDER} alone "
                f"behind --, or --name={PROMPT_PLACEHOLDER}, or leave it out, so that it goes to standard input"
            )
