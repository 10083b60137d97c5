"""Which Git addresses and names are taken, and that the commands bring nothing of the repository's to life."""

from __future__ import annotations

import pytest

from backend_core.errors import RequestError
from core_runtime.rules.sources import MAX_URL_CHARS, GitSource, commands, git_source

URL = "https://host.example/a/b.git"
LONGEST = "https://h/" + "a" * (MAX_URL_CHARS - 10)


@pytest.mark.parametrize(
    "url",
    [
        URL,
        "https://host.example:8443/a",
        "ssh://git@host.example/a",
        "ssh://host.example:22/a",
        "file:///srv/a",
        LONGEST,
    ],
    ids=lambda url: url[:30],
)
def test_addresses_that_are_taken(url: str) -> None:
    assert git_source(url) == GitSource(url, "HEAD")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("https://host.example:port/a", "is no address"),
        ("https://host.example:99999/a", "is no address"),
        ("https://[::1/a", "is no address"),
        ("https:host.example/a", "with // behind"),
        ("file:/srv/a", "with // behind"),
        ("http://host.example/a", "'http'"),
        ("git://host.example/a", "'git'"),
        ("ext::sh -c id", "'ext'"),
        ("host.example/a", "'none'"),
        ("-uhost", "'none'"),
        (LONGEST + "a", "too long"),
        ("https://host.example/a b", "too long"),
        ("https://host.example/a\u00a0b", "too long"),
        ("https://host.example/\x7f", "too long"),
        ("https://me:word@host.example/a", "password"),
        ("https://me:@host.example/a", "password"),
        ("file://host.example/a", "no host"),
        ("https:///a", "names no host"),
        ("ssh://-oProxyCommand=x/a", "names no host"),
        ("ssh://-l@host.example/a", "names no host"),
        ("https://host.example", "names no repository"),
        ("https://host.example//", "names no repository"),
        ("file:///", "names no repository"),
        (f"{URL}?a=b", "names no repository"),
        (f"{URL}#a", "names no repository"),
    ],
    ids=lambda text: ascii(text[:40]),
)
def test_addresses_that_are_refused(url: str, says: str) -> None:
    with pytest.raises(RequestError) as refused:
        git_source(url)
    assert refused.value.code == "source_refused"
    assert says.replace("'", "") in str(refused.value.detail).replace("'", "").replace('"', "")


@pytest.mark.parametrize("ref", ["main", "v1.2", "a/b", "0" * 40, "a" * 200, "x+y", "lock", "a_b", "a-b"])
def test_names_that_are_taken(ref: str) -> None:
    assert git_source(URL, ref) == GitSource(URL, ref)


@pytest.mark.parametrize(
    "ref",
    [
        "-x",
        "--upload-pack=x",
        ".a",
        "/a",
        "a..b",
        "a.lock",
        "a/",
        "a.",
        "a//b",
        "a b",
        "a\n",
        "a:b",
        "a^",
        "a~1",
        "a" * 201,
        "é",
    ],
    ids=lambda text: ascii(text[:20]),
)
def test_names_that_are_refused(ref: str) -> None:
    with pytest.raises(RequestError) as refused:
        git_source(URL, ref)
    assert refused.value.code == "source_refused"


def test_what_is_shown_names_no_user() -> None:
    assert GitSource("ssh://git@host.example:22/a/b", "v1").shown == "ssh://host.example:22/a/b v1"
    assert GitSource("file:///srv/a").shown == "file:///srv/a HEAD"


def test_what_a_stranger_names_stands_behind_the_options() -> None:
    source = GitSource(URL, "v1")
    made, fetched, told, written = commands("/usr/bin/git", source, "/r")
    assert made[-2:] == ["--", "/r"]
    assert fetched[-3:] == ["--", URL, "v1"]
    assert told[-2:] == ["--quiet", "FETCH_HEAD^{commit}"]
    assert written[-3:] == ["archive", "--format=tar", "FETCH_HEAD"]
    assert [command[len(command) - command[::-1].index("-c") + 1] for command in (made, fetched, told, written)] == [
        "init", "--git-dir=/r", "--git-dir=/r", "--git-dir=/r"
    ]  # fmt: skip
    assert {"--bare", "--template="} <= set(made)
    assert {"--depth=1", "--no-tags", "--no-recurse-submodules"} <= set(fetched)


def test_each_command_has_the_settings_that_keep_a_repository_dead() -> None:
    for command in commands("/usr/bin/git", GitSource(URL), "/r"):
        assert command[0] == "/usr/bin/git"
        settings = {command[index + 1] for index, word in enumerate(command) if word == "-c"}
        assert settings == {
            "core.hooksPath=/dev/null", "core.fsmonitor=false", "core.attributesFile=/dev/null",
            "fetch.fsckObjects=true", "transfer.fsckObjects=true", "protocol.allow=never",
            "protocol.https.allow=always", "protocol.ssh.allow=always", "protocol.file.allow=always",
            "submodule.recurse=false", "gc.auto=0", "maintenance.auto=false", "advice.detachedHead=false",
        }  # fmt: skip
