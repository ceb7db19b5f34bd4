"""What the documentation shows is what happens: the README's examples, the docstrings', and the test command."""

from __future__ import annotations

import doctest
import importlib
import operator
import re
from pathlib import Path

import pytest
from anysoft_conformance.subjects import DRAWN, SUBJECTS

import anysoft

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"


def test_the_examples_of_the_readme() -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    failed, tried = doctest.testfile(str(README), module_relative=False)
    assert tried >= 12
    assert failed == 0


MODULES = [f"anysoft.{path.stem}" for path in sorted((ROOT / "anysoft").glob("[a-z]*.py"))]


@pytest.mark.parametrize("module", [*MODULES, "anysoft_conformance.judgement"])
def test_the_examples_of_the_docstrings(module: str) -> None:
    failed, tried = doctest.testmod(importlib.import_module(module))
    assert tried
    assert failed == 0


def test_every_public_function_documents_itself() -> None:
    for name in (*anysoft.__all__, *SUBJECTS):
        text = operator.attrgetter(name)(anysoft).__doc__
        assert text, name
        if name in {*SUBJECTS, *DRAWN}:
            for section in ("Parameters", "Returns", "Notes", "Special values", "Raises", "References", "Examples"):
                assert section in text, f"{name} says nothing of {section}"


def test_ci_runs_the_test_command_of_the_readme() -> None:
    commands = re.findall(r"^    (python3 -m venv .+)$", README.read_text(), re.MULTILINE)
    assert len(commands) == 2, "the README has two commands"
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    assert commands[1] in lines
    assert "anysoft compare" in commands[0]
