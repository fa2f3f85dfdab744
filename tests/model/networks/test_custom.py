"""A class of the user's own: used where it can be, else refused in one line before any work."""

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

HEAD = "import torch\nfrom torch import nn\n"
GOOD = """
class Net(nn.Module):
    def __init__(self, shape, classes):
        super().__init__()
        self.layer = nn.Linear(shape[0] * shape[1] * shape[2], classes)

    def forward(self, inputs):
        return self.layer(inputs.flatten(1))
"""


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Modules are looked for where the user stands, and forgotten before and afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    forget()
    yield
    forget()


def forget() -> None:
    importlib.invalidate_caches()
    for name in ("mine", "parts", "model"):
        sys.modules.pop(name, None)


def made(source: str, name: str = "mine:Net") -> int:
    Path("mine.py").write_text(HEAD + source)
    return count_parameters(build_network(TrainConfig(network=name), (1, 4, 4), 3))


def test_a_class_is_made_with_shape_and_classes() -> None:
    """16 inputs, 3 classes."""
    assert 16 * 3 + 3 == made(GOOD)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("raise RuntimeError('no GPU here')", "mine cannot be imported: RuntimeError: no GPU here"),
        ("undefined", "mine cannot be imported: NameError: name 'undefined' is not defined"),
        ("import sys; sys.exit(3)", "mine cannot be imported: SystemExit: 3"),
        ("def f(:", "mine cannot be imported: SyntaxError: "),
        ("Net = 3", "mine:Net is not a torch.nn.Module class"),
        (GOOD.replace("shape, classes", "width"), r"mine:Net(shape=…, classes=…) failed: TypeError: "),
        (GOOD.replace("super", "1 / 0; super"), "mine:Net(shape=…, classes=…) failed: ZeroDivisionError: "),
        (GOOD.replace("nn.Linear", "nn.Flatten() or nn.Linear"), "has nothing to learn"),
        (
            GOOD.replace("inputs.flatten(1)", "inputs"),
            "mine:Net failed on images of shape (n, 1, 4, 4): RuntimeError: ",
        ),
        (GOOD.replace(", classes)\n\n", ", 7)\n\n"), "gave torch.float32 (2, 7) for 2 images, accepted: "),
        (GOOD.replace("return ", "return 0, "), "gave tuple for 2 images"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_one_line(source: str, said: str) -> None:
    """What went wrong, in the words of Python, whatever it was."""
    with pytest.raises(ConfigError) as refused:
        made(source)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "said"),
    [("mine:Other", "mine has no class 'Other'"), ("nobody:Net", "no module named 'nobody' from")],
)
def test_what_is_not_there_is_said(name: str, said: str) -> None:
    """A missing module, or a class that it does not have."""
    with pytest.raises(NotFoundError, match=said):
        made(GOOD, name)


@pytest.mark.parametrize(
    "line", ["import parts", "from parts import LAYERS", "def late():\n    import parts.more"]
)
def test_a_source_that_needs_another_of_the_users_is_refused(line: str) -> None:
    """Only one file goes with the classifier: the server would not find the other."""
    Path("parts.py").write_text("LAYERS = 1")
    with pytest.raises(ConfigError, match=r"imports 'parts.*' from beside it, accepted: one file with all"):
        made(f"{line}\n{GOOD}")  # fmt: skip


def test_a_class_is_named_where_it_stands() -> None:
    """A name that is only passed on would not be found in the file that goes with the classifier."""
    Path("mine.py").write_text("from torch.nn import Linear as Other")
    with pytest.raises(ConfigError, match=r"got mine:Other, accepted: torch.nn.modules.linear:Linear, where"):
        get_network_class("mine:Other")


def test_a_file_called_as_one_of_our_folders_is_the_users() -> None:
    """`model.py` of the user's hides nothing of ours, nor ours theirs."""
    Path("model.py").write_text(HEAD + GOOD)
    assert Path("model.py").absolute() == Path(inspect.getfile(get_network_class("model:Net")))


@pytest.mark.parametrize("name", ["random", "supervisor", "sndhdr"])
def test_a_file_called_as_a_module_of_pythons_is_not_imported_in_its_place(name: str) -> None:
    """Neither by us while the network is imported, nor by a library later."""
    Path(f"{name}.py").write_text("raise SystemExit('the file of the user')")
    Path("mine.py").write_text(f"import {name}\n" + HEAD + GOOD if name == "random" else HEAD + GOOD)
    get_network_class("mine:Net")
    assert str(Path.cwd()) not in sys.path
    if name == "random":
        with pytest.raises(ConfigError, match=r"random\.py is called as a module of Python's"):
            get_network_class("random:Net")
