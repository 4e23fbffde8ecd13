"""What a person sees while a sweep runs: a live table on a terminal, one plain line per event elsewhere."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

BLOCKS = "▁▂▃▄▅▆▇█"
SHOWN = 12  # finished trials that stay in the table


@dataclass
class Line:
    """One trial: what is known of it now."""

    row: str
    epochs: int
    status: str = "waiting"
    epoch: int = 0
    avg: float = math.nan
    worst: float = math.nan
    worst_so_far: list[float] = field(default_factory=list)
    note: str = ""
    started: float | None = None
    ended: float | None = None

    @property
    def seconds(self) -> float:
        """How long it has been running, or ran."""
        return 0.0 if self.started is None else (self.ended or time.monotonic()) - self.started


class Display:
    """Keeps the lines; subclasses show them. `trials`: {fingerprint: (row text, epochs, epochs done)}."""

    def __init__(self, trials: dict[str, tuple[str, int, int]]) -> None:
        self.lines = {key: Line(row, epochs, epoch=done) for key, (row, epochs, done) in trials.items()}

    def __enter__(self) -> Display:
        return self

    def __exit__(self, *problem: object) -> None:
        pass

    def started(self, identity: str) -> None:
        """A trial begins, or begins again after a failure."""
        line = self.lines[identity]
        trained = line.epoch >= line.epochs
        line.status, line.started = (
            "evaluating" if trained else "training",
            line.started or time.monotonic(),
        )
        begun = "is evaluated" if trained else f"continues at epoch {line.epoch}" if line.epoch else "starts"
        self.show(line, begun)

    def reported(self, identity: str, result: dict[str, Any]) -> None:
        """An event of run_trial."""
        line, kind = self.lines[identity], result["kind"]
        if kind == "epoch":
            line.epoch, line.avg, line.worst = result["epoch"] + 1, result["avg"], result["worst"]
            line.worst_so_far.append(line.worst)
            self.show(line, f"epoch {line.epoch}/{line.epochs}", f"robust {numbers(line.avg, line.worst)}")
        elif kind == "evaluated":
            line.status, line.note = "evaluating", result["name"]
            self.show(line, result["name"], numbers(result["avg"], result["worst"]))
        elif kind == "trained":
            line.status, line.epoch = "evaluating", line.epochs
            self.show(line, "trained")
        elif kind == "recovered":
            self.show(line, "recovered", result["name"])

    def retried(self, identity: str, reason: str) -> None:
        """A failure that is tried again."""
        self.lines[identity].status = "trying again"
        self.show(self.lines[identity], "failed, tries again", reason)

    def ended(self, identity: str, failure: str) -> None:
        """A trial is complete, or has failed for good."""
        line = self.lines[identity]
        line.status, line.note, line.ended = (
            ("failed", failure, time.monotonic()) if failure else ("done", "", time.monotonic())
        )
        self.show(line, "failed" if failure else "done", failure or f"{line.seconds:.0f} s")

    def stopped(self, identity: str) -> None:
        """A rule has ended a trial early."""
        line = self.lines[identity]
        line.status, line.ended = "stopped", time.monotonic()
        self.show(line, "stopped early", f"after {line.epoch} of {line.epochs} epochs")

    def add(self, trials: dict[str, tuple[str, int, int]]) -> None:
        """Further trials, as when the display was made."""
        self.lines |= {key: Line(row, epochs, epoch=done) for key, (row, epochs, done) in trials.items()}

    def warn(self, sentence: str) -> None:
        """Something people should know."""

    def show(self, line: Line, what: str, detail: str = "") -> None:
        """An event has changed this line."""


class Lines(Display):
    """`14:02:11  epoch 3/12     ham-official seed=0   robust 51.2 % avg, 21.0 % worst`."""

    def __init__(self, trials: dict[str, tuple[str, int, int]], stream: TextIO) -> None:
        super().__init__(trials)
        self.stream = stream
        self.width = min(60, max((len(row) for row, _, _ in trials.values()), default=0))

    def show(self, line: Line, what: str, detail: str = "") -> None:
        self._print(f"{what:<16}  {line.row:<{self.width}}  {detail}")

    def warn(self, sentence: str) -> None:
        self._print(sentence)

    def _print(self, text: str) -> None:
        print(f"{time.strftime('%H:%M:%S')}  {text.rstrip()}", file=self.stream, flush=True)


class Table(Display):
    """A table that is redrawn in place."""

    def __init__(self, trials: dict[str, tuple[str, int, int]], console: Console) -> None:
        from rich.live import Live

        super().__init__(trials)
        self.console = console
        self.live = Live(console=console, get_renderable=self.render, refresh_per_second=4)

    def __enter__(self) -> Table:
        self.live.start()
        return self

    def __exit__(self, *problem: object) -> None:
        self.live.stop()

    def warn(self, sentence: str) -> None:
        self.live.console.print(sentence)

    def render(self) -> RenderableType:
        """Running and failed trials, the last finished ones, and a count of the rest."""
        from rich.table import Table as Grid
        from rich.text import Text

        lines = list(self.lines.values())
        done = [line for line in lines if line.status in ("done", "stopped")]
        waiting = sum(line.status == "waiting" for line in lines)
        grid = Grid(box=None, pad_edge=False, title_justify="left", caption_justify="left")
        grid.title = f"{len(done)}/{len(lines)} trials"
        hidden = max(0, len(done) - SHOWN)
        grid.caption = f"{waiting} waiting" + (f", {hidden} more done" if hidden else "")
        for name in ("trial", "status", "epoch", "robust avg", "worst", "worst so far", "time"):
            grid.add_column(
                name, justify="left" if name in ("trial", "status", "worst so far") else "right", no_wrap=True
            )
        shown = sorted(done, key=lambda line: line.ended or 0)[-SHOWN:] + [
            line for line in lines if line.status not in ("done", "stopped", "waiting")
        ]
        for line in shown:
            grid.add_row(
                Text(line.row),
                Text(f"{line.status} {line.note}".strip(), style=COLOURS.get(line.status, "")),
                f"{line.epoch}/{line.epochs}",
                percent(line.avg),
                percent(line.worst),
                sparkline(line.worst_so_far),
                f"{int(line.seconds) // 60}:{int(line.seconds) % 60:02d}",
            )
        return grid


COLOURS = {"failed": "red", "done": "green", "trying again": "yellow", "stopped": "yellow"}


def display(trials: dict[str, tuple[str, int, int]], console: Console) -> Display:
    """The table where someone watches, lines where the output goes to a file."""
    return Table(trials, console) if console.is_terminal else Lines(trials, console.file)  # type: ignore[arg-type]


def percent(value: float) -> str:
    """`51.2 %`, or nothing."""
    return "" if math.isnan(value) else f"{100 * value:.1f} %"


def numbers(avg: float, worst: float) -> str:
    """The two numbers this project is about."""
    return f"{percent(avg)} avg, {percent(worst)} worst" if not math.isnan(avg) else ""


def sparkline(values: Sequence[float], width: int = 16) -> str:
    """The last values as blocks from 0 to their maximum."""
    seen = [value for value in values if not math.isnan(value)][-width:]
    top = max(seen, default=0.0) or 1.0
    return "".join(BLOCKS[min(len(BLOCKS) - 1, int(len(BLOCKS) * value / top))] for value in seen)
