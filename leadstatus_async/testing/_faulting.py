"""Which request meets which fault: a script first, then rules, then what is sprinkled over all.

Decided from the request and its number alone: the same run meets the same faults.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from leadstatus_async.testing.faults import Asked, Fault, Reply, fault, name_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from leadstatus_async.testing._log import ReceivedRequest

Make = Callable[[Asked], Reply]


@dataclass
class _Rule:
    name: str
    make: Make
    times: int | None
    when: Callable[[ReceivedRequest], bool] | None
    met: int = 0

    def meets(self, request: ReceivedRequest) -> bool:
        if self.met == self.times or (self.when is not None and not self.when(request)):
            return False
        self.met += 1
        return True


@dataclass(frozen=True)
class _Sprinkle:
    name: str
    make: Make
    every: float
    seed: int

    def meets(self, number: int) -> bool:
        if self.every >= 1:
            return number % self.every == 0
        # A checksum is dice enough, and falls the same way in every run.
        return zlib.crc32(f"{self.name} {number}".encode(), self.seed) < self.every * 2**32


class Faulting:
    """The faults that are to come.

    Args:
        every: fault name -> n for each n-th request, or a ratio below 1.
        seed: of the dice for ratios.
    """

    def __init__(self, every: Mapping[str, float], seed: int = 0) -> None:
        self._script: deque[tuple[str, Make] | None] = deque()
        self._rules: list[_Rule] = []
        self._sprinkled = [_Sprinkle(name, fault(name), often, seed) for name, often in every.items()]
        for name, often in every.items():
            if not (0 < often < 1 or (often >= 1 and often == int(often))):
                raise ValueError(f"faults_every[{name!r}] must be a whole number, or below 1; not {often!r}")

    def script(self, *names: str | Fault | None) -> None:
        """Let the next requests meet these, in this order; None or "ok" is a good answer."""
        self._script += [
            None if name is None or name == "ok" else (name_of(name), fault(name)) for name in names
        ]

    def add(
        self, name: str | Fault, times: int | None, when: Callable[[ReceivedRequest], bool] | None
    ) -> None:
        """Let so many requests meet a fault, all those for which `when` is true."""
        self._rules.append(_Rule(name_of(name), fault(name), times, when))

    def clear(self) -> None:
        """Forget all of it."""
        self._script.clear()
        self._rules.clear()
        self._sprinkled.clear()

    def unmet(self) -> list[str]:
        """Return what is left of the script, and of each rule, in words."""
        rest = [repr(step[0] if step else "ok") for step in self._script]
        lines = [f"script: {len(rest)} left: {', '.join(rest)}"] if rest else []
        for rule in self._rules:
            if rule.times is None and not rule.met:
                lines.append(f"fault({rule.name!r}, times=None): met by no request")
            elif rule.times is not None and rule.met < rule.times:
                lines.append(f"fault({rule.name!r}, times={rule.times}): {rule.times - rule.met} left")
        return lines

    def meet(self, request: ReceivedRequest, number: int) -> tuple[str, Make] | None:
        """Return the fault that a request meets, by name and in deed, and use it up."""
        if self._script:
            return self._script.popleft()
        for rule in self._rules:
            if rule.meets(request):
                return rule.name, rule.make
        for sprinkle in self._sprinkled:
            if sprinkle.meets(number):
                return sprinkle.name, sprinkle.make
        return None
