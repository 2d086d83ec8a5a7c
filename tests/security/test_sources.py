"""Rules that every line of the product keeps, read from its syntax: each with the smallest text that breaks it.

No pickle (CVE-2025-5173, CVE-2025-58756, GHSA-89gg-p5r5-q6r4, GHSA-wg9g-w2j2-8pgr), no archive unpacked unseen
(CVE-2025-58755, CVE-2026-21851), no shell (GHSA-rghg-q7wp-9767), no secret compared with `==`, no redirect followed
(CVE-2022-36551), no unescaped text in a page (CVE-2025-25296).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("mpamatch", "backend", "workers", "migrations", "benchmarks")
FORBIDDEN_MODULES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "jsonpickle"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "subprocess.getoutput"}
FORBIDDEN_CALLS |= {"shutil.unpack_archive", "torch.hub.load", "yaml.load", "yaml.unsafe_load"}
FORBIDDEN_METHODS = {"extractall"}
# Parsers of the standard library that expand entities; ours go through defusedxml.
XML_PARSERS = {"fromstring", "parse", "iterparse", "XMLParser", "XML", "parseString"}
SECRET = re.compile(r"(^|_)(token|secret|password|signature|nonce|cookie|form_token)$")
# Words of a grammar, not of a person: the comparison tells nothing about a secret.
NOT_SECRET = {"SECRET_HEADER"}

Rule = Callable[[ast.Module], Iterator[ast.AST]]


def dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def calls(tree: ast.Module) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield dotted(node.func), node


def given(call: ast.Call, name: str) -> object:
    """The literal given for a keyword; None when it is not given or no literal."""
    values = [k.value.value for k in call.keywords if k.arg == name and isinstance(k.value, ast.Constant)]
    return values[0] if values else None


def no_pickle(tree: ast.Module) -> Iterator[ast.AST]:
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        if any(name.split(".")[0] in FORBIDDEN_MODULES for name in names):
            yield node
    for name, call in calls(tree):
        if name.endswith("torch.load") and given(call, "weights_only") is not True:
            yield call
        if any(k.arg == "allow_pickle" and given(call, "allow_pickle") is not False for k in call.keywords):
            yield call
        if name.endswith(("torch.save", "read_pickle", "to_pickle")):
            yield call


def no_shell_and_no_code_from_text(tree: ast.Module) -> Iterator[ast.AST]:
    for name, call in calls(tree):
        if name in FORBIDDEN_CALLS or given(call, "shell") is True:
            yield call


def no_archive_is_unpacked_unseen(tree: ast.Module) -> Iterator[ast.AST]:
    for name, call in calls(tree):
        if name.rsplit(".", 1)[-1] in FORBIDDEN_METHODS or name == "shutil.unpack_archive":
            yield call


def no_xml_parser_but_defused(tree: ast.Module) -> Iterator[ast.AST]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(("xml.", "lxml")):
            if any(alias.name in XML_PARSERS for alias in node.names) or (node.module or "").startswith("lxml"):
                yield node
        elif isinstance(node, ast.Import) and any(a.name.startswith(("xml.", "lxml")) for a in node.names):
            yield node


def secrets_are_compared_in_constant_time(tree: ast.Module) -> Iterator[ast.AST]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) and any(isinstance(op, ast.Eq | ast.NotEq) for op in node.ops):
            sides = [node.left, *node.comparators]
            if any(isinstance(side, ast.Constant) for side in sides):
                continue
            names = {dotted(side).rsplit(".", 1)[-1] for side in sides if isinstance(side, ast.Name | ast.Attribute)}
            if any(SECRET.search(name) for name in names - NOT_SECRET):
                yield node


def no_redirect_is_followed_and_certificates_are_checked(tree: ast.Module) -> Iterator[ast.AST]:
    for name, call in calls(tree):
        if given(call, "follow_redirects") is True or given(call, "allow_redirects") is True:
            yield call
        if given(call, "verify") is False or name.endswith(("urlopen", "urlretrieve")):
            yield call


RULES: dict[Rule, tuple[str, ...]] = {
    no_pickle: (
        "import pickle",
        "from dill import loads",
        "import torch\ntorch.load('x')",
        "import torch\ntorch.load('x', weights_only=False)",
        "import numpy as np\nnp.load('x', allow_pickle=True)",
        "import torch\ntorch.save({}, 'x')",
    ),
    no_shell_and_no_code_from_text: (
        "import os\nos.system('x')",
        "import subprocess\nsubprocess.run('x', shell=True)",
        "eval('1')",
    ),
    no_archive_is_unpacked_unseen: ("import shutil\nshutil.unpack_archive('x')", "archive.extractall('x')"),
    no_xml_parser_but_defused: (
        "from xml.etree.ElementTree import fromstring",
        "import xml.sax",
        "from lxml import etree",
    ),
    secrets_are_compared_in_constant_time: (
        "x = given == self.token",
        "y = row.password != other",
        "z = signature == s",
    ),
    no_redirect_is_followed_and_certificates_are_checked: (
        "httpx.get(u, follow_redirects=True)",
        "httpx.Client(verify=False)",
        "urllib.request.urlopen(u)",
    ),
}


def sources() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_every_source_keeps_the_rule(rule: Rule) -> None:
    broken = [
        f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
        for path in sources()
        for node in rule(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert broken == []


@pytest.mark.parametrize(
    ("rule", "text"), [(rule, text) for rule, texts in RULES.items() for text in texts], ids=lambda x: str(x)[:40]
)
def test_what_breaks_a_rule_is_noticed(rule: Rule, text: str) -> None:
    assert list(rule(ast.parse(text))) != []


UNESCAPED = re.compile(
    r"\|\s*safe\b|autoescape\s+false|<script(?![^>]*\bsrc=)|\son[a-z]+\s*=|javascript:|style=\"", re.I
)


def test_no_template_prints_unescaped_text_or_holds_a_script() -> None:
    templates = sorted((ROOT / "backend" / "dashboard" / "templates").glob("*.html"))
    assert len(templates) > 5
    for template in templates:
        assert UNESCAPED.search(template.read_text(encoding="utf-8")) is None, template.name
    for text in ("{{ x|safe }}", "<script>x</script>", '<a onclick="x">', "{% autoescape false %}"):
        assert UNESCAPED.search(text), text


def test_no_page_of_ours_writes_html_from_a_script() -> None:
    for script in (ROOT / "backend" / "dashboard" / "assets").glob("*.js"):
        text = script.read_text(encoding="utf-8")
        assert re.search(r"\beval\(|insertAdjacentHTML|document\.write|\.outerHTML\s*=|new Function", text) is None


def test_markup_is_never_made_of_what_came_in() -> None:
    """`Markup(...)` tells the templates to trust a text: only of parts that this code wrote or escaped itself."""
    for path in (ROOT / "backend").rglob("*.py"):
        assert "Markup(" not in path.read_text(encoding="utf-8"), path
