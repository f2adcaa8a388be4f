"""The strategies that act, one file each: a new file here is a new strategy. `wait` and a person need none.

Source: the document's phase 3, "Choose mitigation strategy".
"""

import importlib
import pkgutil
from typing import TYPE_CHECKING, Annotated, NotRequired

from pydantic import AfterValidator, ConfigDict
from typing_extensions import TypedDict  # pydantic's own, before Python 3.12

from responder.domain.strategies.base import Budget, Strategy, Target

__all__ = ["KINDS", "NAMES", "PERSON", "WAIT", "Budget", "Strategies", "Strategy", "StrategyName", "Target"]


def _found() -> dict[str, type[Strategy]]:
    modules = [importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__)]
    classes = [value for module in modules for value in vars(module).values() if isinstance(value, type)]
    return {cls.name: cls for cls in classes if issubclass(cls, Strategy) and cls is not Strategy}


KINDS = _found()
"""Every strategy that acts, by its name."""
WAIT, PERSON = "wait", "person"
NAMES = (*KINDS, WAIT, PERSON)


def _known(name: str) -> str:
    if name not in NAMES:
        raise ValueError(f"no strategy is called {name!r}; there are: {', '.join(NAMES)}")
    return name


StrategyName = Annotated[str, AfterValidator(_known)]

if TYPE_CHECKING:
    Strategies = dict[str, Strategy]
else:
    # The profile's section: a key for each strategy, so that a mistake is named with its line.
    Strategies = TypedDict("Strategies", {name: NotRequired[cls] for name, cls in KINDS.items()})
    Strategies.__pydantic_config__ = ConfigDict(extra="forbid")
