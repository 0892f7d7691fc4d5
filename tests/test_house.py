"""The project's own rules, checked by the tools that know them and by reading the source."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import lightexp
from tests.system_packages import PACKAGES

ROOT = Path(__file__).parents[1]
PACKAGE = Path(lightexp.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
SCRIPTS = sorted((ROOT / "experiments").rglob("*.py"))
Function = ast.FunctionDef | ast.AsyncFunctionDef

PRINTS = (
    ("printing.py", "print(strip_controls("),
    ("formatting.py", "rich.markup"),
    ("main.py", "print(HELP"),
    ("main.py", "print(f'lightexp {__version__}"),
    ("completion.py", "print(_SCRIPTS"),
    ("run_trials.py", "print('lightexp:', strip_controls("),
    ("fetch.py", "Console(stderr=True)"),
    ("image_reader.py", "Console(stderr=True)"),
)
"""Calls that print, or that escape for rich, by their files."""
MAX_FILE_LINES, MAX_FUNCTION_LINES, MAX_PARAMETERS = 350, 50, 6
RETIRED = {
    "Aside",
    "Begun",
    "Claims",
    "Corner",
    "Crew",
    "Finished",
    "FlatModel",
    "FlatOp",
    "FlatTensor",
    "Job",
    "Kept",
    "Launched",
    "Mirrored",
    "Objective",
    "Operated",
    "Outlook",
    "Show",
    "Space",
    "Standing",
    "Stored",
    "Structure",
    "Study",
    "Surgery",
    "Ties",
    "Untried",
    "_Kinds",
    "_Patient",
    "_Tpe",
    "alone_with_ctrl_c",
    "answers",
    "apart",
    "awaited",
    "chosen",
    "close_killed",
    "composed",
    "explained",
    "fixed",
    "foreseeable",
    "foreseen",
    "forget",
    "gone",
    "hopeless",
    "look_in",
    "makes",
    "marked",
    "opened",
    "origin",
    "passed_over",
    "planned",
    "put_back",
    "put_off",
    "settle",
    "settled",
    "shown",
    "standing",
    "surplus",
    "tidy",
    "told",
    "touches",
    "unforeseen",
    "untimed",
    "without",
}
"""Names that were replaced by the field's terms, and must not come back."""
PUBLIC_UNDERSCORES = {"_asdict", "_exit", "_fields", "_make", "_replace", "_repr_html_", "_target_"}
"""Documented names of other libraries that begin with an underscore."""


ORACLES = {
    "tests/backend/test_pruning.py": "tfmot's own update of a mask, step by step",
    "tests/tracking/test_mlflow_payload.py": "MLflow's own validation of names",
}
"""Tests that compare with a private function of another library, and the function."""


def run_tool(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a tool that is installed beside this Python, in the repository."""
    program = str(Path(sys.executable).parent / command[0])
    return subprocess.run([program, *command[1:]], cwd=ROOT, capture_output=True, text=True, check=False)


def functions_of(path: Path) -> Iterator[Function]:
    """Yield every function and method of a file, nested ones too."""
    yield from (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, Function))


def place(path: Path, node: ast.AST) -> str:
    """Return `file:line` of a node, for messages."""
    return f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"


def defined_names(tree: ast.Module) -> set[str]:
    """Return the names that a module defines: functions, classes, assigned attributes and fields."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"):
            names.add(node.attr)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names


def is_private(name: str) -> bool:
    """Tell whether a name is private by its underscore, and not one that its library documents."""
    return name.startswith("_") and not name.startswith("__") and name not in PUBLIC_UNDERSCORES


@pytest.mark.parametrize(
    "command",
    [
        ("lint-imports", "--no-cache"),
        ("ruff", "check", "--no-cache", "."),
        ("ruff", "format", "--no-cache", "--check", "."),
        # Public modules, classes, methods and functions have docstrings; private ones and tests need none.
        ("ruff", "check", "--no-cache", "--isolated", "--select", "D100,D101,D102,D103", "lightexp"),
        ("mypy",),
    ],
    ids=["imports", "lint", "format", "docstrings", "types"],
)
@pytest.mark.slow
def test_tool_finds_nothing(command: tuple[str, ...]) -> None:
    done = run_tool(*command)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_layer_is_under_the_import_contracts() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = {f"lightexp.{path.parent.name}" for path in PACKAGE.glob("*/__init__.py")}
    assert layers == set(contracts[0]["layers"])
    assert layers == {*contracts[1]["source_modules"], "lightexp.backend"}


@pytest.mark.parametrize("path", [*MODULES, *TESTS, *SCRIPTS], ids=lambda path: str(path.relative_to(ROOT)))
def test_file_and_its_functions_are_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MAX_FILE_LINES
    for function in functions_of(path):
        length = (function.end_lineno or 0) - function.lineno + 1
        assert length <= MAX_FUNCTION_LINES, f"{place(path, function)} {function.name} has {length} lines"


