"""The one error of the setup core: what failed, each way tried, what it left, what to do next."""

from __future__ import annotations

from dataclasses import dataclass

from rumi_setup.core.words import say

# sysexits.h: a missing service or program, a failed operating-system call, a wrong command line
UNAVAILABLE = 69
SOFTWARE = 70
USAGE = 64


@dataclass(frozen=True)
class Attempt:
    """One way that was tried."""

    way: str
    outcome: str


class SetupError(Exception):
    """Stops a setup step; `str()` is the complete text for the operator."""

    def __init__(
        self,
        what: str,
        *,
        attempts: tuple[Attempt, ...] = (),
        left: str = "",
        next_steps: tuple[str, ...] = (),
        exit_code: int = UNAVAILABLE,
    ) -> None:
        super().__init__(what)
        self.what = what
        self.attempts = attempts
        self.left = left
        self.next_steps = next_steps
        self.exit_code = exit_code

    def __str__(self) -> str:
        lines = [self.what]
        if self.attempts:
            lines.append(say("Tried:"))
            lines += [f"  - {a.way}: {a.outcome}" for a in self.attempts]
        if self.left:
            lines.append(self.left)
        if self.next_steps:
            lines.append(say("What to do, one of:"))
            lines += [f"  {n}. {step}" for n, step in enumerate(self.next_steps, 1)]
        return "\n".join(lines)
