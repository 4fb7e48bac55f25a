"""What is sent and never shown: the key, and a proxy's credentials."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

import msgspec
from yarl import URL  # noqa: TC002 - msgspec resolves it

if TYPE_CHECKING:
    from collections.abc import Callable


class Secret:
    """A text that no repr, log, `vars` or pickle shows; `reveal()` is called only where it is sent."""

    __slots__ = ("_reveal",)

    def __init__(self, text: str) -> None:
        self._reveal: Callable[[], str] = lambda: text

    def reveal(self) -> str:
        """Return the text itself."""
        return self._reveal()

    def __repr__(self) -> str:
        return "<secret>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret cannot be pickled or copied")


class Proxy(msgspec.Struct, frozen=True):
    """Where requests go through; credentials apart from the address."""

    url: URL
    credentials: tuple[str, Secret] | None = None

    def __repr__(self) -> str:
        return f"<Proxy {self.url}>"
