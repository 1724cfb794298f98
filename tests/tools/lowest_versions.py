"""Prints the lowest version of each library that setup.cfg allows, as constraints for pip.

python tests/tools/lowest_versions.py setup.cfg [EXTRA ...] > constraints.txt
"""

import argparse
import configparser
import re
from collections.abc import Iterator
from pathlib import Path

_REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)(\[[\w,.-]+\])?\s*>=\s*(?P<lowest>[\w.]+)(,.*)?")


def lowest_versions(configuration: str, *extras: str) -> Iterator[str]:
    """Yield a constraint for each library that is always needed, and for those of some extras.

    Raises:
        ValueError: a library has no lowest version.
    """
    parser = configparser.ConfigParser()
    parser.read_string(configuration)
    wanted = [parser["options"]["install_requires"], *(parser["options.extras_require"][extra] for extra in extras)]
    for line in "\n".join(wanted).splitlines():
        requirement = line.strip()
        if not requirement or requirement.startswith(("#", "commitcast[")):
            continue
        found = _REQUIREMENT.fullmatch(requirement)
        if found is None:
            raise ValueError(f"setup.cfg says no lowest version: {requirement}")
        yield f"{found['name']} == {found['lowest']}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Print the lowest version of each library, as constraints for pip.")
    parser.add_argument("configuration", type=Path, help="setup.cfg")
    parser.add_argument("extras", nargs="*", metavar="EXTRA", help="whose libraries are included")
    options = parser.parse_args()
    print(*lowest_versions(options.configuration.read_text("utf-8"), *options.extras), sep="\n")
