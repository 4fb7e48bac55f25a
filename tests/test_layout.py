"""Where modules stand, what each may import, and that the public names are what they claim to be."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import leadstatus_async
from leadstatus_async import errors

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "leadstatus_async"
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
FORBIDDEN = {"asyncio", "aiohttp", "aiolimiter", "redis", "time", "random", "logging"}
DATA = {
    "errors",
    "models",
    "results",
    "policy",
    "learned",
    "events",
    "_checks",
    "_figures",
    "_html",
    "_tables",
}
# From the bottom up: a module may import what stands in its own line or below, for type checkers too.
LINES = [
    {"_version", *DATA},
    {"_steps"},
    {"_state"},
    {"limiter", "_pace", "_log"},
    {"_engine"},
    {"_calls"},
    {"_options"},
    {"session", "campaign"},
    {"otel", "prometheus", "redis", "taskiq"},
    {"__main__", "cli", "testing"},
]
LEVEL = {name: level for level, line in enumerate(LINES) for name in line}


def place(module: str) -> str:
    """Return the name of a module in the picture of docs/CONTRIBUTING.md: its own, or its folder's."""
    return module.split(".")[1] if "." in module else ""


def imports(path: Path, *, typing: bool) -> set[str]:
    """Return the modules that a file imports, with or without what only type checkers see."""
    found: set[str] = set()
    nodes: list[ast.AST] = [ast.parse(path.read_text("utf-8"))]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING" and not typing:
            nodes += node.orelse
            continue
        nodes += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            assert node.module is not None
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in names}
    return found


def ours(found: set[str]) -> set[str]:
    """Return those of the package."""
    return {name for name in found if name.split(".")[0] == "leadstatus_async"}


