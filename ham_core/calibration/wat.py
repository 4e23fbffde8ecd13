"""WAT, worst-class adversarial training. Li and Liu, AAAI 2023, arXiv:2302.04025; code boqili/WAT @62d1184.

    c_{t,k}  mean loss of class k on held-out images after epoch t,   c_{t,C}  their overall mean loss
    w = C softmax( η Σ_{s≤t} c_s )                         Hedge over C+1 experts: the C classes and the average
    L = (1/n) Σ_i w_{y_i} ℓ_i + w_C (1/n) Σ_i ℓ_i          ℓ = CE + β KL of TRADES, β = 6

The costs are summed over all epochs, so the weights sharpen with time. In the first epoch, before any cost, the code has
w = 1. With balanced classes the average expert thus weighs C times its Hedge probability; the form `consistent` divides
w_C by C and begins at the uniform Hedge C/(C+1), so that it begins as the plain loss.
Differs from the code: c is divided by the number of images (there by the number of whole batches times 128, which makes
it 2.3 % too low on 3,000 images); a class without held-out images has the overall mean as its cost.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ham_core.calibration.base import Calibration, Factors, Observed, State
from ham_core.lazy import torch


class Wat(Calibration):
    """Class weights of a no-regret learner that follows the worst class's loss on held-out images."""

    name = "wat"
    source = "Li and Liu, AAAI 2023, arXiv:2302.04025"
    cost = "none; once an epoch a step without Bw on each held-out image"
    needs = ("held-out images",)
    needs_validation = True

    eta: float = Field(0.1, ge=0, description="η, rate of Hedge")
    form: Literal["official", "consistent"] = Field(
        "official", description="whether the average expert enters with w_C, or with w_C / C"
    )

    def initial(self, classes: int) -> State:
        """No costs, and the first epoch's weights, each (C+1,)."""
        first = 1.0 if self.form == "official" else classes / (classes + 1)
        return {"costs": torch.zeros(classes + 1), "weights": torch.full((classes + 1,), first)}

    def renew(self, state: State, observed: Observed) -> State:
        """Add the costs of the epoch before; there is none before the first."""
        if observed.epoch == 0:
            return state
        sums, numbers = observed.losses()
        overall = sums.sum() / numbers.sum()
        means = torch.where(numbers > 0, sums / numbers, overall)
        costs = state["costs"] + torch.cat([means, overall[None]])
        return {"costs": costs, "weights": len(means) * torch.softmax(self.eta * costs, 0)}

    def factors(self, state: State) -> Factors:
        """w_c + w_C, or w_c + w_C / C."""
        classes, average = state["weights"][:-1], state["weights"][-1]
        return Factors(weight=classes + (average if self.form == "official" else average / len(classes)))
