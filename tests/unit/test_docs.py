"""What the documents say is there: files that they link to, headings, verbs, options, targets of make."""

from __future__ import annotations

import configparser
import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from urllib.parse import unquote

import pytest
import typer
import typer.main
import yaml

from medsd_ray.cli.main import app
from medsd_ray.spec.load import parse_run, parse_study

ROOT = Path(__file__).parents[2]
OUTPUTS = {"demo-out", "paper-out", "work", "dist"}
GITHUB = ".github"
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
ARCHITECTURE = ROOT / "docs/architecture.md"
MERMAID = re.compile(r"^```mermaid\n(.*?)^```", re.M | re.S)
MEDSD = typer.main.get_command(app)


def documents() -> list[Path]:
    """Every .md file of the repository, without what is installed into it or made in it."""

    def ours(path: Path) -> bool:
        folders = path.relative_to(ROOT).parts[:-1]
        return all(f not in OUTPUTS and (f == GITHUB or not f.startswith(".")) for f in folders)

    return sorted(path for path in ROOT.rglob("*.md") if ours(path))


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)


def anchors(path: Path) -> set[str]:
    """The fragments that GitHub gives a document's headings."""
    heads = re.findall(r"^#+ +(.+)$", without_code(path.read_text()), re.M)
    plain = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", head) for head in heads)
    return {re.sub(r"[^\w\- ]", "", head.strip().lower()).replace(" ", "-") for head in plain}


def code_lines(text: str) -> Iterator[str]:
    """The lines of a document's code blocks, fenced or indented, with continued ones in one."""
    fenced, kept = False, []
    for line in text.splitlines():
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            kept.append(line.strip())
    yield from "\n".join(kept).replace("\\\n", " ").splitlines()


def commands(program: str) -> list[tuple[str, str]]:
    """(document, line) of each command of a program in the documents' code blocks."""
    return [
        (str(path.relative_to(ROOT)), line)
        for path in documents()
        for line in code_lines(path.read_text())
        if line.startswith(f"{program} ")
    ]


def parse(words: list[str]) -> None:
    """Parses a command line of `medsd` as a user's is, and calls nothing. Raises click's usage errors."""
    command, context = MEDSD, typer.Context(MEDSD, info_name="medsd")
    while hasattr(command, "commands"):  # a group: `medsd`, `medsd reader-study`
        name, *words = words
        if name.startswith("-"):  # an option of the group, such as --version
            options = {"-h", "--help"} | {one for option in command.params for one in option.opts}
            assert name in options and not words
            return
        assert name in command.commands, f"no verb {name}"
        command = command.commands[name]
    if words != ["--help"]:
        command.make_context("medsd", words, parent=context)


@pytest.mark.parametrize("path", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_lead_to_what_is_there(path: Path):
    wrong = []
    for target in LINK.findall(without_code(path.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = unquote(target).partition("#")
        file = (path.parent / name).resolve() if name else path
        if not file.exists() or not file.is_relative_to(ROOT):
            wrong.append(f"{target}: no such file")
        elif anchor and anchor not in anchors(file):
            wrong.append(f"{target}: no such heading")
    assert not wrong


@pytest.mark.parametrize(("document", "line"), commands("medsd"))
def test_the_verbs_of_the_documents_take_these_words(document: str, line: str):
    parse(shlex.split(line, comments=True)[1:])


def specs() -> list[tuple[str, dict]]:
    """(document, values) of each run and study in the documents' blocks of YAML."""
    blocks = [
        (str(path.relative_to(ROOT)), yaml.safe_load(block))
        for path in documents()
        for block in re.findall(r"^```yaml\n(.*?)^```", path.read_text(), re.M | re.S)
    ]
    return [(document, values) for document, values in blocks if "output" in values]


@pytest.mark.parametrize(("document", "values"), specs())
def test_the_runs_and_studies_of_the_documents_load(document: str, values: dict):
    parse_study(values) if "space" in values else parse_run(values)


def is_target(word: str) -> bool:
    """Whether `make WORD` is in the Makefile, as itself or by a pattern."""
    targets = re.findall(r"^([a-z0-9.%-]+):", (ROOT / "Makefile").read_text(), re.M)
    return any(fnmatch(word, target.replace("%", "*")) for target in targets)


def test_the_documents_name_targets_of_make():
    named = {(where, word) for where, line in commands("make") for word in line.split("#")[0].split()[1:]}
    assert not [(where, word) for where, word in named if "=" not in word and not is_target(word)]


def test_ci_and_the_hooks_run_what_is_there():
    runs = [
        re.sub(r"\$\{\{.*?\}\}", "3.12", step["run"]).split()
        for path in sorted((ROOT / GITHUB / "workflows").glob("*.yml"))
        for job in yaml.safe_load(path.read_text())["jobs"].values()
        for step in job["steps"]
        if "run" in step
    ]
    scripts = [words[1] for words in runs if words[0] == "bash"]
    assert sorted(scripts) == [".ci/run", "scripts/check_release"]
    assert all((ROOT / script).is_file() for script in scripts)
    made = [word for words in runs if words[0] == "make" for word in words[1:] if "=" not in word]
    assert made and all(map(is_target, made))
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    lint = (ROOT / "Makefile").read_text().partition("\nlint:")[2].partition("\n\n")[0]
    for hook in hooks:
        program = Path(hook["entry"].split()[0]).name
        assert hook["entry"].startswith(".venv/bin/") and f"$(BIN)/{program}" in lint


def test_the_picture_of_the_house_has_its_floors():
    """Each line of the contract is a subgraph or a single room of the picture, in the same order."""
    contracts = configparser.ConfigParser()
    contracts.read(ROOT / ".importlinter")
    floors = contracts["importlinter:contract:floors"]["layers"].split("\n")[1:]
    picture = re.findall(
        r"^    (?:subgraph .*?^    end|\w+\[)", MERMAID.search(ARCHITECTURE.read_text())[1], re.M | re.S
    )
    drawn = [set(re.findall(r"(\w+)\[\"?(?! )", floor)) for floor in picture]
    assert drawn == [set(floor.replace("|", " ").split()) for floor in floors if floor.strip()]


def test_the_version_is_one():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == version
    images = [
        (str(path.relative_to(ROOT)), tag)
        for path in [
            ROOT / "Dockerfile",
            *documents(),
            *ROOT.glob("k8s/samples/*"),
            *ROOT.glob("examples/*/*.yaml"),
        ]
        for tag in re.findall(r"medsd:(\d+\.\d+\.\d+)", path.read_text())
    ]
    assert len(images) > 3 and {tag for _, tag in images} == {version}, images


def test_a_release_is_the_version_and_has_its_changes(tmp_path: Path):
    """In a copy of the three files that it reads and is."""
    (tmp_path / "scripts").mkdir()
    script = tmp_path / "scripts/check_release"
    script.write_bytes((ROOT / "scripts/check_release").read_bytes())
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "medsd"\nversion = "1.2.3"\n')
    (tmp_path / "CHANGELOG.md").write_text("## [Unreleased]\n")

    def check(tag: str) -> tuple[int, str]:
        done = subprocess.run(["bash", script, tag], capture_output=True, text=True)
        return done.returncode, done.stderr

    assert check("v1.2.4")[0] == 2 and "v1.2.3" in check("v1.2.4")[1]
    assert check("v1.2.3")[0] == 2 and "CHANGELOG.md" in check("v1.2.3")[1]
    (tmp_path / "CHANGELOG.md").write_text("## [Unreleased]\n\n## [1.2.3] - 2026-12-01\n")
    assert check("v1.2.3") == (0, "")
