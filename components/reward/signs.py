"""The table of signs that models write instead of ASCII digits, operators and brackets, for example a typographic minus."""

from __future__ import annotations

import unicodedata

_ALIKE = {
    "-": "\u2212\u2010\u2011\u2012\u2013\ufe63\uff0d",  # minus, hyphens, figure dash, en dash, small and full width
    "+": "\ufe62\uff0b",
    "*": "\u00d7\u00b7\u22c5\u2217\u2219\u2022\u2715\u2716\ufe61\uff0a",  # times, dots, asterisk operator, bullets
    "/": "\u00f7\u2215\u2044\uff0f",  # division sign, division slash, fraction slash
    "(": "\uff08",
    ")": "\uff09",
    ".": "\uff0e\u066b",
    ",": "\uff0c\u066c",
}
SIGNS = {sign: plain for plain, signs in _ALIKE.items() for sign in signs}
"""Character -> the ASCII character of the same meaning. An em dash is not in it, because it separates parts of a sentence."""


def plain(text: str) -> str:
    """Return `text` with the signs of the table, and the decimal digits of all scripts, in ASCII. Superscript digits stay."""
    if text.isascii():
        return text
    return "".join(str(unicodedata.decimal(c)) if c.isdecimal() else SIGNS.get(c, c) for c in text)


def statement(text: str) -> str:
    """Return a number or expression as `plain` writes it, without the blanks around it and without one closing full stop."""
    return plain(text).strip().removesuffix(".").rstrip()
