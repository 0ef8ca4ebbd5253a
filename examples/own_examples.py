"""Few-shot classification of examples in memory: tensors, or any dataset of PyTorch's."""

from dataclasses import dataclass

import torch
from torch.utils.data import TensorDataset

import metarl
from metarl.supervised import LabelledSet


@dataclass(frozen=True)
class Clusters(LabelledSet):
    """Classes are clusters of vectors that differ in the first few of their numbers only.

    The other numbers vary more and say nothing. A model that has been meta-trained leaves them out.

    Args:
        informative: numbers that differ from class to class.
        noisy: numbers that do not.
        classes: of training; half as many of testing.
        examples: of every class.
    """

    informative: int = 4
    noisy: int = 28
    classes: int = 60
    examples: int = 30

    def load(self, folder):
        labels = torch.arange(self.classes * 3 // 2).repeat_interleave(self.examples)
        vectors = self.vectors(labels)
        is_train = labels < self.classes
        return {
            "train": (vectors[is_train], labels[is_train]),
            "test": TensorDataset(vectors[~is_train], labels[~is_train]),
        }

    def vectors(self, labels):
        """Return a vector [n, informative + noisy] of each label [n], the same at every call."""
        generator = torch.Generator().manual_seed(0)
        centres = torch.randn(int(labels.max()) + 1, self.informative, generator=generator)
        spread = torch.randn(len(labels), self.informative, generator=generator)
        noise = torch.randn(len(labels), self.noisy, generator=generator)
        return torch.cat([centres[labels] + 0.3 * spread, 2 * noise], 1)


def main(**settings):
    return metarl.train(
        {
            "data": {"source": Clusters, "ways": 5},
            "shots": 1,
            "queries": 10,
            "model.hidden_sizes": [64],
            "inner.steps": 3,
            "inner.rate": 0.1,
            "iterations": 500,
        },
        settings,
    )


if __name__ == "__main__":
    main()
