"""The one exception for requests that cannot be met: sentences for people, never a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class RequestError(Exception):
    """The request is wrong. Every problem found, one sentence each; command lines print them and exit with 2."""

    def __init__(self, problems: Sequence[str] | str) -> None:
        self.problems: tuple[str, ...] = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.problems))

    def __reduce__(self) -> tuple[type, tuple[tuple[str, ...]]]:
        return type(self), (self.problems,)  # survives the pickling between processes


class BusyError(RequestError):
    """Another process is at it: not wrong, only not now."""


def known(word: object, allowed: Iterable[str]) -> str:
    """'known: a, b (did you mean a?)', the tail of every sentence about an unknown name."""
    names = sorted(allowed)
    close = difflib.get_close_matches(str(word), names, n=1, cutoff=0.4)
    hint = f" (did you mean {close[0]}?)" if close else ""
    return f"known: {', '.join(names) or 'none'}{hint}"
