"""What our steps are measured against: plain PyTorch, fp32, contiguous, a whole `loss.backward()` in every attack step.

    official   what the released HAM code does (yyl-github-1896/HAM @e3ee5ff, docs/methods.md), pass by pass:
               AT   per attack step F and Bx + Bw; a Python loop over the examples counts who is still right; then F, Bx + Bw
               HAM  one F of the clean images and one of the start point, unused; per attack step F, Bx + Bw, and one more F of
                    the new point, of which only step m's is used; graphs are kept for all of them; then ρ (F + Bx + Bw)
    textbook   what one would write from the papers: the same without the unused passes; at step m one F for all

F: a forward pass of the batch, Bx: backward to the pixels, Bw: what the weights' gradients cost beyond that; ρ: hard share.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ham_core.models import preact_resnet
from ham_core.network import set_precision

EPSILON, STEPS, EARLY_DROP_STEP = 1e-6, 10, 3
LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 1e-20, 0.9, 5e-4
REFERENCES = ("official", "textbook")


class Block(nn.Module):
    """conv relu BN conv relu BN x + shortcut."""

    def __init__(self, block: preact_resnet.Block) -> None:
        super().__init__()
        self.bn1, self.conv1, self.bn2, self.conv2 = block.bn1, block.conv1, block.bn2, block.conv2
        self.shortcut = block.shortcut

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(x))
        shortcut = x if self.shortcut is None else self.shortcut(out)
        out = self.conv1(out)
        out = self.conv2(F.relu(self.bn2(out)))
        return out + shortcut


class PreActResNet18(nn.Module):
    """The network as one writes it, with the weights of ours."""

    def __init__(self, model: preact_resnet.PreActResNet18) -> None:
        super().__init__()
        assert model.bn is not None
        self.normalize, self.conv1, self.linear = model.normalize, model.conv1, model.linear
        self.bn: nn.Module = model.bn
        stages = (model.layer1, model.layer2, model.layer3, model.layer4)
        blocks = [block for stage in stages for block in stage if isinstance(block, preact_resnet.Block)]
        self.layers = nn.Sequential(*map(Block, blocks))

    def forward(self, x: Tensor) -> Tensor:
        out = self.layers(self.conv1(self.normalize(x)))
        out = F.relu(self.bn(out))
        out = F.avg_pool2d(out, out.shape[-1])
        logits: Tensor = self.linear(out.flatten(1))
        return logits


def plain(model: nn.Module) -> nn.Module:
    """A copy in plain PyTorch, contiguous; of networks that are not written down here, the same module."""
    own = copy.deepcopy(model).to(memory_format=torch.contiguous_format)
    return PreActResNet18(own) if isinstance(own, preact_resnet.PreActResNet18) else own


def climb(model: nn.Module, x: Tensor, adv: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """(x^{k+1}, logits of x^k): one step of PGD as in the pseudo-code of Madry et al. 2018; x, adv (B,C,H,W), y (B,)."""
    adv = adv.detach().requires_grad_()
    logits = model(adv)
    model.zero_grad()
    F.cross_entropy(logits, y).backward()
    assert adv.grad is not None
    moved = adv.detach() + EPSILON / 4 * adv.grad.sign()
    return torch.min(torch.max(moved, x - EPSILON), x + EPSILON).clamp(0, 1), logits


def official_attack(model: nn.Module, x: Tensor, y: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """(x', y) of those who are trained on, by the passes of the released code."""
    noise = np.random.uniform(-EPSILON, EPSILON, x.shape)
    adv = (x + torch.from_numpy(noise).float().to(x.device)).clamp(0, 1)
    if kind == "HAM":
        model(x), model(adv)  # for a distance that is not used
    still_right = torch.zeros(len(y))
    for k in range(STEPS):
        adv, logits = climb(model, x, adv, y)
        predicted = logits.argmax(1)
        if kind != "HAM":
            for i in range(len(y)):
                if predicted[i] == y[i]:
                    still_right[i] += 1
            continue
        predicted = model(adv).detach().argmax(1)  # after every step
        if k + 1 == EARLY_DROP_STEP:
            hard = predicted != y
            x, adv, y = x[hard], adv[hard], y[hard]
    return adv, y


def textbook_attack(model: nn.Module, x: Tensor, y: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """(x', y) of those who are trained on."""
    adv = (x + torch.empty_like(x).uniform_(-EPSILON, EPSILON)).clamp(0, 1)
    for k in range(STEPS):
        if kind == "HAM" and k == EARLY_DROP_STEP:
            hard = model(adv).argmax(1) != y
            x, adv, y = x[hard], adv[hard], y[hard]
        adv, _ = climb(model, x, adv, y)
    return adv, y


def reference(
    model: nn.Module, x: Tensor, y: Tensor, kind: str, name: str, clock: Callable[[], float]
) -> Iterator[tuple[float, int]]:
    """(seconds, examples trained on) of one step after the other, for ever: attacked in evaluation mode, updated in training
    mode.
    """
    attack = official_attack if name == "official" else textbook_attack
    optimizer = torch.optim.SGD(
        model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY
    )
    while True:
        set_precision("fp32")
        wait(x.device)
        start = clock()
        model.eval()
        adv, labels = attack(model, x, y, kind)
        model.train()
        optimizer.zero_grad()
        F.cross_entropy(model(adv.detach()), labels).backward()
        optimizer.step()
        wait(x.device)
        yield clock() - start, len(labels)


def wait(device: torch.device) -> None:
    """Until the GPU is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
