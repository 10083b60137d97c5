from __future__ import annotations

from pathlib import Path

import pytest

from backend_core.errors import RequestError
from core_runtime.rules.settings import Settings, settings_from

ROOT = Path("/srv/rumi")


def make(environment=None, arguments=(), uid=1000) -> Settings:
    return settings_from(environment or {}, list(arguments), project_root=ROOT, working_dir=Path("/home/u"), uid=uid)


def test_defaults_are_those_of_the_specification() -> None:
    settings = make()
    assert (settings.home, settings.api_port, settings.web_port, settings.isolation) == (ROOT, 8765, 5000, "auto")
    assert settings.token_file == ROOT / "user_data/permissions/.api_token"
    assert settings.packs_dir == ROOT / "ecosystem/packs"


def test_arguments_win_over_the_environment() -> None:
    settings = make({"RUMI_API_PORT": "9000", "RUMI_HOME": "/a", "RUMI_ISOLATION": "docker"}, ["--api-port", "9001", "--home=b/../c"])
    assert (settings.api_port, settings.home, settings.isolation) == (9001, Path("/home/u/c"), "docker")


def test_empty_variables_count_as_unset() -> None:
    assert make({"RUMI_API_PORT": "", "RUMI_ISOLATION": ""}) == make()


@pytest.mark.parametrize("text", ["0", "65536", "-1", "80 ", "８７６５", "1e3", "999999999999"])
def test_a_port_is_a_plain_number_in_range(text: str) -> None:
    with pytest.raises(RequestError) as caught:
        make({}, [f"--api-port={text}"])
    assert caught.value.code == "port_invalid"


def test_equal_ports_clash_also_when_one_is_a_default() -> None:
    with pytest.raises(RequestError) as caught:
        make({}, ["--web-port", "8765"])
    assert caught.value.code == "ports_clash"
    assert "--web-port 8766" in caught.value.hint
    with pytest.raises(RequestError) as caught:
        make({}, ["--web-port", "65535", "--api-port", "65535"])
    assert "65534" in caught.value.hint


@pytest.mark.parametrize(("arguments", "code"), [(["--what"], "argument_unknown"), (["--home"], "argument_incomplete"), (["--home="], "argument_incomplete"), (["--isolation", "none"], "isolation_unknown")])
def test_unusable_arguments_are_named(arguments: list[str], code: str) -> None:
    with pytest.raises(RequestError) as caught:
        make({}, arguments)
    assert caught.value.code == code


def test_the_run_folder_depends_on_the_home_alone_and_fits_a_socket_path() -> None:
    one, other = make({"RUMI_HOME": "/a/./b/.."}), make({"RUMI_HOME": "/a/"})
    assert one.run_dir == other.run_dir != make().run_dir
    assert make({"XDG_RUNTIME_DIR": "/run/user/1000"}).run_dir.parent == Path("/run/user/1000")
    assert make({"XDG_RUNTIME_DIR": "relative"}).run_dir == make().run_dir
    assert make(uid=0).run_dir.parent == Path("/run")
    assert make().run_dir.name.startswith("rumi-1000-")
    assert len(str(make().socket_path)) < 60
    assert make().bus_dir.parent == make().run_dir.parent
    assert make().bus_dir != make().run_dir


def test_unused_packs_are_stopped_only_if_the_operator_says_so() -> None:
    assert make().idle_stop_s == 0.0
    assert make(arguments=["--idle-stop", "10m"]).idle_stop_s == 600.0
    assert make({"RUMI_IDLE_STOP": "90s"}).idle_stop_s == 90.0
    for wrong in ("soon", "500ms", "-1s", "10"):
        with pytest.raises(RequestError) as caught:
            make(arguments=["--idle-stop", wrong])
        assert caught.value.code == "idle_stop_invalid"


@pytest.mark.parametrize(
    ("chosen", "isolation"), [({}, "docker"), ({"RUMI_ISOLATION": "auto"}, "docker"), ({"RUMI_ISOLATION": "embedded"}, "embedded")]
)
def test_a_runtime_of_the_engine_means_docker_unless_something_else_is_said(chosen, isolation):
    settings = settings_from({"RUMI_DOCKER_RUNTIME": "runsc", **chosen}, [], project_root=ROOT, working_dir=ROOT, uid=0)
    assert (settings.docker_runtime, settings.isolation) == ("runsc", isolation)
