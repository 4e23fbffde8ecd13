"""cifar100: 60,000 pictures of 32x32 pixels in a hundred classes (the fine labels).

A. Krizhevsky, Learning Multiple Layers of Features, 2009. The default held-out share is 25 images per class, as CFA's.
"""

from __future__ import annotations

from ham_core.data.cifar10 import read_batches
from ham_core.data.download import Archive
from ham_core.data.published import Published
from ham_core.data.source import Facts, Progress, Tensors

NAMES = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish
forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle
mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle wardrobe whale
willow_tree wolf woman worm
"""
CLASSES = tuple(NAMES.split())


class Cifar100(Published):
    """The published archive, in its standard split, with the fine labels."""

    name = "cifar100"
    page = "https://www.cs.toronto.edu/~kriz/cifar.html"
    archives = (
        Archive(
            "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
            md5="eb9058c3a382ffc7106e4002c42a8d85",
            size=169_001_437,
        ),
    )

    def facts(self) -> Facts:
        return Facts(
            name="cifar100",
            label="cifar100",
            classes=CLASSES,
            shape=(3, 32, 32),
            train_digest=self.digest("train"),
            test_digest=self.digest("test"),
            crop=4,
            flip=True,
            validation=0.05,
            source=self.source,
            images=(50_000, 10_000),
            train_counts=(500,) * len(CLASSES),
        )

    def read(self, progress: Progress | None) -> Tensors:
        return read_batches(
            self.place(self.archives[0]), ("train",), "test", "meta", CLASSES, "fine_", progress
        )
