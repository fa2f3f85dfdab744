"""`pretrained`: a frozen backbone with ImageNet's weights, and a linear head for the classes of the data."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from relearn.model.config import TrainConfig
from relearn.model.networks.efficientnet_lite import FEATURES, EfficientNetLite, Scale

SCALES = {
    "pretrained": Scale(width=1.0, depth=1.0, side=224),
    "pretrained-lite1": Scale(width=1.0, depth=1.1, side=240),
    "pretrained-lite2": Scale(width=1.1, depth=1.2, side=256),  # 260 with its author; images have at most 256
}


class Pretrained(nn.Module):
    """Backbone and linear head; smaller images are enlarged to the side that the backbone was trained with.

    Gray images become three equal channels. The weights of the backbone are random until
    `pretrained_weights.load_backbone`, and are not trained.
    """

    flat_input = False
    # A batch is no faster, and its widest layer takes 4.8 MB for each image of 224 × 224.
    predicts_singly = True

    def __init__(self, config: TrainConfig, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        self.scale = SCALES[config.network]
        self.backbone = EfficientNetLite(self.scale).requires_grad_(False)
        # An image takes 18 ms of a core in this memory format, 22 ms in the default one.
        self.backbone.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in its types
        self.head = nn.Linear(FEATURES, classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.extract_features(images))
        return logits

    def extract_features(self, images: Tensor) -> Tensor:
        """Compute the inputs of the head, float32 (n, 1280)."""
        if max(images.shape[2:]) < self.scale.side:
            images = F.interpolate(images, (self.scale.side,) * 2, mode="bicubic").clamp_(0, 1)
        images = images.mul(2).sub_(1).expand(-1, 3, -1, -1)  # mean and deviation of the weights' author: 0.5
        features: Tensor = self.backbone(images.contiguous(memory_format=torch.channels_last))
        return features
