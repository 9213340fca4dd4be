"""The command line as a user meets it: the installed `medsd`, its exit codes and its one line on standard
error.
"""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from command import assert_refused, medsd, medsd_here

import medsd_ray
from medsd_ray.cli.data import SourceKind, UncertainFinding
from medsd_ray.cli.evaluation import ProtocolName
from medsd_ray.cli.images import InsertionMethod

VERBS = [
    "prepare",
    "encode",
    "train",
    "tune",
    "generate",
    "predict",
    "evaluate",
    "localize",
    "insert",
    "augment",
    "prompts",
    "export",
    "demo",
    "paper",
    "submit",
    "status",
    "logs",
    "cancel",
    "download",
    "dashboard",
]


@pytest.mark.parametrize("words", [[], ["-h"], ["--help"]], ids=lambda words: " ".join(words) or "bare")
def test_help_names_every_verb_in_the_order_of_use(words: list[str]):
    result = medsd(*words)
    assert result.returncode == 0
    listed = result.stdout.partition("Commands:\n")[2].splitlines()
    assert [line.split()[0] for line in listed] == [*VERBS, "reader-study"]


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_has_help_with_an_example(verb: str):
    result = medsd_here(verb, "--help")
    assert result.returncode == 0
    assert f"Example: medsd {verb} " in result.stdout


def test_the_version_is_the_packages():
    result = medsd("--version")
    assert (result.returncode, result.stdout) == (0, f"{importlib.metadata.version('medsd')}\n")
    assert medsd_ray.__version__ == result.stdout.strip()


def test_a_shell_completes_verbs_and_options():
    """As bash asks for the words that may follow."""
    asked = {"_MEDSD_COMPLETE": "complete_bash", "COMP_CWORD": "1"}
    assert medsd(**asked, COMP_WORDS="medsd prep").stdout.split() == ["prepare"]
    asked["COMP_CWORD"] = "2"
    assert medsd(**asked, COMP_WORDS="medsd prepare --shard").stdout.split() == ["--shard-size"]


@pytest.mark.parametrize("verb", ["new", "serve", "report"])
def test_the_reader_studys_verbs_have_an_example(verb: str):
    result = medsd_here("reader-study", verb, "--help")
    assert result.returncode == 0 and f"Example: medsd reader-study {verb} " in result.stdout


def test_the_choices_of_options_are_those_of_the_modules_that_take_them():
    from medsd_ray.data.sources.findings import Uncertain
    from medsd_ray.data.sources.kinds import KINDS
    from medsd_ray.evaluation.insert import METHODS
    from medsd_ray.evaluation.protocols import PROTOCOLS

    assert set(get_args(SourceKind)) == set(KINDS) and get_args(UncertainFinding) == get_args(Uncertain)
    assert get_args(InsertionMethod) == METHODS and get_args(ProtocolName) == tuple(PROTOCOLS)


def test_help_is_quick_because_it_loads_nothing_heavy():
    code = (
        "import sys, json\n"
        "sys.argv = ['medsd', '--help']\n"
        "from medsd_ray.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'ray', 'diffusers', 'transformers', 'boto3', 'numpy'}\n"
        "print(json.dumps(sorted(heavy & set(sys.modules))))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert json.loads(result.stdout.splitlines()[-1]) == []


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["no-such-verb"], "no-such-verb"),
        (["prepare", "only-a-source"], "dest"),
        (["train", "run.yaml", "--no-such-option"], "--no-such-option"),
        (["prepare", "a", "b", "--size", "big"], "--size"),
        (["prepare", "a", "b", "--kind", "nifti"], "nifti"),
        (["train", "absent.yaml"], "absent.yaml"),
    ],
)
def test_wrong_words_are_one_line_and_exit_2(words: list[str], named: str):
    result = medsd(*words)
    line = assert_refused(result, named)
    assert result.stderr == line + "\n"


@pytest.mark.parametrize("verb", [("generate",), ("insert", "--real", "shards")], ids=lambda words: words[0])
@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--guidance-scale", "0.5", "guidance_scale is 0.5; choose from 1 (no guidance) to 100"),
        ("--steps", "0", "steps is 0; choose from 1 to 1000"),
        ("--scheduler", "euler", "scheduler 'euler' is not known; choose dpm-solver++ or ddim"),
    ],
)
def test_settings_of_images_out_of_bounds_are_refused_at_once(
    tmp_path: Path, verb: tuple[str, ...], option: str, value: str, said: str
):
    name, *more = verb
    result = medsd_here(name, "medsd-small", *more, "--prompt", "x", "--out", tmp_path / "out", option, value)
    assert result.stderr == f"medsd: {said}\n" and result.returncode == 2
    assert not (tmp_path / "out").exists()
