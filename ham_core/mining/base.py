"""The interface of mining: watch the attack, then say who continues and who counts how much.

Notation: B batch, n rows still followed, x^k iterate after k of K steps, z^k its logits (n,C), p = softmax(z), y (n,).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from pydantic import Field

from ham_core.lazy import torch
from ham_core.parts import Part


@dataclass(frozen=True)
class Kept:
    """Examples that are trained on: x, adv (n,C,H,W), y (n,), rows (n,) their places in the batch, weights (n,) or None for 1,
    and what the objective noted per row.
    """

    x: torch.Tensor
    y: torch.Tensor
    adv: torch.Tensor
    rows: torch.Tensor
    weights: torch.Tensor | None = None
    marks: Mapping[str, torch.Tensor] = field(default_factory=dict)

    def mark(self, name: str, like: torch.Tensor) -> torch.Tensor:
        """One of the marks; zeros (n,...) as `like` is where these rows left before the objective noted it."""
        return self.marks[name] if name in self.marks else like.new_zeros(len(self.y), *like.shape[1:])

    @classmethod
    def joined(cls, groups: Sequence[Kept]) -> Kept:
        """Several groups as one, in the order of the batch."""
        rows = torch.cat([one.rows for one in groups])
        order = rows.argsort(stable=True)

        def together(parts: Sequence[torch.Tensor]) -> torch.Tensor:
            return torch.cat(list(parts))[order]

        return cls(
            together([one.x for one in groups]),
            together([one.y for one in groups]),
            together([one.adv for one in groups]),
            rows[order],
            together([one.x.new_ones(len(one.y)) if one.weights is None else one.weights for one in groups]),
            {
                name: together([one.mark(name, like) for one in groups])
                for name, like in groups[0].marks.items()
            },
        )


@dataclass
class Trajectory:
    """The attack on one batch as mining sees it. Asks the network only for what is wanted, and at most once.

    `rows` (n,) are the followed positions in the batch; `path` holds z^0..z^{k-1} of those rows, fewer where every row stopped
    before step k; `counts` (C,) are the training images per class; `steps` is K.
    """

    predict: Callable[[torch.Tensor], torch.Tensor]  # logits without gradient, in the attack's mode
    x: torch.Tensor
    y: torch.Tensor
    adv: torch.Tensor
    epoch: int
    batch: int
    generator: torch.Generator
    rows: torch.Tensor
    counts: torch.Tensor | None = None
    steps: int = 0
    path: list[torch.Tensor] = field(default_factory=list)
    flags: dict[str, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)
    marks: dict[str, torch.Tensor] = field(default_factory=dict)  # what the objective notes per row
    aside: list[Kept] = field(
        default_factory=list
    )  # rows that left the attack and are trained on all the same
    left: list[tuple[torch.Tensor, torch.Tensor]] = field(
        default_factory=list
    )  # (y, right) of rows that left
    sizes: tuple[torch.Tensor, torch.Tensor] | None = (
        None  # step sizes in [0, 2] and the weights they got, for the log
    )
    _clean: torch.Tensor | None = None
    _current: torch.Tensor | None = None

    def clean(self) -> torch.Tensor:
        """z of the clean images (n,C)."""
        if self._clean is None:
            self._clean = self.predict(self.x)
        return self._clean

    def current(self) -> torch.Tensor:
        """z of the present iterate (n,C)."""
        if self._current is None:
            self._current = self.predict(self.adv)
        return self._current

    def move(self, adv: torch.Tensor) -> None:
        """The attack has gone on to `adv`."""
        self.adv, self._current = adv, None

    def restrict(self, keep: torch.Tensor) -> None:
        """Follow only the rows where `keep` (n,) is set."""
        if bool(keep.all()):
            return
        if self._current is not None:
            out = ~keep
            for group in self.aside:  # these are trained on, and counted then
                out &= ~torch.isin(self.rows, group.rows)
            self.left.append((self.y[out], self._current[out].argmax(1) == self.y[out]))
        self.x, self.y, self.adv, self.rows = self.x[keep], self.y[keep], self.adv[keep], self.rows[keep]
        self.path = [logits[keep] for logits in self.path]
        self.marks = {name: values[keep] for name, values in self.marks.items()}
        self._clean = None if self._clean is None else self._clean[keep]
        self._current = None if self._current is None else self._current[keep]

    def set_aside(self, which: torch.Tensor, images: torch.Tensor, weights: torch.Tensor) -> None:
        """Train on the rows `which` (n,) as `images` (n,C,H,W) with `weights` (n,), without attacking them any further."""
        self.aside.append(
            Kept(
                self.x[which],
                self.y[which],
                images[which],
                self.rows[which],
                weights[which],
                {name: values[which] for name, values in self.marks.items()},
            )
        )

    def note(self, name: str, flags: torch.Tensor) -> None:
        """Record a yes or no per followed row; the log shows its share per class as `train/<name>/<class>`."""
        self.flags[name] = (self.y, flags)


class Mining(Part):
    """Answers twice per batch: who continues after step `pause()`, and who counts how much after step K."""

    epoch_fields: ClassVar[frozenset[str]] = frozenset({"start_epoch"})
    needs_path: ClassVar[bool] = False  # `weigh` reads `Trajectory.path`

    start_epoch: int = Field(
        0, ge=0, description="first epoch with mining; before it every example counts once"
    )

    def check(self, steps: int) -> None:
        """ValueError if this mining cannot run with an attack of that many steps."""

    def wants_path(self) -> bool:
        """Whether the logits of every step are to be kept."""
        return self.needs_path

    def pause(self) -> int | None:
        """The step after which `keep` is asked; None: it is not."""
        return None

    def keep(self, seen: Trajectory) -> torch.Tensor:
        """At the pause: rows (n,) bool that continue. Others may be `set_aside`."""
        raise TypeError(f"{self.name} does not pause the attack")

    def finish(self, seen: Trajectory) -> torch.Tensor | None:
        """After step K: rows (n,) bool that are trained on; None: all."""
        return None

    def weigh(self, seen: Trajectory) -> torch.Tensor | None:
        """Then: loss weights (n,) of those rows, to be averaged over them; None: 1 each."""
        return None

    def balance(self, weights: torch.Tensor) -> torch.Tensor:
        """Last, where rows were set aside: the weights (n,) of all that is trained on."""
        return weights

    def weigh_trained(self, adv: torch.Tensor, y: torch.Tensor) -> torch.Tensor | None:
        """Further weights (n,) from the training's own forward pass: logits of x' (n,C) without gradient; None: 1 each."""
        return None


Confidence = Literal["true_class", "predicted_class"]


def overconfidence(seen: Trajectory, confidence: Confidence = "true_class") -> torch.Tensor:
    """c(x^k) - c(x) -> (n,); positive for an over-confident adversarial example (HAM, section 3).

    c is p_y, the confidence in the true class, or max_c p_c, that in the predicted class. The paper's text leaves open
    which. An attack that climbs the cross-entropy lowers p_y by construction, so that by p_y hardly any example is
    over-confident (none in our measurements); by max_c p_c many are.
    """

    def c(logits: torch.Tensor) -> torch.Tensor:
        p = logits.softmax(1)
        return p.amax(1) if confidence == "predicted_class" else p.gather(1, seen.y[:, None]).squeeze(1)

    return c(seen.current()) - c(seen.clean())
