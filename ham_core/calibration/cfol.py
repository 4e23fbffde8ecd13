"""CFOL, class-focused online learning. Pethick et al., TMLR 2023, arXiv:2302.08872;
code LIONS-EPFL/class-focused-online-learning-code @98abd59.

    q_c = γ/C + (1-γ) softmax(s)_c                 each image of a batch: a class by q, then an image of it, uniformly
    s_c ← s_c + η 1[f(x') wrong] / q_c             for every image of class c in the batch

An adversarial bandit over the classes (C of them have training images, the others are never drawn); s begins at 0, the
loss is not weighted. An epoch draws as many images as there are, with replacement.
The script takes η = 5e-6, the README 1e-7.
Differs from the code: the attack returns its last iterate (there the one with the highest loss).
"""

from __future__ import annotations

from pydantic import Field

from ham_core.calibration.base import Calibration, Factors, Observed, State
from ham_core.lazy import torch


class Cfol(Calibration):
    """Draws training images class by class, the often misclassified classes more often."""

    name = "cfol"
    source = "Pethick et al., TMLR 2023, arXiv:2302.08872"
    samples = True

    eta: float = Field(5e-6, ge=0, description="η, rate of the scores")
    gamma: float = Field(
        0.5, gt=0, le=1, description="γ, share of the draws that is uniform over the classes"
    )

    def initial(self, classes: int) -> State:
        """s = 0 (C,), in double precision since η is tiny, and which classes there are (C,)."""
        scores = torch.zeros(classes, dtype=torch.float64)
        return {"scores": scores, "present": torch.ones(classes, dtype=torch.bool)}

    def renew(self, state: State, observed: Observed) -> State:
        """The scores stay; classes without training images are left out."""
        return {**state, "present": observed.counts > 0}

    def factors(self, state: State) -> Factors:
        """Every image counts once."""
        return Factors()

    def shares(self, state: State) -> torch.Tensor:
        """q (C,)."""
        present = state["present"]
        softmax = state["scores"].masked_fill(~present, -torch.inf).softmax(0)
        return present * (self.gamma / present.sum()) + (1 - self.gamma) * softmax

    def draw(self, state: State, labels: torch.Tensor, size: int, generator: torch.Generator) -> torch.Tensor:
        """Positions (size,) by two uniform numbers each, without waiting for the device."""
        u, v = torch.rand(2, size, generator=generator, device=generator.device).to(labels.device).double()
        ordered, order = labels.sort(stable=True)
        classes = torch.arange(len(state["present"]), device=labels.device)
        first = torch.searchsorted(ordered, classes)
        number = torch.searchsorted(ordered, classes, right=True) - first
        # u and v are at most 1 - 2^-24, so rounding in double takes neither past the last class or image.
        c = torch.searchsorted(self.shares(state).cumsum(0), u, right=True)  # first class that ends above u
        return order[first[c] + (v * number[c]).long()]

    def observe(self, state: State, y: torch.Tensor, right: torch.Tensor) -> State:
        """s_c + η (number wrong of class c) / q_c."""
        scores = state["scores"]
        wrong = torch.zeros_like(scores).index_add_(0, y, (~right).to(scores.dtype))
        gain = torch.where(state["present"], wrong / self.shares(state), 0)
        return {**state, "scores": scores + self.eta * gain}
