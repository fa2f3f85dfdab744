"""The packages of this project, and the imports between them, read from the source."""

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
LAYERS = ("model", "serving", "flows")
FILES = sorted(path for layer in LAYERS for path in (ROOT / layer).rglob("*.py"))
FLOWS = {"flows.train", "flows.retrain", "flows.release", "flows.monitor", "flows.prune"}


def module_name(path: Path) -> str:
    """Name the module of a file: `flows.cli.app` for flows/cli/app.py."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(path): path for path in FILES}


def package_of(module: str) -> str:
    """Name the package of a module.

    `flows` and `serving` stand for the flows and the service at the top of these folders, `flows.base`
    and `serving.base` for the modules beside them, on which the packages build.
    """
    layer, *rest = module.split(".")
    if module.startswith("flows.ops.checks"):
        return "flows.ops.checks"
    if len(rest) > 1 or (rest and MODULES[module].name == "__init__.py"):
        return f"{layer}.{rest[0]}"
    return layer if layer == "model" or module in FLOWS | {"serving.service"} else f"{layer}.base"


@cache
def imports_of(module: str) -> frozenset[str]:
    """List what a module imports: at its top, inside functions, and our own modules named in strings."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Constant) and str(node.value).startswith("relearn."):
            names.add(node.value.partition(":")[0])
    return frozenset(names)


def dependencies_of(module: str) -> set[str]:
    """Return the modules of this project that `module` imports.

    A package is left out if a module in it is imported.
    """
    ours = {name.removeprefix("relearn.") for name in imports_of(module) if name.startswith("relearn.")}
    imported = ours & set(MODULES) - {module}
    return {name for name in imported if not any(other.startswith(f"{name}.") for other in imported)}


def package_graph() -> dict[str, set[str]]:
    """Map each package to the packages that it imports."""
    graph: dict[str, set[str]] = {package_of(module): set() for module in MODULES}
    for module in MODULES:
        package = package_of(module)
        graph[package] |= {package_of(other) for other in dependencies_of(module)} - {package}
    return graph


def reduce_transitively(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """Return the acyclic `graph` without the edges that a longer path implies."""

    def reachable(start: str) -> set[str]:
        return set().union(graph[start], *map(reachable, graph[start]))

    return {
        node: {end for end in ends if not any(end in reachable(other) for other in ends)}
        for node, ends in graph.items()
    }
