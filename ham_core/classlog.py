"""Class-wise counts of one epoch."""

from __future__ import annotations

import torch
from torch import Tensor

from ham_core.metrics import LARGEST_SIZE, SIZE_BINS, class_keys


class ClassLog:
    """Class-wise counts of one epoch, summed on the device so that no batch waits for them."""

    def __init__(self, classes: int, device: torch.device) -> None:
        self.classes, self.device = classes, device
        self.shares: dict[str, tuple[Tensor, Tensor]] = {}  # name -> (yes (C,), asked (C,))
        self.sizes: Tensor | None = (
            None  # (2,bins) numbers of hard examples by step size, and sums of their weights
        )
        self.confidence: Tensor | None = None  # (C,C) sums of p_j(x') over the images of class i
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=device)
        self.steps = 0
        self.skipped = 0

    def _add(self, name: str, y: Tensor, values: Tensor) -> None:
        yes = torch.zeros(self.classes, dtype=torch.float64, device=self.device).index_add_(
            0, y, values.double()
        )
        asked = torch.bincount(y, minlength=self.classes)
        before = self.shares.get(name)
        self.shares[name] = (yes, asked) if before is None else (before[0] + yes, before[1] + asked)

    def flags(self, flags: dict[str, tuple[Tensor, Tensor]]) -> None:
        """What mining noted of a batch."""
        for name, (y, values) in flags.items():
            self._add(name, y, values)

    def step_sizes(self, sizes: Tensor, weights: Tensor) -> None:
        """Step sizes (n,) of hard examples and the weights (n,) they got."""
        if self.sizes is None:
            self.sizes = torch.zeros(2, SIZE_BINS, dtype=torch.float64, device=self.device)
        bins = ((sizes / LARGEST_SIZE).sqrt() * SIZE_BINS).long().clamp_(0, SIZE_BINS - 1)  # of size_edges()
        self.sizes.index_add_(1, bins, torch.stack([torch.ones_like(weights), weights]).double())

    def batch(self, y: Tensor, adv_logits: Tensor, loss: Tensor, weights: Tensor | None) -> None:
        """A batch that was trained on."""
        self.right(y, adv_logits.argmax(1) == y)
        if weights is not None:
            self._add("weight", y, weights)
        self.confidences(y, adv_logits)
        self.loss_sum += loss.detach()
        self.steps += 1

    def right(self, y: Tensor, right: Tensor) -> None:
        """Labels and whether x' was classified rightly; also of examples that mining lets go."""
        self._add("robust", y, right)

    def confidences(self, y: Tensor, adv_logits: Tensor) -> None:
        """Sum p(x') per class."""
        if self.confidence is None:
            self.confidence = torch.zeros(self.classes, self.classes, dtype=torch.float64, device=self.device)
        self.confidence.index_add_(0, y, adv_logits.softmax(1).double())

    def robust_shares(self, before: Tensor | None) -> Tensor:
        """(C,) robust training accuracy by each class's own count.

        A class without images in this epoch keeps its rate of the epoch `before`; without one, it has the mean of the others.
        """
        if "robust" not in self.shares:
            return torch.zeros(self.classes, device=self.device) if before is None else before
        yes, asked = self.shares["robust"]
        rates = (yes / asked.clamp_min(1)).float()
        mean = rates[asked > 0].mean() if bool((asked > 0).any()) else rates.new_zeros(())
        return torch.where(asked > 0, rates, mean if before is None else before)

    def confusion(self) -> Tensor | None:
        """(C,C) mean of p_j(x') over the trained images of class i; a class without images is certain of itself."""
        if self.confidence is None:
            return None
        total = self.confidence.sum(1, keepdim=True)
        sure = torch.eye(self.classes, dtype=total.dtype, device=self.device)
        return torch.where(total > 0, self.confidence / total.clamp_min(1e-12), sure).float()

    def metrics(self, classes: tuple[str, ...]) -> dict[str, float]:
        """train/<name>/<class> and train/<name>/all of everything counted, and of the step sizes the share of hard examples in
        each bin that is not empty and their mean weight, train/step_size/share_07 and weight_07."""
        found = {"train/skipped": float(self.skipped)}
        if self.steps:
            found["train/loss"] = float(self.loss_sum) / self.steps
        for name, (yes, asked) in self.shares.items():
            total = int(asked.sum())
            if total:
                found[f"train/{name}/all"] = float(yes.sum()) / total
            for key, hits, n in zip(class_keys(classes), yes.tolist(), asked.tolist(), strict=True):
                if n:
                    found[f"train/{name}/{key}"] = hits / n
        if self.sizes is not None:
            numbers, sums = self.sizes.tolist()
            total = sum(numbers)
            for index, (number, weight) in enumerate(zip(numbers, sums, strict=True)):
                if number:
                    found[f"train/step_size/share_{index:02d}"] = number / total
                    found[f"train/step_size/weight_{index:02d}"] = weight / number
        return found
