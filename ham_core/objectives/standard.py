"""Standard training, without an attack: empirical risk minimisation. Vapnik, NeurIPS 1991.

min_θ E[ CE(f(x), y) ]

x' = x, so that what is read off x' elsewhere (mining, class statistics) is read off the clean image. Helper networks (HAT) are
trained so.
"""

from __future__ import annotations

from typing import Any

from ham_core.objectives.at import AT


class Standard(AT):
    """Cross-entropy on the clean image."""

    name = "standard"
    source = "Vapnik, NeurIPS 1991 (empirical risk minimisation)"
    cost = "-KF -KBx"
    start = "zero"

    def attack_settings(self, epsilon: float) -> dict[str, Any]:
        """No step, from the image itself."""
        return {"steps": 0, "start": "zero"}
