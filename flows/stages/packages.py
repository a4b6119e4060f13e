"""The pinned packages that a task can load: requirements.lock, cut by what its code imports and by what those packages need.

requirements.lock says under each pin who needs it ("# via"), on every platform: the cut is the same everywhere, whatever is installed.
"""

import re
import sys
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from models.core.errors import UserError

LOCK, FOLDER = "requirements.lock", "requirements"
PACKAGE_OF = {  # of modules whose package has another name
    "ruamel": "ruamel-yaml",
    "stdnum": "python-stdnum",
    "profanity_check": "alt-profanity-check",
}
UNSEEN = {
    "lm-eval": ("accelerate", "torch", "transformers"),
    "pandas": ("pyarrow",),
    "pyarrow": ("numpy",),
    "ruamel-yaml": ("ruamel-yaml-clib",),
    "scikit-learn": ("pandas",),
    "transformers": ("accelerate", "jinja2", "jmespath", "peft", "pillow", "protobuf", "scikit-learn", "scipy", "torch"),
}
"""What a package loads where it finds it installed, and does not ask for. What only reports, stores or draws is left out: accelerate looks
for boto3, trl for mlflow, which are here for the flows and touch no number. tests/flows/test_packages.py holds it against what is loaded.
"""


@dataclass(frozen=True)
class Pins:
    """The lines of a lock file by package, more than one where markers choose, and the packages that each package needs."""

    lines: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    needs: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))


def pins(text: str) -> Pins:
    """The pins of a lock file that `uv pip compile` has annotated."""
    found, name = Pins(), ""
    for line in text.splitlines():
        if said := re.match(r" +#(?: via)? *([\w.-]*)", line):
            found.needs[said[1]].add(name)
        elif "==" in line:
            name = line.partition("==")[0]
            found.lines[name].append(line)
    return found


def cut(pins: Pins, modules: Iterable[str]) -> str:
    """The lines of all packages that loading these modules can load. Raises UserError where a module belongs to no pinned package."""
    waiting, found = [_package(pins, module) for module in modules], set[str]()
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += [*pins.needs.get(name, ()), *UNSEEN.get(name, ())]
    return "".join(f"{line}\n" for name in sorted(found & pins.lines.keys()) for line in pins.lines[name])


def is_foreign(module: str) -> bool:
    """Whether a top-level module is not Python's own."""
    return module not in sys.stdlib_module_names


def _package(pins: Pins, module: str) -> str:
    name = PACKAGE_OF.get(module, module.replace("_", "-").lower())
    if name not in pins.lines:
        raise UserError(
            f"{LOCK} pins no package {name!r}, which a stage imports as {module!r}: add it to pyproject.toml and 'make lock', or say in "
            "flows/stages/packages.py which package the module is of"
        )
    return name
