"""One fixed training margin, other than the radius that the trial is judged by.

    ε_c = λ ε  for every class c

CFA's Figure 2 (Wei et al., CVPR 2023, arXiv:2303.14460) trains with margins from 2/255 to 16/255 and attacks all of them with
8/255: λ = 0.25 to 2 at ε = 8/255. Training with another `epsilon` would move the radius of the judging, too. The step α stays.
"""

from __future__ import annotations

from pydantic import Field

from ham_core.calibration.base import Calibration, Factors, State
from ham_core.lazy import torch


class Fixed(Calibration):
    """The same margin for all classes, a multiple of epsilon."""

    name = "fixed"
    source = "Wei et al., CVPR 2023, arXiv:2303.14460, Fig. 2"

    margin: float = Field(1.0, ge=0, description="λ, training margin as a multiple of epsilon")

    def initial(self, classes: int) -> State:
        """λ for each class (C,)."""
        return {"margin": torch.full((classes,), self.margin)}

    def factors(self, state: State) -> Factors:
        """λ."""
        return Factors(margin=state["margin"])