def fresh(code: str) -> str:
    """Run code in a fresh interpreter in which warnings are errors, and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


PURE = sorted(name for name in MODULES if place(name) in DATA | {"_steps", "_state"})


def test_walk_finds_the_package():
    """The walk sees the modules it is about."""
    assert {f"leadstatus_async.{name}" for name in DATA} <= set(MODULES)
    assert "leadstatus_async._steps.decipher" in MODULES
    assert imports(PACKAGE / "errors.py", typing=True) >= {"leadstatus_async.results", "typing"}
    assert "leadstatus_async.results" not in imports(PACKAGE / "errors.py", typing=False)


@pytest.mark.parametrize("module", PURE)
def test_pure_modules_have_no_clock_no_dice_and_no_loop(module):
    """Steps, states and data import nothing that waits, sends, logs, tells time or throws dice."""
    assert not {name.split(".")[0] for name in imports(MODULES[module], typing=True)} & FORBIDDEN


@pytest.mark.parametrize("module", sorted(set(MODULES) - {"leadstatus_async"}))
def test_imports_run_one_way(module):
    """A module names only what stands in its own line of the picture or below, for type checkers too."""
    assert place(module) in LEVEL, f"{module} has no place in the picture: give it one"
    level = LEVEL[place(module)]
    below = ours(imports(MODULES[module], typing=True)) - {"leadstatus_async"}
    assert not {name for name in below if LEVEL[place(name)] > level}


def test_no_circle_of_files():
    """No module can be reached from itself, imports for type checkers included."""
    graph = {
        name: ours(imports(path, typing=True)) & set(MODULES) - {"leadstatus_async"}
        for name, path in MODULES.items()
    }

    def reached(start):
        found, waiting = set(), [start]
        while waiting:
            new = graph[waiting.pop()] - found
            found |= new
            waiting += new
        return found

    assert not {name for name in MODULES if name in reached(name)}


def test_only_the_transport_knows_aiohttp_inside():
    """What sends is one folder; the session only takes a lent aiohttp session."""
    knowing = {place(name) for name, path in MODULES.items() if "aiohttp" in imports(path, typing=True)}
    assert knowing <= {"_engine", "session", "testing"}
    inside = {
        name
        for name in MODULES
        if place(name) == "_engine" and "aiohttp" in imports(MODULES[name], typing=True)
    }
    assert all(name.startswith("leadstatus_async._engine.transport") for name in inside)


@pytest.mark.parametrize("module", sorted(name for name in MODULES if place(name) == "testing"))
def test_the_fake_server_shares_no_code_with_the_client(module):
    """`testing` imports only models, so that a bug of `_steps/decipher` cannot agree with itself."""
    allowed = {"leadstatus_async.models"}
    if module.split(".")[-1] in {"plugin", "_fixtures"}:
        allowed |= {"leadstatus_async", "leadstatus_async.session", "leadstatus_async.policy"}
    inner = {name for name in MODULES if place(name) == "testing"}
    assert ours(imports(MODULES[module], typing=True)) <= allowed | inner


def test_public_names_are_honest():
    """Every name in `__all__` resolves, they are sorted and distinct, and no public error is forgotten."""
    names = leadstatus_async.__all__
    assert names == sorted(set(names))
    for name in names:
        assert getattr(leadstatus_async, name) is not None
    public = {
        name
        for name, member in vars(errors).items()
        if inspect.isclass(member) and issubclass(member, BaseException) and not name.startswith("_")
    }
    assert public <= set(names)
    assert set(names) <= set(dir(leadstatus_async))


def test_public_names_are_seen_by_type_checkers():
    """What is loaded when first used is imported for type checkers, name by name."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text("utf-8"))
    seen = {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert set(leadstatus_async.__all__) <= seen


def test_unknown_name():
    """A name that is not there is an AttributeError that says so."""
    with pytest.raises(AttributeError, match="module 'leadstatus_async' has no attribute 'nothing'"):
        _ = leadstatus_async.nothing


@pytest.mark.parametrize("module", sorted(MODULES))
def test_module_is_importable_alone(module):
    """Each module can be the first one imported, in a fresh interpreter and without a warning."""
    if place(module) == "redis":
        pytest.importorskip("redis")
    if place(module) == "cli":
        pytest.importorskip("typer")
    fresh(f"import {module}")


def test_data_comes_without_aiohttp():
    """Models, errors and results, and the package itself, load nothing that sends (a29)."""
    data = ", ".join(f"leadstatus_async.{name}" for name in sorted(DATA))
    loaded = fresh(f"import sys, {data}; print(*sys.modules)").split()
    assert "leadstatus_async.errors" in loaded
    assert not {"aiohttp", "aiolimiter", "yarl", "multidict", "redis"} & set(loaded)


def test_library_is_silent_by_default():
    """The package's logger has a NullHandler: nothing is printed unless the user asks for it."""
    code = "import leadstatus_async, logging; print(logging.getLogger('leadstatus_async').handlers)"
    assert "NullHandler" in fresh(code)


def test_floor_of_aiohttp():
    """No aiohttp below 3.14.4 is allowed: older ones break reused connections and leak headers (a1)."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert "aiohttp>=3.14.4,<4" in project["dependencies"]
    assert project["requires-python"] == ">=3.11"


def test_every_module_says_what_it_is_for():
    """Each module but empty ones opens with a docstring."""
    for name, path in MODULES.items():
        text = path.read_text("utf-8")
        assert not text or ast.get_docstring(ast.parse(text)), name


REFERENCE = re.compile(r"\(((?:[a-h]\d{1,2})(?:, [a-h]\d{1,2})*)\)")


def test_every_reference_is_in_the_repository():
    """A comment that names a pitfall, as (a5) does, names one of docs/pitfalls.md, and no paper elsewhere."""
    known = set(
        re.findall(
            r"^- \*\*([a-h]\d{1,2})\.\*\*", (ROOT / "docs/pitfalls.md").read_text("utf-8"), re.MULTILINE
        )
    )
    assert len(known) > 50
    files = [*PACKAGE.rglob("*.py"), *(ROOT / "tests").rglob("*.py"), *(ROOT / "docs").rglob("*.md")]
    for path in [*files, *(ROOT / "benchmarks").rglob("*.py")]:
        text = path.read_text("utf-8")
        named = {name for found in REFERENCE.findall(text) for name in found.split(", ")}
        assert named <= known, path
        assert not re.search(r"\b(DESIG[N]|PITFALL[S]|HOUS[E])\b", text), path
