"""Findings of `rt-embed doctor`: one line for each check, and what to do about it."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """`state` says whether it works, works but should be different in production, or does not work."""

    subject: str
    state: Literal["ok", "warning", "wrong"]
    found: str
    advice: str = ""
