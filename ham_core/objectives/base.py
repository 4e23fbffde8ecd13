"""The interface of an objective.

Notation: B batch, n rows that are trained on, C classes; clean, adv logits of x and x'; y labels; p = softmax(logits).
Every loss is a main term and, in most methods, a regularisation: ℓ_i = N_i + β R_i. A calibration may weigh both per class.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import model_validator

from ham_core.lazy import F, torch
from ham_core.parts import Part, part_of

if TYPE_CHECKING:
    from ham_core.mining.base import Trajectory

Extra = Mapping[str, "torch.Tensor"]
NOTHING: Extra = {}


class Objective(Part):
    """Per sample: what the attack ascends, what the training descends."""

    start: ClassVar[str] = "uniform"  # where the source's attack begins
    attack_needs_clean: ClassVar[bool] = False  # `ascend` reads the clean logits
    loss_needs_clean: ClassVar[bool] = False  # `loss` reads the clean logits
    needs_helper: ClassVar[bool] = False  # `points` asks the network of the trial's `helper`

    @property
    def root(self) -> Objective:
        """The objective whose losses are meant: this one, or the one that it wraps."""
        return self

    # the attack ----------------------------------------------------------------------------------------------------

    def attack_settings(self, epsilon: float) -> dict[str, Any]:
        """Settings of the attack that the method itself fixes, for example {"steps": 1}."""
        return {}

    @abstractmethod
    def ascend(self, clean: torch.Tensor | None, adv: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """What the attack maximises. clean, adv (n,C), y (n,) -> (n,). `clean` is constant here."""

    def follow(self, seen: Trajectory, logits: torch.Tensor) -> torch.Tensor | None:
        """Before each step: rows (n,) bool that go on; None: all. `seen.adv` is x^k, `logits` (n,C) are its.

        What has to be remembered per row stands in `seen.marks`.
        """
        return None

    def jitter(self) -> float:
        """ω: each step is followed by ω N(0, 1)."""
        return 0.0

    def carried(self, memory: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor | None:
        """x' to begin with, from what earlier batches left in `memory`; None: a start point is drawn."""
        return None

    # the step ------------------------------------------------------------------------------------------------------

    def passes_per_batch(self) -> int:
        """How often each batch is trained on in a row."""
        return 1

    def points(
        self,
        x: torch.Tensor,
        adv: torch.Tensor,
        marks: Mapping[str, torch.Tensor],
        helper: Callable[[torch.Tensor], torch.Tensor],
    ) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """(further images (n,C,H,W) whose logits the loss reads, further values (n,...) that it reads), by name.

        `helper` gives the logits of the helper network without gradient.
        """
        return {}, {}

    @abstractmethod
    def loss(
        self,
        clean: torch.Tensor | None,
        adv: torch.Tensor,
        y: torch.Tensor,
        *,
        natural: torch.Tensor | None = None,
        beta: torch.Tensor | None = None,
        extra: Extra = NOTHING,
    ) -> torch.Tensor:
        """What the training minimises -> (n,). Gradients flow through `clean`, `adv` and the logits in `extra`.

        natural (n,) multiplies the main term, beta (n,) the weight of the regularisation; None means 1.
        """

    def neighbourhood(
        self,
        parameters: Sequence[tuple[str, torch.Tensor]],
        gradients: Callable[[], Sequence[torch.Tensor]],
        epoch: int,
    ) -> AbstractContextManager[None]:
        """Where the step's gradient is taken: at the weights, or around them. `gradients()` are the loss's at the weights."""
        return nullcontext()

    def remember(
        self,
        memory: dict[str, torch.Tensor],
        rows: torch.Tensor,
        gradient: torch.Tensor,
        epsilon: torch.Tensor,
    ) -> None:
        """After the step of a method with `carried` starts: update `memory` with ∇_x' of the loss at these rows.

        gradient (n,C,H,W); epsilon (n,) radii.
        """

    # after an epoch ------------------------------------------------------------------------------------------------

    def probe_steps(self) -> int:
        """Steps of the attack on the epoch's first batch whose accuracy `collapsed` judges; 0: none."""
        return 0

    def collapsed(self, before: float, now: float) -> bool:
        """Whether training ends here and the weights of the epoch before are kept; accuracies on the first batches."""
        return False


