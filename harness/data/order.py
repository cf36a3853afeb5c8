"""Which samples are held out, and in which order the others come: seeds and epochs decide, and nothing else."""

import numpy as np

# What a random stream is for; the other numbers of its seed are the user's.
ORDER, CUT = 0, 2  # augmentation has the others
WINDOW = 16
"""Pages whose samples are mixed in quasi-random order."""


def cut(num_samples: int, validation: float, split_seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the training and of the validation samples, each ascending."""
    shuffled = np.random.default_rng([split_seed, 0, CUT]).permutation(num_samples)
    num_held_out = round(validation * num_samples)
    return np.sort(shuffled[num_held_out:]), np.sort(shuffled[:num_held_out])


def training_order(
    num_samples: int, batch_size: int, *, seed: int, epoch: int, pages: np.ndarray | None = None
) -> np.ndarray:
    """The order of one epoch, without the samples that do not fill a batch.

    Worker r of n takes every n-th from r on: then batch b of all workers together is the b-th run of `batch_size`.
    With `pages`, the page of each sample, pages come in random order, and samples of about `WINDOW` of them mixed:
    each is read once, and few are needed at a time.
    """
    if num_samples < batch_size:
        raise ValueError(f"the training part has {num_samples} samples, less than one batch of {batch_size}")
    random = np.random.default_rng([seed, epoch, ORDER])
    if pages is None:
        shuffled = random.permutation(num_samples)
    else:
        places = random.permutation(pages.max() + 1)[pages] + WINDOW * random.random(num_samples)
        shuffled = np.argsort(places, kind="stable")
    return shuffled[: num_samples // batch_size * batch_size]
