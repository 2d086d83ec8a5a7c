"""What an installation is like before anybody has set anything: no known password, nothing that others may read.

CVE-2023-43791 (a secret key in the source), CVE-2022-36551 (open sign-up), MONAILabel's authentication that is off.
"""

from __future__ import annotations

import re
from pathlib import Path

from backend.credentials import LOGIN, ensure_credentials, ensure_dashboard_token
from backend.label_studio_server import EmbeddedLabelStudio
from backend.store.secrets import KeyRing

ROOT = Path(__file__).resolve().parents[2]


def generated(state: Path) -> dict[str, str]:
    made = ensure_credentials(state)
    KeyRing.at(state / "key")
    return {
        "password": made.label_studio_password,
        "token": made.label_studio_token,
        "door": ensure_dashboard_token(state),
        "key": (state / "key").read_text(),
    }


def test_no_two_installations_share_a_secret_and_none_is_short(tmp_path: Path) -> None:
    one, other = generated(tmp_path / "one"), generated(tmp_path / "other")
    assert generated(tmp_path / "one") == one  # made once
    for name, secret in one.items():
        assert secret != other[name]
        assert len(secret.strip()) >= 16, name
    assert len({*one.values()}) == 4


def test_what_is_generated_is_for_its_owner_alone(tmp_path: Path) -> None:
    state = tmp_path / "state"
    generated(state)
    for path in state.iterdir():
        assert path.stat().st_mode & 0o077 == 0, path.name


def test_our_label_studio_lets_nobody_sign_up_and_has_no_known_password(tmp_path: Path) -> None:
    made = ensure_credentials(tmp_path)
    server = EmbeddedLabelStudio(tmp_path, program=Path("label-studio"), host="127.0.0.1", port=8080, credentials=made)
    environment = server.environment({})
    assert environment["LABEL_STUDIO_DISABLE_SIGNUP_WITHOUT_LINK"] == "true"
    assert environment["LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED"] == "false"
    assert environment["LABEL_STUDIO_DEBUG"] == "false"
    assert environment["LABEL_STUDIO_USERNAME"] == LOGIN
    assert environment["LABEL_STUDIO_PASSWORD"] == made.label_studio_password
    assert made.label_studio_password not in repr(made)
    assert "127.0.0.1" in server.command


SECRET_LITERAL = re.compile(r"""(?i)\b(password|secret|token|api_key)\s*[:=]\s*["'][^"'\s{}<>$]{8,}["']""")


def test_no_source_holds_a_secret() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for package in ("backend", "mpamatch", "workers", "migrations")
        for path in (ROOT / package).rglob("*")
        if path.suffix in {".py", ".toml", ".html", ".js", ".ini"}
        for match in SECRET_LITERAL.finditer(path.read_text(encoding="utf-8"))
    ]
    assert found == []
    assert SECRET_LITERAL.search('SECRET = "hunter2hunter2"')
