"""Batches from memory: uint8 images are permuted once an epoch, then moved and scaled in large pieces.

A batch is a list of slices; a network sees slice after slice and learns once a batch. On a CPU a slice
of a convolution's output stays in cache, which is where the time goes; elsewhere a batch is one slice.
"""

import math
from collections.abc import Iterator
from contextlib import suppress

import numpy as np
import torch
from torch import Tensor, nn

from relearn.model.data.dataset import LabelledImages
from relearn.model.data.transforms import apply_affine, expects_flat_input, preprocess, sample_affine_params

MicroBatches = list[tuple[Tensor, Tensor]]

# Images moved and scaled at a time: few enough that their floats (3.2 MB at 1×28×28) are still in cache when
# the network reads them, many enough that the calls for it do not count. mlp on two cores, batch 256,
# thousand images/s of training: 86.5; in pieces of 256 85.1, of 4096 84.1.
CHUNK_SIZE = 1024

# cnn on 1×28×28, two cores, thousand images/s of training: whole batches of 256 14.4, slices of 128 16.2,
# of 64 14.6, of 32 12.3. Flat networks gain nothing.
MICRO_BATCH_SIZE = 128


class BatchLoader:
    """The images of one split, ready to be gone through any number of times.

    Gives inputs float32 and one-hot targets float32 on `device`, as `preprocess` makes them.
    """

    def __init__(
        self,
        split: LabelledImages,
        network: nn.Module,
        classes: int,
        batch_size: int,
        device: torch.device,
        augmentation: float = 0.0,
    ) -> None:
        self.images = torch.from_numpy(np.asarray(split.images))
        self.labels = torch.from_numpy(np.asarray(split.labels))
        if device.type == "cuda":  # 47 MB for MNIST as uint8: it all lives there, where it fits
            with suppress(torch.OutOfMemoryError):
                self.images, self.labels = self.images.to(device), self.labels.to(device)
        self.flat_input = expects_flat_input(network)
        self.classes = classes
        self.batch_size = min(batch_size, len(split))
        sliced = device.type == "cpu" and getattr(network, "allow_micro_batches", False)
        self.micro_batch_size = min(MICRO_BATCH_SIZE, self.batch_size) if sliced else self.batch_size
        self.device = device
        self.augmentation = augmentation

    def __len__(self) -> int:
        """Number of batches in one pass; the last may be smaller."""
        return math.ceil(len(self.labels) / self.batch_size)

    @property
    def last_batch_size(self) -> int:
        """Images in the last batch of a pass."""
        return (len(self.labels) - 1) % self.batch_size + 1

    def iterate_shuffled(self, seed: int, epoch: int, first_batch: int = 0) -> Iterator[MicroBatches]:
        """One pass in an order that depends on `seed` and `epoch` alone, without its first `skip` batches.

        So do the changes of the images, where there is augmentation.
        """
        seed_state = np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0]
        generator = torch.Generator().manual_seed(int(seed_state) >> 1)
        order = torch.randperm(len(self.labels), generator=generator)
        affine_params = (
            sample_affine_params(len(order), self.augmentation, generator) if self.augmentation else None
        )
        first_image = first_batch * self.batch_size
        return self._iterate(
            order[first_image:], affine_params[first_image:] if affine_params is not None else None
        )

    def iterate_in_order(self) -> Iterator[MicroBatches]:
        """One pass in the order of the split."""
        return self._iterate(torch.arange(len(self.labels)))

    def _iterate(self, order: Tensor, affine_params: Tensor | None = None) -> Iterator[MicroBatches]:
        chunk_size = max(1, CHUNK_SIZE // self.batch_size) * self.batch_size
        order = order.to(self.labels.device)  # once: a GPU would have to wait for each copy
        for start in range(0, len(order), chunk_size):
            chunk_indices = order[start : start + chunk_size]
            # Not `images[chosen]`: 40 µs instead of 300 for 1024 images, 4 % of an mlp's epoch.
            images = self.images.index_select(0, chunk_indices).to(self.device)
            labels = self.labels.index_select(0, chunk_indices).to(self.device)
            if affine_params is not None:
                images = apply_affine(images, affine_params[start : start + chunk_size].to(self.device))
            inputs, targets = preprocess(images, labels, self.classes, self.flat_input)
            if not self.flat_input:
                inputs = inputs.contiguous(memory_format=torch.channels_last)
            for batch in zip(inputs.split(self.batch_size), targets.split(self.batch_size), strict=True):
                yield list(zip(*(tensor.split(self.micro_batch_size) for tensor in batch), strict=True))
