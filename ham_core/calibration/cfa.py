"""CFA, class-wise calibrated fair adversarial training. Wei et al., CVPR 2023, arXiv:2303.14460; PKU-ML/CFA @071f333.

    CCM   ε_c = (λ1 + r_c) ε          CCR   β_c = (λ2 + r_c) β

r_c is the robust training accuracy of class c in the previous epoch, read off the outer loss's logits on x'.
Differs from the code: r_c uses the class's own count (there C·correct_c/N, right only for balanced classes).
The step α is not scaled by class, as in the code.
"""

from __future__ import annotations

from pydantic import Field

from ham_core.calibration.base import Calibration, Factors, Observed, State


class Cfa(Calibration):
    """Class-wise margin (CCM) and regularisation (CCR); a part that is null is left out."""

    name = "cfa"
    source = "Wei et al., CVPR 2023, arXiv:2303.14460"

    margin: float | None = Field(0.5, ge=0, description="λ1 of CCM")
    regularization: float | None = Field(0.5, ge=0, description="λ2 of CCR; AT has no β and ignores it")
    start_epoch: int = Field(
        10, ge=0, description="first calibrated epoch (10 in the code, not in the paper)"
    )

    def renew(self, state: State, observed: Observed) -> State:
        """r of the epoch before; there is none before the first."""
        return state if observed.robust is None else {"robust": observed.robust}

    def factors(self, state: State) -> Factors:
        """λ1 + r and λ2 + r."""
        if "robust" not in state:
            return Factors()
        robust = state["robust"]
        return Factors(
            margin=None if self.margin is None else self.margin + robust,
            beta=None if self.regularization is None else self.regularization + robust,
        )
