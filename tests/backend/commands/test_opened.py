import json

import pytest

from backend.commands.opened import show


def test_a_name_with_brackets_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    show([{"image": "case[/b] [red].png"}], ("image",), as_json=False, title="queue")
    assert "case[/b] [red].png" in capsys.readouterr().out


def test_json_is_alone_on_the_output(capsys: pytest.CaptureFixture[str]) -> None:
    show([{"image": "a[/b].png"}], ("image",), as_json=True, title="queue")
    assert json.loads(capsys.readouterr().out) == [{"image": "a[/b].png"}]
