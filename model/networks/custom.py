"""Custom networks, `package.module:Class`: import and checks before the training.

The saved classifier contains the source file of the class and no other file, so that file must not import
other files of the user.
"""

import ast
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import ModuleType

import torch
from torch import nn

from relearn.model.data.transforms import expects_flat_input, to_unit_float
from relearn.model.errors import ConfigError, NotFoundError, RelearnError, StopSignal


def import_network(name: str) -> type[nn.Module]:
    """Import the class `name` from the working folder or an installed package.

    Raises `NotFoundError` if it does not exist, `ConfigError` if it cannot be used.
    """
    module_name, class_name = name.split(":", 1)
    with network_errors(f"{module_name} cannot be imported"):
        try:
            module = _import_module(module_name, class_name)
        except ModuleNotFoundError as error:
            message = f"network: no module named {error.name!r} from {Path.cwd()}"
            raise NotFoundError(message, "network") from None
    network_class = getattr(module, class_name, None)
    if network_class is None:
        raise NotFoundError(f"network: {module_name} has no class {class_name!r}", "network")
    if not (isinstance(network_class, type) and issubclass(network_class, nn.Module)):
        raise ConfigError([f"network: {name} is not a torch.nn.Module class"])
    if network_class.__module__ != module_name:
        raise ConfigError(
            [
                f"network: got {name}, accepted: {network_class.__module__}:{network_class.__qualname__},"
                " where the class is defined"
            ]
        )
    _check_self_contained(class_name, Path(inspect.getfile(network_class)))
    return network_class


def _import_module(module_name: str, class_name: str) -> ModuleType:
    """Import a module from its file in the working folder, else from the installed packages.

    The working folder is not added to `sys.path`: from then on a file such as random.py would hide the
    module of the standard library or of an installed package.
    """
    source_file = Path.cwd().joinpath(*module_name.split(".")).with_suffix(".py")
    if not source_file.is_file():
        return importlib.import_module(module_name)
    if _is_name_taken(module_name, source_file):
        raise ConfigError(
            [
                f"network: {source_file} has the name of a module of Python or of a library,"
                " accepted: another name"
            ]
        )
    _check_self_contained(
        class_name, source_file
    )  # its message says what is accepted, an ImportError does not
    return import_source(source_file.read_bytes(), source_file, module_name)


def import_source(source: bytes, source_file: Path, name: str) -> ModuleType:
    """Import `source`, read from `source_file`, as module `name`; a second call returns the same module.

    What runs are the bytes given, whose digest the caller may have checked: neither the file again nor a
    compiled copy of it in `__pycache__`.
    """
    if name not in sys.modules:
        module = ModuleType(name)
        module.__file__ = str(source_file)
        sys.modules[name] = module
        try:
            exec(compile(source, source_file, "exec", dont_inherit=True), module.__dict__)  # noqa: S102
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]


def _is_name_taken(module_name: str, source_file: Path) -> bool:
    if module_name in sys.modules:
        return getattr(sys.modules[module_name], "__file__", None) != str(source_file)
    return module_name.partition(".")[0] in sys.stdlib_module_names


def instantiate_and_check(
    network_class: type[nn.Module], name: str, shape: tuple[int, int, int], classes: int
) -> nn.Module:
    """Build the network and run it on two black images; raise `ConfigError` unless it gives (2, classes)."""
    with network_errors(f"{name}(shape=…, classes=…) failed"):
        network = network_class(shape=shape, classes=classes)
    if next(network.parameters(), None) is None:
        raise ConfigError([f"network: {name} has no parameters, accepted: a network with parameters"])
    images = to_unit_float(torch.zeros(2, *shape, dtype=torch.uint8), expects_flat_input(network))
    with (
        network_errors(f"{name} failed on images of shape (n, {', '.join(map(str, images.shape[1:]))})"),
        torch.no_grad(),
    ):
        network.eval()
        logits = network(images)
        network.train()
    if fault := find_logits_fault(logits, (2, classes)):
        raise ConfigError([f"network: {name} {fault}"])
    return network


def find_logits_fault(logits: object, shape: tuple[int, int]) -> str | None:
    """Return what is wrong with the result of a network for `shape` (images, classes); None if nothing is."""
    if isinstance(logits, torch.Tensor):
        if logits.shape == shape and logits.is_floating_point():
            return None
        result = f"{logits.dtype} {tuple(logits.shape)}"
    else:
        result = type(logits).__name__
    return f"returned {result} for {shape[0]} image{'s' * (shape[0] > 1)}, accepted: floats {shape}"


def errors_in_call(name: str, call: str) -> AbstractContextManager[None]:
    """Turn any error of custom network `name` into a line that says in which `call` it failed.

    An error of a network of ours is a bug and passes.
    """
    return network_errors(f"{name} failed in {call}") if ":" in name else nullcontext()


@contextmanager
def network_errors(context: str) -> Iterator[None]:
    """Turn any error of a network's code into a `ConfigError` of one line, which begins with `context`."""
    try:
        yield
    except (RelearnError, StopSignal):
        raise
    except (Exception, SystemExit) as error:
        message = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise ConfigError([f"network: {context}: {message}"]) from error


def _check_self_contained(class_name: str, source_file: Path) -> None:
    """Raise `ConfigError` if the source file imports another file of the user."""
    for node in ast.walk(ast.parse(source_file.read_text())):
        if isinstance(node, ast.ImportFrom):
            imported_modules = ["." * node.level + (node.module or "")]
        else:
            imported_modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        for module in imported_modules:
            if module.startswith(".") or _is_local_module(module, source_file):
                raise ConfigError(
                    [
                        f"network: {source_file} imports {module!r} from another file of yours, accepted:"
                        f" all code of {class_name} in one file, since only this file is saved"
                    ]
                )


def _is_local_module(module: str, source_file: Path) -> bool:
    """Return true if a module is not installed, but is in the working folder or the source file's folder."""
    top_package = module.partition(".")[0]
    return importlib.util.find_spec(top_package) is None and any(
        (folder / f"{top_package}.py").is_file() or (folder / top_package / "__init__.py").is_file()
        for folder in {Path.cwd(), source_file.parent}
    )
