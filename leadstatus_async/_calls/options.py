"""What calls may be told one by one, or a campaign for all of its calls."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from leadstatus_async._checks import require_number, require_whole
from leadstatus_async._state.patience import Patience  # noqa: TC001 - a Struct's field
from leadstatus_async.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator

OnError = Literal["raise", "collect"]


class Unset(Enum):
    """What stands for an argument that was not given."""

    UNSET = "unset"

    def __repr__(self) -> str:
        return "<the campaign's>"


UNSET: Final = Unset.UNSET


class CallOptions(msgspec.Struct, frozen=True):
    """The options of a call, checked.

    Attributes:
        patience: what each of its requests may take.
        remembers: whether the session remembers statuses.
        deadline: seconds for everything; None without end.
        on_error: as for `Campaign.get_many`.
        max_age: seconds; None asks always.
    """

    patience: Patience
    remembers: bool = False
    deadline: float | None = None
    on_error: OnError = "raise"
    max_age: float | None = None

    def but(
        self,
        *,
        timeout: object = UNSET,
        max_attempts: object = UNSET,
        deadline: object = UNSET,
        on_error: object = UNSET,
        max_age: object = UNSET,
    ) -> CallOptions:
        """Return these with what was given instead.

        Raises:
            ConfigurationError: for a bad value.
        """
        if timeout is max_attempts is deadline is on_error is max_age is UNSET:
            return self
        changes = dict(self._checked(deadline, on_error, max_age))
        patience = self.patience
        if timeout is not UNSET:
            seconds = require_number("timeout", timeout, above=True)
            patience = msgspec.structs.replace(patience, timeout=seconds)
        if max_attempts is not UNSET:
            most = require_whole("max_attempts", max_attempts)
            patience = msgspec.structs.replace(patience, max_attempts=most)
        return msgspec.structs.replace(self, patience=patience, **changes)

    def _checked(self, deadline: object, on_error: object, max_age: object) -> Iterator[tuple[str, object]]:
        if on_error is not UNSET:
            if on_error not in ("raise", "collect"):
                raise ConfigurationError(f'on_error must be "raise" or "collect", not {on_error!r:.100}')
            yield "on_error", on_error
        if deadline is not UNSET:
            yield (
                "deadline",
                None if deadline is None else require_number("deadline", deadline, above=True),
            )
        if max_age is not UNSET:
            if max_age is not None and not self.remembers:
                raise ConfigurationError(
                    "max_age needs a session that remembers statuses: give it cache_size, as in "
                    "LeadStatusSession(cache_size=10_000)"
                )
            yield "max_age", None if max_age is None else require_number("max_age", max_age)
