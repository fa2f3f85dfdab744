"""A network of the user's own, `package.module:Class`: imported only when named, refused before any work.

Its source file alone goes with the saved classifier, so the class has to stand in one file that imports
nothing of the user's besides.
"""

import ast
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import torch
from torch import nn

from relearn.model.data.transforms import expects_flat_input, to_unit_float
from relearn.model.errors import ConfigError, NotFoundError

Shape = tuple[int, int, int]


def import_network(name: str) -> type[nn.Module]:
    """The class called `name`, from the working folder or what is installed.

    Raises `NotFoundError` where it is not there, `ConfigError` where it cannot be used.
    """
    module_name, class_name = name.split(":", 1)
    try:
        with _as_config_error(f"{module_name} cannot be imported"):
            module = _import_module(module_name, class_name)
    except ModuleNotFoundError as error:
        raise NotFoundError(f"network: no module named {error.name!r} from {Path.cwd()}", "network") from None
    network_class = getattr(module, class_name, None)
    if network_class is None:
        raise NotFoundError(f"network: {module_name} has no class {class_name!r}", "network")
    if not (isinstance(network_class, type) and issubclass(network_class, nn.Module)):
        raise ConfigError([f"network: {name} is not a torch.nn.Module class"])
    if network_class.__module__ != module_name:
        raise ConfigError(
            [
                f"network: got {name}, accepted: {network_class.__module__}:{network_class.__qualname__},"
                " where it stands"
            ]
        )
    _check_self_contained(class_name, Path(inspect.getfile(network_class)))
    return network_class


def _import_module(module_name: str, class_name: str) -> ModuleType:
    """The module from its file in the working folder, else from what is installed.

    The working folder does not join `sys.path`: a file there that is called as a module of Python's or of a
    library, such as random.py, would be imported in its place from then on.
    """
    source_file = Path.cwd().joinpath(*module_name.split(".")).with_suffix(".py")
    if not source_file.is_file():
        return importlib.import_module(module_name)
    if _is_name_taken(module_name, source_file):
        raise ConfigError(
            [
                f"network: {source_file} is called as a module of Python's or of a library, accepted: another"
                " name"
            ]
        )
    _check_self_contained(class_name, source_file)  # else the import fails, and does not say what is accepted
    return import_file(source_file, module_name)


def import_file(source_file: Path, name: str) -> ModuleType:
    """The module at `source`, imported once under `name`."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, source_file)
        if spec is None or spec.loader is None:
            raise ImportError(f"{source_file} is no Python module")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]


def _is_name_taken(module_name: str, source_file: Path) -> bool:
    if module_name in sys.modules:
        return getattr(sys.modules[module_name], "__file__", None) != str(source_file)
    return module_name.partition(".")[0] in sys.stdlib_module_names


def instantiate_and_check(network_class: type[nn.Module], name: str, shape: Shape, classes: int) -> nn.Module:
    """Make the network and try it on two black images; `ConfigError` unless it gives logits (2, classes)."""
    with _as_config_error(f"{name}(shape=…, classes=…) failed"):
        network = network_class(shape=shape, classes=classes)
    if next(network.parameters(), None) is None:
        raise ConfigError([f"network: {name} has nothing to learn, accepted: a network with parameters"])
    images = to_unit_float(torch.zeros(2, *shape, dtype=torch.uint8), expects_flat_input(network))
    with (
        _as_config_error(f"{name} failed on images of shape (n, {', '.join(map(str, images.shape[1:]))})"),
        torch.no_grad(),
    ):
        network.eval()
        logits = network(images)
        network.train()
    is_tensor = isinstance(logits, torch.Tensor)
    if not is_tensor or logits.shape != (2, classes) or not logits.is_floating_point():
        result = f"{logits.dtype} {tuple(logits.shape)}" if is_tensor else type(logits).__name__
        raise ConfigError([f"network: {name} gave {result} for 2 images, accepted: floats (2, {classes})"])
    return network


@contextmanager
def _as_config_error(context: str) -> Iterator[None]:
    """Whatever the user's code raises inside is told in one line."""
    try:
        yield
    except (ModuleNotFoundError, ConfigError):
        raise
    except (Exception, SystemExit) as error:
        message = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise ConfigError([f"network: {context}: {message}"]) from error


def _check_self_contained(class_name: str, source_file: Path) -> None:
    """Refuse a source file that imports others of the user's."""
    for node in ast.walk(ast.parse(source_file.read_text())):
        if isinstance(node, ast.ImportFrom):
            imported_modules = ["." * node.level + (node.module or "")]
        else:
            imported_modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        for module in imported_modules:
            if module.startswith(".") or _is_local_module(module, source_file):
                raise ConfigError(
                    [
                        f"network: {source_file} imports {module!r} from beside it, accepted: one file with"
                        f" all that {class_name} needs, since it alone goes with the classifier"
                    ]
                )


def _is_local_module(module: str, source_file: Path) -> bool:
    """Whether a module of no installed name stands in the working folder or beside `source`."""
    top_package = module.partition(".")[0]
    return importlib.util.find_spec(top_package) is None and any(
        (folder / f"{top_package}.py").is_file() or (folder / top_package / "__init__.py").is_file()
        for folder in {Path.cwd(), source_file.parent}
    )
