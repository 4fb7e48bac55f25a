"""What every snapshot of figures can do."""

from __future__ import annotations

from typing import Any

import msgspec


class Figures(msgspec.Struct, frozen=True):
    """A frozen snapshot."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain types, for JSON answers of web frameworks, which cannot serialise Structs."""
        return msgspec.to_builtins(self)  # type: ignore[no-any-return]
