"""The docs say what the product does: settings, commands, words, links and figures are read here and compared."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.settings import Settings
from backend.store.tables import Base
from tests.contracts.reference import MADE, ROOT, commands, entry_names, filled, takes_json

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
# One name each, as the glossary has them; it may hold more.
WORDS = [
    *("image", "tile", "view", "class", "ignore", "mask", "prediction", "confidence", "tau", "pseudo-label", "region"),
    *("score", "queue", "entry", "task", "annotation", "pool", "split", "job", "wake-up", "lease", "run", "recipe"),
    *("checkpoint", "encoder", "decoder", "head", "prototype", "model", "candidate", "gate", "verdict", "champion"),
    *("blob", "profile"),
]
# Where a machine or its owner would show. Written in two parts, so that this file does not hold them itself.
FOREIGN = [
    "/wo" + "rk/",
    "/ro" + "ot/",
    "/ho" + "me/",
    "/tm" + "p/w/",
    "py" + "pi.org",
    "python" + "hosted",
    "index" + "-url",
    "find" + "-links",
    "trusted" + "-host",
]
_LINK = re.compile(r"(!?)\[[^\]]*\]\(([^)\s]+)\)")
_CODE = re.compile(r"^```.*?^```|^    .*?$", re.MULTILINE | re.DOTALL)


def read(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def tracked() -> list[Path]:
    """Every file of the repository; all files of the tree where it is no repository."""
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip("not a git repository: which files belong to it is not known")
    return [ROOT / name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


# Reference pages


@pytest.mark.parametrize("path", MADE)
def test_a_reference_page_is_what_the_code_and_the_figures_make_it(path: str) -> None:
    text = read(path)
    assert filled(text, MADE[path]) == text, "stale: run .venv/bin/python -m tests.contracts.reference"


def test_a_stale_reference_page_is_noticed() -> None:
    path = "docs/settings.md"
    stale = read(path).replace("`head_size`", "`size_of_head`")
    assert filled(stale, MADE[path]) != stale


def test_every_setting_is_documented_with_a_meaning() -> None:
    text = read("docs/settings.md")
    for name, field in Settings.model_fields.items():
        assert f"| `{name}` |" in text
        assert field.description, name


def test_every_setting_has_an_effect() -> None:
    code = "".join(
        file.read_text(encoding="utf-8")
        for package in ("backend", "workers")
        for file in (ROOT / package).rglob("*.py")
    )
    assert [name for name in Settings.model_fields if not re.search(rf"\.{name}\b", code)] == []


def test_every_command_is_documented() -> None:
    headings = set(re.findall(r"^### mpamatch (.+)$", read("docs/commands.md"), re.MULTILINE))
    assert headings == {one.name for one in commands()}
    assert {name.split()[0] for name in headings} == entry_names()


def test_what_every_command_prints_for_machines_is_documented() -> None:
    section = read("docs/commands.md").split("## For machines")[1].split("\n## ")[0]
    documented = set(re.findall(r"^\| `([a-z -]+)` \|", section, re.MULTILINE))
    assert {one.name for one in commands() if takes_json(one.command)} <= documented


def test_every_option_says_what_it_means() -> None:
    silent = [
        f"{one.name} {parameter.opts[0]}"
        for one in commands()
        for parameter in one.command.params
        if parameter.opts[0].startswith("-") and "--help" not in parameter.opts and not parameter.help
    ]
    assert silent == []


# Words


def glossary() -> set[str]:
    return set(re.findall(r"^\*\*(.+?)\*\*", read("docs/glossary.md"), re.MULTILINE))


def test_the_glossary_explains_every_word_once() -> None:
    assert set(WORDS) <= glossary()
    found = re.findall(r"^\*\*(.+?)\*\*", read("docs/glossary.md"), re.MULTILINE)
    assert len(found) == len(set(found))


def test_every_table_is_named_by_a_word_of_the_glossary() -> None:
    names = {name.removeprefix("queue_").replace("_", " ") for name in Base.metadata.tables}
    assert names <= glossary()


# Commands in the text


def commands_in(text: str) -> Iterator[list[str]]:
    """Every `mpamatch ...` in code, as words."""
    for line in re.findall(r"`(mpamatch [^`]+)`|^ {4}(mpamatch .+)$", text, re.MULTILINE):
        yield (line[0] or line[1]).split()[1:]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_command_in_the_text_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", read("Makefile"), re.MULTILINE))
    assert set(re.findall(r"(?:^ {4}|`)make ([a-z]+)", text, re.MULTILINE)) <= targets
    known = {one.name: {o for p in one.command.params for o in (*p.opts, *p.secondary_opts)} for one in commands()}
    for words in commands_in(text):
        name = next((n for n in (" ".join(words[:2]), words[0]) if n in known), None)
        group = words[0] in entry_names() and name is None
        assert name is not None or group, f"mpamatch {' '.join(words)}"
        used = {word.split("=")[0] for word in words if word.startswith("--")}
        assert used <= known.get(name or "", set()) | {"--help"}, f"mpamatch {' '.join(words)}"


def test_the_program_is_called_in_one_way_and_one_page_says_where_it_is() -> None:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    told = [page.name for page in pages for _ in re.findall(r"bin/mpamatch", page.read_text(encoding="utf-8"))]
    assert told == ["quickstart.md"]


def test_a_command_that_does_not_exist_is_noticed() -> None:
    assert list(commands_in("Run `mpamatch fly --high` now.\n\n    mpamatch up --demo\n")) == [
        ["fly", "--high"],
        ["up", "--demo"],
    ]


# Links


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", _CODE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page: Path, *, pictures: bool) -> Iterator[str]:
    for mark, target in _LINK.findall(_CODE.sub("", page.read_text(encoding="utf-8"))):
        if (mark == "!") == pictures and "://" not in target:
            yield target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in links(page, pictures=False):
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), target
        if anchor:
            assert anchor in anchors(there), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_picture_is_there(page: Path) -> None:
    for target in links(page, pictures=True):
        assert (page.parent / target).is_file(), target


def test_every_page_can_be_reached_from_the_readme() -> None:
    seen, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in seen or page.suffix != ".md":
            continue
        seen.add(page)
        waiting += [(page.parent / target.partition("#")[0]).resolve() for target in links(page, pictures=False)]
    assert set(PAGES) <= seen


# What must not be in the repository


def test_no_file_names_a_machine_or_a_package_host() -> None:
    found = []
    for file in tracked():
        try:
            text = file.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found += [f"{file.relative_to(ROOT)}: {word}" for word in FOREIGN if word in text]
    assert found == []


def test_generated_folders_are_not_in_the_repository() -> None:
    outside = {".venv", ".venv-label-studio", "var", "__pycache__"}
    assert [file for file in tracked() if outside & set(file.relative_to(ROOT).parts)] == []
