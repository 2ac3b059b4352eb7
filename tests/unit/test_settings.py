"""Where settings come from, and which one wins."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from services.settings import data_home, load, run_home


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Does something."""

    listen: str = "unix:/run/x.sock"
    data_dir: Path = field(default_factory=lambda: Path("/data"))
    token_file: Path | None = None
    max_things: int = 5
    tick_seconds: float = 1.0
    demo: bool = False


def loaded(*argv: str, **env: str) -> Settings:
    """The settings of a service called beemesh-thing."""
    return load(Settings, program="beemesh-thing", argv=argv, env=env)


@pytest.fixture
def config(tmp_path: Path) -> Callable[[str], str]:
    """Write a TOML file and give its path."""

    def write(text: str) -> str:
        (tmp_path / "beemesh.toml").write_text(text)
        return str(tmp_path / "beemesh.toml")

    return write


def test_without_any_word_the_defaults_hold() -> None:
    """No flag, no environment, no file: the defaults."""
    assert loaded() == Settings()


def test_a_flag_beats_the_environment_beats_the_services_table_beats_the_file(config: Callable[[str], str]) -> None:
    """Each source overrides the one below it, field by field."""
    path = config(
        'listen = "file"\nmax_things = 1\ntick_seconds = 1.5\ndemo = true\n'
        '[thing]\nlisten = "table"\nmax_things = 2\ntick_seconds = 2.5\n'
    )
    found = loaded("--config", path, "--listen", "flag", BEEMESH_LISTEN="env", BEEMESH_MAX_THINGS="3")
    assert found == Settings(listen="flag", max_things=3, tick_seconds=2.5, demo=True)
    assert loaded(BEEMESH_CONFIG=path).listen == "table"


def test_text_becomes_what_the_field_is() -> None:
    """Numbers, truth values and paths are read from text; `~` is the user's home."""
    found = loaded("--tick-seconds", "0.5", "--demo", "true", "--data-dir", "~/x", BEEMESH_TOKEN_FILE="/t")
    assert (found.tick_seconds, found.demo, found.data_dir) == (0.5, True, Path.home() / "x")
    assert found.token_file == Path("/t")


def test_an_empty_word_is_a_word() -> None:
    """An empty flag or variable is a value, not the absence of one."""
    assert loaded("--listen", "").listen == ""
    assert loaded(BEEMESH_LISTEN="").listen == ""


def refusal(capsys: pytest.CaptureFixture[str], *argv: str, **env: str) -> str:
    """What the program says when it ends with 2 for its settings: one line."""
    with pytest.raises(SystemExit) as caught:
        loaded(*argv, **env)
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("beemesh-thing: settings: ")
    assert said.count("\n") == 1
    return said


@pytest.mark.parametrize(
    ("argv", "env", "said"),
    [
        (("--max-things", "many"), {}, "max_things"),
        ((), {"BEEMESH_DEMO": "perhaps"}, "demo"),
        (("--config", "/nowhere/beemesh.toml"), {}, "/nowhere/beemesh.toml"),
    ],
)
def test_a_wrong_setting_is_one_line_that_names_it(
    argv: tuple[str, ...], env: dict[str, str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A value that does not fit ends the program with 2 and one line that says which setting."""
    assert said in refusal(capsys, *argv, **env)


def test_an_unknown_key_is_refused_in_the_services_own_table_only(
    config: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Top-level keys are shared by all services and may be unknown to one; its own table may not hold any."""
    assert loaded("--config", config('other = 1\n[podman]\nsocket = "x"\n')) == Settings()
    said = refusal(capsys, "--config", config("[thing]\nspeed = 1\n"))
    assert "unknown setting speed; known: data_dir, demo," in said


@pytest.mark.parametrize("text", ["listen = ", "thing = 1\n", 'max_things = "many"\n'])
def test_a_broken_file_is_one_line(config: Callable[[str], str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Broken TOML, or a table that is none, ends the program with 2 and one line."""
    assert refusal(capsys, "--config", config(text))


def test_a_flag_that_does_not_exist_ends_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown or shortened flag is a wrong use: exit code 2, and stderr says which."""
    for flag in ("--speed", "--max"):
        with pytest.raises(SystemExit) as caught:
            loaded(flag, "9")
        assert caught.value.code == 2
        assert flag in capsys.readouterr().err


def test_print_config_shows_what_is_in_force(capsys: pytest.CaptureFixture[str]) -> None:
    """`--print-config` prints every setting as JSON, sources applied, and ends with 0."""
    with pytest.raises(SystemExit) as caught:
        loaded("--print-config", "--listen", "flag", BEEMESH_MAX_THINGS="3")
    assert caught.value.code == 0
    assert json.loads(capsys.readouterr().out) == {
        "listen": "flag",
        "data_dir": "/data",
        "token_file": None,
        "max_things": 3,
        "tick_seconds": 1.0,
        "demo": False,
    }


def test_help_names_flag_variable_and_default(capsys: pytest.CaptureFixture[str]) -> None:
    """`--help` says for each setting its flag, its variable and its default."""
    with pytest.raises(SystemExit):
        loaded("--help")
    text = " ".join(capsys.readouterr().out.split())
    assert "Does something." in text
    assert "--max-things" in text
    assert "(BEEMESH_MAX_THINGS) default: 5" in text


def test_root_has_the_systems_places_and_others_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Data and sockets live in the system's directories for root, in the XDG ones for others."""
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert (data_home({}), run_home({})) == (Path("/var/lib/beemesh"), Path("/run/beemesh"))
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    env = {"XDG_STATE_HOME": "/home/u/state", "XDG_RUNTIME_DIR": "/run/user/1000"}
    assert (data_home(env), run_home(env)) == (Path("/home/u/state/beemesh"), Path("/run/user/1000/beemesh"))
    assert data_home({}) == Path.home() / ".local/state/beemesh"
    assert str(run_home({})).startswith("/tmp/beemesh-1000")