def test_functions_take_few_parameters() -> None:
    many = []
    for path in MODULES:
        for function in functions_of(path):
            arguments = function.args
            names = [one.arg for one in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
            count = len([name for name in names if name not in ("self", "cls")])
            if count > MAX_PARAMETERS:
                many.append(f"{place(path, function)} {function.name} takes {count}")
    assert many == []


def test_no_two_classes_share_a_name() -> None:
    names = Counter(
        node.name
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
    )
    assert [name for name, count in names.items() if count > 1] == []


def test_no_retired_name_comes_back() -> None:
    retired = []
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and node.name in RETIRED:
                retired.append(f"{place(path, node)} {node.name}")
    assert retired == []


def test_private_names_of_libraries_are_in_compat_only() -> None:
    used = []
    for path in MODULES:
        if path == PACKAGE / "core" / "compat.py":
            continue
        tree = ast.parse(path.read_text())
        own = defined_names(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and is_private(node.attr) and node.attr not in own:
                used.append(f"{place(path, node)} {ast.unparse(node)}")
            elif isinstance(node, ast.ImportFrom) and any(map(is_private, (node.module or "").split("."))):
                used.append(f"{place(path, node)} from {node.module}")
    assert used == []


def test_one_module_prints() -> None:
    """What is printed goes through the functions that strip control characters."""
    wrong = []
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("print", "Console"):
                wrong.append((path.name, ast.unparse(node)))
            elif isinstance(node, ast.ImportFrom) and node.module == "rich.markup":
                wrong.append((path.name, node.module))
    for name, call in PRINTS:
        wrong = [(path, text) for path, text in wrong if not (path == name and text.startswith(call))]
    assert wrong == []


def test_json_is_written_by_one_function() -> None:
    pattern = re.compile(r"\bjson\.dumps?\(|\bJSONEncoder\b")
    writers = {path.name for path in MODULES if pattern.search(path.read_text(encoding="utf-8"))}
    assert writers == {"json_text.py"}  # `encode_json`, which writes neither NaN nor infinities


def test_tests_reach_no_private_name() -> None:
    used = []
    for path in TESTS:
        if path.name.startswith("test_compat") or str(path.relative_to(ROOT)) in ORACLES:
            continue
        tree = ast.parse(path.read_text())
        own = defined_names(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and is_private(node.attr) and node.attr not in own:
                used.append(f"{place(path, node)} {ast.unparse(node)}")
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lightexp"):
                used += [f"{place(path, node)} {one.name}" for one in node.names if is_private(one.name)]
            elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("setattr") and len(node.args) > 1:
                name = node.args[1]
                if isinstance(name, ast.Constant) and isinstance(name.value, str) and is_private(name.value):
                    used.append(f"{place(path, node)} {name.value}")
    assert used == []


def test_test_names_are_short_and_unique_in_their_file() -> None:
    wrong = []
    for path in TESTS:
        names = [node.name for node in ast.parse(path.read_text()).body if isinstance(node, Function)]
        tests = [name for name in names if name.startswith("test_")]
        wrong += [f"{path.name}: {name}" for name in tests if len(name) >= 60]
        wrong += [f"{path.name}: {name} twice" for name, count in Counter(tests).items() if count > 1]
    assert wrong == []


def opens_text_by_locale(call: ast.Call) -> bool:
    """Tell whether a call reads or writes text without naming its encoding, which is then the locale's."""
    name = ast.unparse(call.func)
    keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    if "encoding" in keywords:
        return False
    if name in ("open", "os.fdopen"):
        return len(call.args) < 2 or "b" not in ast.unparse(call.args[1])
    if name.endswith(".open") and "fileobj" not in keywords:  # of a path, whose first argument is the mode
        return not call.args or re.fullmatch("'[rwxat+]+'", ast.unparse(call.args[0])) is not None
    return name.endswith((".read_text", ".write_text")) or "True" in map(keywords.get, ("text", "universal_newlines"))


def test_text_is_read_and_written_as_utf_8() -> None:
    calls = [
        f"{place(path, node)} {ast.unparse(node)}"
        for path in [*MODULES, *SCRIPTS]
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and opens_text_by_locale(node)
    ]
    assert calls == []


def test_ci_installs_every_package_that_a_test_names() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    listed = re.search(r'^packages="([^"]*)"', script, re.MULTILINE)
    assert listed is not None
    assert set(listed[1].split()) == PACKAGES
    skips = {name for path in TESTS for name in re.findall(r"Debian's package ([a-z0-9.+-]+)", path.read_text())}
    assert skips <= PACKAGES


def test_root_has_no_other_folders() -> None:
    """Commands and tests leave nothing in the repository, such as the `mlruns` of an MLflow without a place."""
    folders = {path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")}
    made = {"build", "dist", "outputs"} | {name for name in folders if name.endswith((".egg-info", "__pycache__"))}
    assert folders - made == {"conf", "experiments", "lightexp", "tests"}


def test_import_loads_nothing_heavy() -> None:
    code = (
        "import sys, lightexp\n"
        "heavy = ['tensorflow', 'tf_keras', 'tensorflow_model_optimization', 'ai_edge_litert', 'mlflow', 'numpy', "
        "'pydantic']\n"
        "print([name for name in heavy if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_only_the_backend_loads_tensorflow() -> None:
    modules = [
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        for path in MODULES
        if path.parent.name != "backend" and path.name != "__main__.py"
    ]
    code = "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)\n"
    code += "print([m for m in ('tensorflow', 'tf_keras', 'tensorflow_model_optimization') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code, *modules], capture_output=True, text=True, check=True)
    assert len(modules) > 40
    assert done.stdout == "[]\n"
