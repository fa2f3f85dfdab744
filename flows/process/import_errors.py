"""Failed imports of libraries: which library, what it said, and the variable or file that it had read.

Only the standard library is imported here: any library may be the one that fails.
"""

import io
import os
import sys
import textwrap
import traceback
from types import FrameType, ModuleType


def describe_import_error(error: BaseException) -> str:
    """Return why a library cannot be imported; "" if `error` is not from the import of a library.

    Either the library itself fails, e.g. because of a variable that it reads, or another module of the same
    name was imported instead.
    """
    if isinstance(error, ImportError) and error.__cause__:  # cyclopts wraps the error of a command's module
        return describe_import_error(error.__cause__)
    frames = [
        frame for frame, _ in traceback.walk_tb(error.__traceback__) if not _is_ours(_module_name(frame))
    ]
    modules = [_module_name(frame) for frame in frames if frame.f_code.co_name == "<module>"]
    if isinstance(error, ImportError) and error.name:
        modules = [error.name]
    if not modules or _is_ours(modules[-1]):
        return ""
    library = modules[-1].partition(".")[0]  # the innermost
    reason = textwrap.shorten(f"{type(error).__name__}: {error}", 300, placeholder="…")
    sources = f"; see {', '.join(found)}" if (found := _find_sources(frames)) else ""
    return f"{library} cannot be imported{_find_location(library)}: {reason}{sources}"


def _find_sources(frames: list[FrameType]) -> list[str]:
    """Return the files and variables of the innermost of `frames` that has opened or named any.

    A variable is also found by the name of the library: TORCH_LOGS for torch.
    """
    for frame in reversed(frames):
        prefix = f"{_module_name(frame).partition('.')[0].upper()}_"
        streams = (value for value in frame.f_locals.values() if isinstance(value, io.IOBase))
        files = [str(name) for stream in streams if isinstance(name := getattr(stream, "name", None), str)]
        constants = {value for value in frame.f_code.co_consts if isinstance(value, str)}
        variables = [name for name in sorted(os.environ) if name in constants or name.startswith(prefix)]
        if files or variables:
            return [*files, *variables]
    return []


def _is_ours(module: str) -> bool:
    return module.startswith(("relearn", "__"))


def _module_name(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__"))


def _find_location(package: str) -> str:
    """Return ` from FILE` for a module or package that was imported; '' for one that was not found."""
    paths = _paths(sys.modules.get(package))
    return f" from {paths[0]}" if paths else ""


def _paths(module: ModuleType | None) -> list[str]:
    """Return the file of a module, or the folders of a package without one."""
    file = getattr(module, "__file__", None)
    return [file] if file else list(getattr(module, "__path__", ()))
