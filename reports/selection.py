"""How the weights behind a number were chosen, in words."""

from __future__ import annotations

RULES = {
    "best": "the epoch with the highest average robust accuracy under the selection attack",
    "best_sum": "the epoch with the highest sum of average and worst-class robust accuracy under the selection attack",
    "best_worst": "the epoch with the highest worst-class robust accuracy under the selection attack",
    "last": "the last epoch",
}


def rule_of(weights: str | None) -> str | None:
    """`best_sum_fawa` -> its rule and its average; None for what names no weights, such as a series."""
    names = [name for name in RULES if weights is not None and f"{weights}_".startswith(f"{name}_")]
    if weights is None or not names:
        return None
    rule = max(names, key=len)
    average = weights.removeprefix(rule).lstrip("_")
    return f"weights of {RULES[rule]}" + (f", averaged over training ({average})" if average else "")
