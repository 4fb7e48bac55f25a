r"""What is kept of a server's text: bounded, on one line, and without secrets.

Servers and proxies send back what they were sent: debugging pages, trace ids, "invalid key sk_live_...".
So whatever is kept of an answer is searched for the key and the proxy's credentials after it was
decoded (h4), since `\/`, `\u005f` or UTF-16 hide them from a search in the bytes: as they are, in base64
and in hex, with any character percent-encoded, escaped or an HTML entity, and with line breaks or
invisible characters in between. Control characters, with which text forges log lines and moves
cursors (h12), are taken out. How much is searched is bounded, too: text is cut first, a bit beyond what
is kept.
"""

from __future__ import annotations

import codecs
import json
import re
from base64 import b64encode
from functools import cached_property
from html import escape
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

MESSAGE = 500  # characters that are kept of a message, or of a body as text
DETAILS = 2000  # of details, as JSON
_DEEPEST = 20  # levels of details that stay JSON
NAME = 200  # of a code or a trace id
REDACTED = "[redacted]"
_utf_16 = codecs.getencoder(
    "utf-16-be"
)  # read from disk now, and not when there may be no file descriptor left
_SHORTEST = 8  # characters of a secret: shorter ones would be found in innocent words, and are no real keys
_LEAST = 3  # characters of a proxy's password that is looked for in errors, as a word of its own
_WINDOW = 8  # times what is kept: what is searched, since taking secrets out makes text shorter
_LONGEST_SPELLING = 16  # characters that one character may be spelled with, a line break after it included
_SPACES = dict.fromkeys([*range(0x09, 0x0E), *range(0x1C, 0x20), 0x85, 0x2028, 0x2029], " ")
_CONTROLS = [*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
_REMOVED: dict[int, str | None] = {**dict.fromkeys(_CONTROLS), **_SPACES}
_MARKED: dict[int, str] = {**dict.fromkeys(_CONTROLS, "\ufffd"), **_SPACES}
_RAREST_FIRST = (
    "QZXJKVWYBGUHFMDCOENLTzqxj"  # letters that hardly occur in answers; none of the API's own words
)
_STRING = re.compile(r'"(?:[^"\\]++|\\.)*+"')
# What may stand between two characters of a secret: blanks and what is invisible, as such or escaped in JSON.
_BLANK = r"(?-i:[\s\x00-\x08\x0e-\x1b\x7f-\xa0\xad\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff])"
_ESCAPED_BLANK = r"\\{1,4}(?:[nrtbf]|u(?:00[01][0-9a-f]|00a[0d]|200[b-f]|202[89a-e]|206[0-9a-f]|feff))"


class Redactor:
    """Takes secrets and control characters out of text.

    Args:
        secrets: what must not show: the key, a proxy's credentials.
        passwords: what must not show in errors even if it is short; in a row it may be a word of the user's.
    """

    def __init__(self, secrets: Iterable[str] = (), passwords: Iterable[str] = ()) -> None:
        long = [secret for secret in secrets if len(secret) >= _SHORTEST]
        words = [re.escape(word) for word in passwords if _LEAST <= len(word) < _SHORTEST]
        self._long: Callable[[], list[str]] = lambda: long  # a function, which `vars` does not show
        self._word = re.compile(rf"(?<!\w)(?:{'|'.join(words)})(?!\w)" if words else "(?!)")
        self._edge = max(map(len, long), default=0) * _LONGEST_SPELLING
        # Without these, and outside ASCII nothing, a text has no secret in it and no escape that hides one.
        cases = [form for secret in long for form in (secret, secret.lower(), secret.upper())]
        cases += [form.replace(" ", "+") for form in cases]  # as forms spell it
        hexes = [form for secret in long for form in (secret.encode().hex(), secret.encode().hex().upper())]
        forms = [*cases, *hexes, *(form for secret in long for form in _encoded(secret))]
        marks = ["\\", "%", "&", *dict.fromkeys(forms)]
        self._marks: Callable[[], list[str]] = lambda: marks
        in_bytes: dict[bytes, list[bytes]] = {}
        for mark in ("\x7f", *marks):
            in_bytes.setdefault(_rarest(mark), []).append(mark.encode())
        self._marks_in_bytes: Callable[[], dict[bytes, list[bytes]]] = lambda: in_bytes

    def __repr__(self) -> str:
        return "<Redactor>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("what knows a secret cannot be pickled or copied")

    @cached_property
    def _secret(self) -> re.Pattern[str]:
        # Made when first needed: it is large, and most sessions never need it.
        return re.compile("|".join(map(_spellings, self._long())) or "(?!)", re.IGNORECASE)

    def line(self, text: str, most: int, *, torn: bool = False) -> str:
        """Return text of an error, on one line: at most so many characters, nothing secret among them.

        Args:
            text: as it came.
            most: characters to keep.
            torn: it is the beginning of a longer one, and so may end in the beginning of a secret.
        """
        window = self.without_secrets(text[: _WINDOW * most])
        if not window.isprintable():
            window = window.translate(_REMOVED)
        if torn or len(text) > _WINDOW * most:
            window = window[: max(0, len(window) - self._edge)]
        return window[:most]

    def without_secrets(self, text: str) -> str:
        """Return a text of an error, which somebody else has cut, without secrets."""
        text = text if text.isascii() else text.encode("utf-8", "replace").decode()  # c4
        return self._word.sub(REDACTED, self._secret.sub(REDACTED, text))

    def details(self, value: Any) -> Any:
        """Return any JSON with its texts so; of one that is too long or too deep, the beginning as text."""
        if isinstance(value, str):
            return self.line(value, DETAILS)
        try:
            text = json.dumps(value, ensure_ascii=False)
        except RecursionError:
            return None
        if len(text) > _WINDOW * DETAILS:
            return self.line(text, DETAILS)
        text = _STRING.sub(self._quoted, text)
        if (
            len(text) > DETAILS or _depth(text) > _DEEPEST or self._secret.search(text)
        ):  # a secret of digits, too
            return self.line(text, DETAILS)
        return json.loads(text, parse_constant=lambda _: None)

    def clears(self, body: bytes | bytearray) -> bool:
        """Whether the texts of a JSON body surely need none of this, at the cost of a glance."""
        if not body.isascii():
            return False
        for rare, marks in self._marks_in_bytes().items():
            if rare in body and any(mark in body for mark in marks):
                return False
        return True

    def clear(self, text: str) -> bool:
        """Whether decoded text surely needs none of this."""
        return text.isprintable() and not any(mark in text for mark in self._marks())

    def field(self, text: str, most: int, left: int) -> tuple[str, int]:
        r"""Return a text of a row, and how many characters were searched for it.

        A control character leaves a mark there: `pend\0ing` is not `pending`.

        Args:
            text: as it came.
            most: characters to keep.
            left: characters that may still be searched; what would need more is not shown.
        """
        window = text[: most + self._edge]
        if self.clear(window):
            return window[:most], 0
        if len(window) > left:
            return REDACTED, 0
        shown = self._secret.sub(REDACTED, window).translate(_MARKED)
        if len(text) > len(window):
            shown = shown[: max(0, len(shown) - self._edge)]
        return shown[:most], len(window)

    def _quoted(self, string: re.Match[str]) -> str:
        return json.dumps(self.line(json.loads(string[0]), DETAILS), ensure_ascii=False)


def _depth(text: str) -> int:
    """Return how deep JSON is nested, at most: copying and pickling go down as deep."""
    return max(
        accumulate({"[": 1, "{": 1, "]": -1, "}": -1}.get(one, 0) for one in _STRING.sub("", text)), default=0
    )


def _rarest(mark: str) -> bytes:
    """Return a character without which a text is not there; looking for one is ten times as fast."""
    return min(mark, key=lambda one: _RAREST_FIRST.find(one) % 1000).encode()


def _spellings(secret: str) -> str:
    """Return an expression for a secret, whatever has been done to its characters.

    Each character's alternatives are atomic, so that a secret that is nearly there costs no backtracking. One
    that itself looks like an escape is found as it stands, since that is tried first. What repeats is atomic,
    and not possessive: before CPython 3.11.5 `(?:...)*+` loses its place where a round matches in part.
    """
    in_json = json.dumps(secret)[1:-1]
    whole = [secret, in_json, in_json.replace("/", r"\/"), repr(secret)[1:-1]]
    whole += [escape(secret), escape(in_json), escape(escape(secret)), quote(secret, safe="")]
    blank = _BLANK
    for own in {one for one in secret if re.match(_BLANK, one)}:
        blank = rf"(?!{re.escape(own)})" + blank
    between = f"(?>(?:{blank})*)" if "\\" in secret else f"(?>(?:{blank}|{_ESCAPED_BLANK})*)"
    encoded = [r"\s*+".join(map(_spelled_in_base64, form)) for form in _encoded(secret)]
    return "|".join([*map(re.escape, dict.fromkeys(whole)), between.join(map(_spelled, secret)), *encoded])


def _spelled_in_base64(character: str) -> str:
    return character if character.isalnum() else _spelled(character)


def _spelled(character: str) -> str:
    code = ord(character)
    again = "(?>(?:25)+)" if character == "%" else "(?>(?:25)*)"  # percent-encoded twice and more
    utf8 = "".join(f"%{again}{byte:02x}" if character != "%" else f"%{again}" for byte in character.encode())
    utf16 = _utf_16(character)[0].hex()
    escaped = "".join(rf"\\{{1,4}}u{utf16[at : at + 4]}" for at in range(0, len(utf16), 4))
    entity = r"\\{0,4}&(?>(?:amp;)*)"
    ways = [utf8, escaped, rf"{entity}\#0{{0,4}}{code};?", rf"{entity}\#x0{{0,4}}{code:x};?"]
    if character == "&":
        ways.append(r"\\{0,4}&(?>(?:amp;)+)")
    elif escape(character) != character:
        ways.append(entity + re.escape(escape(character)[1:]))
    if character == "'":
        ways.append(entity + "apos;")
    if code < 0x100:
        ways += [rf"\\{{1,2}}x{code:02x}", f"%{code:02x}"]
    if character == " ":
        ways.append(r"\+")
    if not character.isascii():
        ways.append("\ufffd")
    return f"(?>{'|'.join(dict.fromkeys(ways))}|\\\\{{0,4}}{re.escape(character)})"


def _encoded(secret: str) -> list[str]:
    """Return a secret in hex, and in base64, at each of the three places where it may begin in a text."""
    raw = secret.encode()
    forms = [raw.hex()]
    for before, skipped in ((0, 0), (1, 2), (2, 3)):
        end = (before + len(raw)) * 8 // 6  # what stands there no neighbour has a part in
        form = b64encode(bytes(before) + raw).decode()[skipped:end]
        forms += {form, form.replace("+", "-").replace("/", "_")}
    return forms
