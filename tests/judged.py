"""Small networks worth attacking, and the images they are judged on."""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import nn

from ham_core import models
from ham_core.attacks.losses import cross_entropy
from ham_core.attacks.pgd import pgd
from ham_core.data import load
from ham_core.data.augment import to_float
from ham_core.data.split import Split
from tests.builders import Linear

RADIUS = 0.22  # at which some images of `network` stand and some fall


@cache
def digits() -> tuple[Split, Split]:
    """(train, test) of all ten digits."""
    found = load("digits", validation=0, split_seed=0, train_limit=None, test_limit=None)
    return found.train, found.test


def only(split: Split, classes: int, most: int) -> Split:
    """The first `most` images of digits below `classes`."""
    rows = (split.labels < classes).nonzero().squeeze(1)[:most]
    return Split(split.images[rows], split.labels[rows])


@cache
def network() -> nn.Module:
    """small_cnn on digits 0 to 3, trained against one step of 0.05; in evaluation mode, and not to be changed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = models.build("small_cnn", width=0.5, classes=4, channels=1, normalize=False)
    train = only(digits()[0], 4, 400)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for k in range(60):
        rows = torch.arange(100) + 100 * (k % 4)
        x, y = to_float(train.images[rows]), train.labels[rows]
        adv = pgd(model, x, lambda z, on, y=y: cross_entropy(z, y[on]), epsilon=0.1, step=0.05, steps=1)
        optimizer.zero_grad()
        F.cross_entropy(model(adv), y).backward()
        optimizer.step()
    return model.eval()


@cache
def linear() -> Linear:
    """Ten digits by ridge regression on one-hot labels."""
    train = digits()[0]
    x = torch.cat([to_float(train.images).flatten(1), torch.ones(len(train), 1)], 1).double()
    target = F.one_hot(train.labels, 10).double()
    weight = torch.linalg.solve(x.T @ x + 10 * torch.eye(x.shape[1]).double(), x.T @ target).T.float()
    return Linear(weight[:, :-1].contiguous(), weight[:, -1].contiguous()).eval()
