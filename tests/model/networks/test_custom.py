"""Custom networks: import, and one-line errors before the training."""

import importlib
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from relearn.model.config import TrainConfig
from relearn.model.errors import ConfigError, NotFoundError
from relearn.model.networks.registry import build_network, get_network_class
from relearn.model.networks.summary import count_parameters

IMPORTS = "import torch\nfrom torch import nn\n"
VALID = """
class Net(nn.Module):
    def __init__(self, shape, classes):
        super().__init__()
        self.layer = nn.Linear(shape[0] * shape[1] * shape[2], classes)

    def forward(self, inputs):
        return self.layer(inputs.flatten(1))
"""


@pytest.fixture(autouse=True)
def _working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Change to an empty working folder, without modules imported by other tests."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    unload_modules()
    yield
    unload_modules()


def unload_modules() -> None:
    importlib.invalidate_caches()
    for name in ("nets", "layers", "model"):
        sys.modules.pop(name, None)


def build_from(source: str, name: str = "nets:Net") -> int:
    """Write nets.py and return the number of parameters of its network."""
    Path("nets.py").write_text(IMPORTS + source)
    return count_parameters(build_network(TrainConfig(network=name), (1, 4, 4), 3))


def test_class_in_the_working_folder_is_built_with_shape_and_classes() -> None:
    """Its layer has 16 inputs and 3 outputs."""
    assert 16 * 3 + 3 == build_from(VALID)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("raise RuntimeError('no GPU here')", "nets cannot be imported: RuntimeError: no GPU here"),
        ("undefined", "nets cannot be imported: NameError: name 'undefined' is not defined"),
        ("import sys; sys.exit(3)", "nets cannot be imported: SystemExit: 3"),
        ("def f(:", "nets cannot be imported: SyntaxError: "),
        ("Net = 3", "nets:Net is not a torch.nn.Module class"),
        (VALID.replace("shape, classes", "width"), r"nets:Net(shape=…, classes=…) failed: TypeError: "),
        (VALID.replace("super", "1 / 0; super"), "nets:Net(shape=…, classes=…) failed: ZeroDivisionError: "),
        (VALID.replace("nn.Linear", "nn.Flatten() or nn.Linear"), "nets:Net has no parameters"),
        (
            VALID.replace("inputs.flatten(1)", "inputs"),
            "nets:Net failed on images of shape (n, 1, 4, 4): RuntimeError: ",
        ),
        (
            VALID.replace(", classes)\n\n", ", 7)\n\n"),
            "returned torch.float32 (2, 7) for 2 images, accepted: ",
        ),
        (VALID.replace("return ", "return 0, "), "returned tuple for 2 images"),
    ],
)  # fmt: skip
def test_unusable_class_is_rejected_in_one_line(source: str, message: str) -> None:
    """The message has the error of Python, or what is wrong with the class."""
    with pytest.raises(ConfigError) as raised:
        build_from(source)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [("nets:Other", "nets has no class 'Other'"), ("missing:Net", "no module named 'missing' from")],
)
def test_missing_module_or_class_is_reported(name: str, message: str) -> None:
    """The message has the name of the module or class."""
    with pytest.raises(NotFoundError, match=message):
        build_from(VALID, name)


@pytest.mark.parametrize(
    "line", ["import layers", "from layers import WIDTH", "def late():\n    import layers.more"]
)
def test_import_of_another_file_of_the_user_is_rejected(line: str) -> None:
    """The classifier is saved with one source file; a server would not have the other one."""
    Path("layers.py").write_text("WIDTH = 1")
    with pytest.raises(
        ConfigError, match=r"imports 'layers.*' from another file of yours, accepted: all code"
    ):
        build_from(f"{line}\n{VALID}")


def test_imported_class_is_rejected() -> None:
    """A name imported from another module is rejected, since the saved file would not define the class."""
    Path("nets.py").write_text("from torch.nn import Linear as Other")
    with pytest.raises(ConfigError, match=r"got nets:Other, accepted: torch.nn.modules.linear:Linear, where"):
        get_network_class("nets:Other")


def test_user_file_may_have_the_name_of_our_package() -> None:
    """The user's `model.py` is imported, not `relearn.model`."""
    Path("model.py").write_text(IMPORTS + VALID)
    assert Path("model.py").absolute() == Path(inspect.getfile(get_network_class("model:Net")))


@pytest.mark.parametrize("name", ["random", "supervisor", "sndhdr"])
def test_user_file_does_not_replace_an_installed_module(name: str) -> None:
    """A library that imports `name`, now or later, does not get the file of the user."""
    Path(f"{name}.py").write_text("raise SystemExit('the file of the user')")
    Path("nets.py").write_text(f"import {name}\n" + IMPORTS + VALID if name == "random" else IMPORTS + VALID)
    get_network_class("nets:Net")
    assert str(Path.cwd()) not in sys.path
    if name == "random":
        with pytest.raises(ConfigError, match=r"random\.py has the name of a module of Python"):
            get_network_class("random:Net")
