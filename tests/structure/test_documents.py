"""What the documents name exists: files, folders, functions, commands, links, versions."""

from __future__ import annotations

import ast
import re
import tomllib

import pytest
import yaml
from helpers.modules import MODULES, exists, names_of, tree
from helpers.paths import CHECKOUT

DOCUMENTS = sorted(
    str(path.relative_to(CHECKOUT))
    for pattern in ("*.md", "docs/*.md", "data/*.md")
    for path in CHECKOUT.glob(pattern)
)
GUIDES = ("ARCHITECTURE.md", "CONTRIBUTING.md")
ELSEWHERE = (".venv/", "dist/", "coco_panoptic_sample/", "PennFudanPed/")
"""Folders that commands make, or that are not part of the checkout."""


def text(document: str) -> str:
    return (CHECKOUT / document).read_text()


def code(part: str) -> list[str]:
    """What stands between backticks within a line."""
    return re.findall(r"`([^`\n]+)`", part)


def is_path(name: str) -> bool:
    """Whether a piece of code is a file or a folder, and no placeholder for one."""
    return bool(re.fullmatch(r"[\w.*-]+(/[\w.*-]*)+|[\w-]+\.(md|toml|cff|yml)", name)) and not (
        re.search(r"\b(NN|NAME)\b|NN_", name) or name in ELSEWHERE
    )


@pytest.mark.parametrize("document", GUIDES)
def test_files_and_folders_exist(document):
    names = [name for name in code(text(document)) if is_path(name)]
    assert len(names) > 10
    assert [name for name in names if not any(CHECKOUT.glob(name.rstrip("/")))] == []


STEPS = re.findall(r"^\d+\. (`labkit/.+)$", text("ARCHITECTURE.md"), re.MULTILINE)


@pytest.mark.parametrize("step", STEPS)
def test_a_step_of_a_reading_order_names_what_its_file_has(step):
    first, *others = code(step)
    wanted = {name for name in others if re.fullmatch(r"[A-Za-z_]\w*(\.\w+)?", name)}
    if first.endswith(".py"):
        assert wanted <= names_of(CHECKOUT / first)
    else:
        assert not wanted


def test_steps_are_found():
    assert len(STEPS) > 40


def commands() -> set[str]:
    """``run``, ``data``, ``data get``, ...: every command, from the source of the command line."""
    found = set()
    for node in ast.walk(tree(MODULES["labkit.cli.commands"])):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        if called == "app.command":
            found.add(ast.literal_eval(node.args[0]))
        elif called == "app.add_typer":
            group = ast.literal_eval(node.keywords[0].value)
            module = ast.unparse(node.args[0]).removesuffix(".app")
            found |= {group} | {f"{group} {name}" for name in subcommands(f"labkit.cli.{module}")}
    return found


def subcommands(module: str) -> list[str]:
    found = []
    for node in tree(MODULES[module]).body:
        for mark in getattr(node, "decorator_list", []):
            if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "app.command":
                name = mark.args[0] if mark.args else ast.Constant(node.name.replace("_", "-"))
                found.append(ast.literal_eval(name))
    return found


COMMANDS = commands()


def test_commands_are_found():
    assert {"run", "data", "data from-masks", "bench roi-align", "assignment new"} <= COMMANDS


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_exist(document):
    blocks = re.findall(r"^(?: {4})?(?:uv run )?labkit .+$", text(document), re.MULTILINE)
    unknown = []
    for line in [*code(text(document)), *blocks]:
        words = re.match(r"\s*(?:uv run )?labkit ([a-z][a-z0-9-]*)(?: ([a-z][a-z0-9-]*)\b)?", line)
        if words is None:
            continue
        group = any(name.startswith(f"{words[1]} ") for name in COMMANDS)
        name = f"{words[1]} {words[2]}" if group and words[2] else words[1]
        if name not in COMMANDS:
            unknown.append(line)
    assert unknown == []


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_is_in_the_list_of_commands(command):
    group, _, name = command.partition(" ")
    rows = re.findall(rf"^\| `labkit {group}\b.*", text("docs/commands.md"), re.MULTILINE)
    words = [words for row in rows for words in code(row.split(" | ")[0])]
    assert any(re.search(rf"(^|labkit |labkit {group} ){name or group}\b", each) for each in words)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document):
    folder = (CHECKOUT / document).parent
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text(document))
    local = [link for link in links if not re.match(r"https?:", link)]
    assert [link for link in local if not (folder / link).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_what_is_imported_exists(document):
    wanted = re.findall(r"`(labkit(?:\.\w+)+)", text(document))
    for block in re.findall(r"```python\n(.+?)```", text(document), re.DOTALL):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("labkit"):
                wanted += [f"{node.module}.{alias.name}" for alias in node.names]
    assert [name for name in wanted if not exists(name)] == []


def test_the_citation_has_the_version_and_licence_of_the_package():
    project = tomllib.loads(text("pyproject.toml"))["project"]
    citation = yaml.safe_load(text("CITATION.cff"))
    assert citation["version"] == project["version"]
    assert citation["license"] == project["license"]
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()


def test_ci_tests_every_python_that_the_package_supports():
    workflow = yaml.safe_load(text(".github/workflows/ci.yml"))
    versions = workflow["jobs"]["tests"]["strategy"]["matrix"]["python-version"]
    required = tomllib.loads(text("pyproject.toml"))["project"]["requires-python"]
    lowest, beyond = (int(minor) for minor in re.findall(r"3\.(\d+)", required))
    assert versions == [f"3.{minor}" for minor in range(lowest, beyond)]
    runs = [step.get("run") for job in workflow["jobs"].values() for step in job["steps"]]
    assert {".ci/run", ".ci/run lint"} <= set(runs)
    assert workflow["jobs"]["tests"]["needs"] == "lint"


@pytest.mark.parametrize(
    "path", sorted((CHECKOUT / ".github/ISSUE_TEMPLATE").glob("*.yml")), ids=lambda path: path.name
)
def test_issue_templates_have_what_github_asks_for(path):
    form = yaml.safe_load(path.read_text())
    if path.name == "config.yml":
        return
    assert {"name", "description", "body"} <= form.keys()
    fields = [field["attributes"]["label"] for field in form["body"]]
    assert len(fields) == len(set(fields)) > 0
    assert {field["type"] for field in form["body"]} <= {"input", "textarea"}
