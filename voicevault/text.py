"""Text from outside, for people to read."""

from __future__ import annotations


def printable(text: object, instead: str = "\N{REPLACEMENT CHARACTER}") -> str:
    """Text that can steer no terminal and that any database keeps: what is not printable is replaced."""
    return "".join(char if char.isprintable() else instead for char in str(text))