class Around(Objective):
    """An objective that changes something about another one, its `base`."""

    base: part_of("objectives", Objective) = "at"  # type: ignore[valid-type]

    @model_validator(mode="after")
    def _once(self) -> Around:
        inner: Objective = self.base
        while isinstance(inner, Around):
            if inner.name == self.name:
                raise ValueError(f"{self.name} stands around another {self.name}; keep one of them")
            inner = inner.base
        return self

    @property
    def root(self) -> Objective:
        """The innermost objective."""
        root: Objective = self.base.root
        return root

    def attack_settings(self, epsilon: float) -> dict[str, Any]:
        """The base's."""
        return dict(self.base.attack_settings(epsilon))

    def ascend(self, clean: torch.Tensor | None, adv: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The base's."""
        return self.base.ascend(clean, adv, y)

    def follow(self, seen: Trajectory, logits: torch.Tensor) -> torch.Tensor | None:
        """The base's."""
        return self.base.follow(seen, logits)

    def jitter(self) -> float:
        """The base's."""
        return float(self.base.jitter())

    def carried(self, memory: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor | None:
        """The base's."""
        return self.base.carried(memory, x)

    def passes_per_batch(self) -> int:
        """The base's."""
        return int(self.base.passes_per_batch())

    def points(
        self,
        x: torch.Tensor,
        adv: torch.Tensor,
        marks: Mapping[str, torch.Tensor],
        helper: Callable[[torch.Tensor], torch.Tensor],
    ) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """The base's."""
        found: tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]] = self.base.points(
            x, adv, marks, helper
        )
        return found

    def loss(
        self,
        clean: torch.Tensor | None,
        adv: torch.Tensor,
        y: torch.Tensor,
        *,
        natural: torch.Tensor | None = None,
        beta: torch.Tensor | None = None,
        extra: Extra = NOTHING,
    ) -> torch.Tensor:
        """The base's."""
        return self.base.loss(clean, adv, y, natural=natural, beta=beta, extra=extra)

    def neighbourhood(
        self,
        parameters: Sequence[tuple[str, torch.Tensor]],
        gradients: Callable[[], Sequence[torch.Tensor]],
        epoch: int,
    ) -> AbstractContextManager[None]:
        """The base's."""
        return self.base.neighbourhood(parameters, gradients, epoch)

    def remember(
        self,
        memory: dict[str, torch.Tensor],
        rows: torch.Tensor,
        gradient: torch.Tensor,
        epsilon: torch.Tensor,
    ) -> None:
        """The base's."""
        self.base.remember(memory, rows, gradient, epsilon)

    def probe_steps(self) -> int:
        """The base's."""
        return int(self.base.probe_steps())

    def collapsed(self, before: float, now: float) -> bool:
        """The base's."""
        return bool(self.base.collapsed(before, now))


def cross_entropy(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """CE(f(x), y) = -log p_y -> (B,)."""
    return F.cross_entropy(logits, y, reduction="none")


def kl(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """KL(p ‖ q) = Σ_c p_c log(p_c / q_c), p and q the softmax of `first` and `second` -> (B,)."""
    return F.kl_div(F.log_softmax(second, 1), F.log_softmax(first, 1), reduction="none", log_target=True).sum(
        1
    )


def best_other(p: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """max_{k≠y} p_k of probabilities p (n,C) -> (n,)."""
    return p.scatter(1, y[:, None], 0.0).amax(1)


def weighted(term: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
    """A term (n,) times its class weight (n,); None means 1."""
    return term if weight is None else weight * term
