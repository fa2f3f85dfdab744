"""Batches from in-memory uint8 images, shuffled once per epoch, then moved and scaled in chunks.

A batch is a list of micro-batches, with one optimizer step per batch. On a CPU the output of a convolution
for a micro-batch stays in cache, which saves most of the time; elsewhere a batch is one micro-batch.
"""

import math
from collections.abc import Iterator
from contextlib import suppress

import numpy as np
import torch
from torch import Tensor, nn

from relearn.model.data.augmentation import augment, draw_numbers
from relearn.model.data.dataset import LabelledImages
from relearn.model.data.transforms import expects_flat_input, preprocess, view_as_tensor

MicroBatches = list[tuple[Tensor, Tensor]]

# Images moved and scaled at a time: their floats (3.2 MB at 1×28×28) are still in cache when the network
# reads them, and the call overhead is negligible. Training speed of the mlp on two cores, batch size 256, in
# thousand images/s: 86.5; with chunks of 256 85.1, of 4096 84.1.
CHUNK_SIZE = 1024
CHUNK_FLOATS = 2**23  # at most, unless a batch has more: 32 MB, or 55 images of 3 × 224 × 224

# Training speed of the cnn on 1×28×28, two cores, in thousand images/s: batches of 256 14.4, micro-batches of
# 128 16.2, of 64 14.6, of 32 12.3. Networks with flat input gain nothing.
MICRO_BATCH_SIZE = 128


class BatchLoader:
    """Batches of one split, for any number of epochs.

    Yields float32 inputs and one-hot float32 targets on `device`, from `preprocess`.
    """

    def __init__(
        self,
        split: LabelledImages,
        network: nn.Module,
        classes: int,
        batch_size: int,
        device: torch.device,
        augmentation: str = "none",
    ) -> None:
        self.images = view_as_tensor(split.images)
        self.labels = view_as_tensor(split.labels)
        if device.type == "cuda":  # 47 MB for MNIST as uint8: all images are on the GPU if they fit
            with suppress(torch.OutOfMemoryError):
                self.images, self.labels = self.images.to(device), self.labels.to(device)
        self.flat_input = expects_flat_input(network)
        self.classes = classes
        self.batch_size = min(batch_size, len(split))
        is_split = device.type == "cpu" and getattr(network, "allow_micro_batches", False)
        self.micro_batch_size = min(MICRO_BATCH_SIZE, self.batch_size) if is_split else self.batch_size
        self.device = device
        self.augmentation = augmentation

    def __len__(self) -> int:
        """Return the number of batches in one epoch; the last may be smaller."""
        return math.ceil(len(self.labels) / self.batch_size)

    @property
    def last_batch_size(self) -> int:
        """Number of images in the last batch of an epoch."""
        return (len(self.labels) - 1) % self.batch_size + 1

    def iterate_shuffled(self, seed: int, epoch: int, first_batch: int = 0) -> Iterator[MicroBatches]:
        """Yield the batches of one epoch in random order, from number `first_batch` on, counted from 0.

        The order and the augmentation depend on `seed` and `epoch` alone.
        """
        seed_state = np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0]
        generator = torch.Generator().manual_seed(int(seed_state) >> 1)
        order = torch.randperm(len(self.labels), generator=generator)
        numbers = draw_numbers(self.augmentation, len(order), generator)
        first_image = first_batch * self.batch_size
        return self._iterate(order[first_image:], None if numbers is None else numbers[:, first_image:])

    def iterate_in_order(self) -> Iterator[MicroBatches]:
        """Yield all batches in the order of the split."""
        return self._iterate(torch.arange(len(self.labels)))

    def _iterate(self, order: Tensor, numbers: Tensor | None = None) -> Iterator[MicroBatches]:
        images_per_chunk = min(CHUNK_SIZE, CHUNK_FLOATS // self.images[0].numel())
        chunk_size = max(1, images_per_chunk // self.batch_size) * self.batch_size
        order = order.to(self.labels.device)  # once, since each copy would make the GPU wait
        for start in range(0, len(order), chunk_size):
            chunk_indices = order[start : start + chunk_size]
            # 40 µs for 1024 images; `images[indices]` takes 300 µs, which is 4 % of an mlp's epoch.
            images = self.images.index_select(0, chunk_indices).to(self.device)
            labels = self.labels.index_select(0, chunk_indices).to(self.device)
            if numbers is not None:
                images = self._augment(images, numbers[:, start : start + chunk_size])
            inputs, targets = preprocess(images, labels, self.classes, self.flat_input)
            if not self.flat_input:
                inputs = inputs.contiguous(memory_format=torch.channels_last)
            for batch in zip(inputs.split(self.batch_size), targets.split(self.batch_size), strict=True):
                yield list(zip(*(tensor.split(self.micro_batch_size) for tensor in batch), strict=True))

    def _augment(self, images: Tensor, numbers: Tensor) -> Tensor:
        """Augment each batch alone: a training that is resumed inside an epoch starts with another chunk."""
        batches = zip(images.split(self.batch_size), numbers.split(self.batch_size, 1), strict=True)
        return torch.cat([augment(self.augmentation, *batch) for batch in batches])
