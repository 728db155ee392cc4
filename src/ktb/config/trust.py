"""Whose classes are imported where a file names them: ktb's own, and those that the user trusts.

To import a module is to run it. What a checkpoint, a bundle or the configuration in them names is somebody else's word;
what the user has typed in this call, or written into a YAML file of their own, is theirs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from ktb.errors import ConfigError

Spelling = Literal["setting", "flag", "argument"]
"""How the user says whom to trust: trust=my_lab, --trust my_lab, trust="my_lab" in Python."""


@dataclass(frozen=True)
class Trust:
    """What a file may name beside classes of ktb.

    Attributes:
        modules: modules, packages or classes by their dotted names; what lies in them is trusted too.
        named: classes that the user has named in the same call.
        spelling: how the user writes it, for messages.
    """

    modules: tuple[str, ...] = ()
    named: frozenset[str] = frozenset()
    spelling: Spelling = "setting"

    @classmethod
    def of(cls, given: Any, named: Iterable[str] = (), *, spelling: Spelling = "setting") -> Trust:
        """What the user has said.

        Args:
            given: a dotted name, several of them in a list, or None.
            named: see above.
            spelling: see above.

        Raises:
            ConfigError: something else.
        """
        modules = (given,) if isinstance(given, str) or not isinstance(given, Iterable | None) else tuple(given or ())
        for module in modules:
            if not isinstance(module, str) or not is_dotted(module):
                raise ConfigError(
                    f"trust={module}: expected the name of a module whose classes a file may name, such as my_lab, or "
                    "a list of such"
                )
        return cls(modules, frozenset(named), spelling)

    def covers(self, target: str) -> bool:
        """Whether the class of this dotted name may be imported."""
        return target in self.named or any(f"{target}.".startswith(f"{module}.") for module in self.modules)

    def remedy(self, targets: Iterable[str]) -> str:
        """What the user adds to the call to have these classes imported; they are not covered yet."""
        new = list(dict.fromkeys(target.partition(".")[0] for target in targets))
        if self.spelling == "flag":
            return " ".join(f"--trust {module}" for module in new)
        modules = [*self.modules, *new]
        if self.spelling == "argument":
            words = ", ".join(f'"{module}"' for module in modules)
            return f"trust={words}" if len(modules) == 1 else f"trust=[{words}]"
        return f"trust={modules[0]}" if len(modules) == 1 else f"trust=[{','.join(modules)}]"

    def plea(self, targets: Iterable[str]) -> str:
        """The end of a message about a file that names these classes, which are not covered."""
        return f"nothing that a file names is imported before you say that you trust it: {self.remedy(targets)}"


def is_dotted(text: str) -> bool:
    """Whether this is the name of a module or of something in one."""
    return all(part.isidentifier() for part in text.split("."))
