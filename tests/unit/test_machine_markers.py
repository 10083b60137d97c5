"""A skip of what RUMI_TEST_REQUIRE names fails the run; without it, the summary names the reason."""

import pytest

pytest_plugins = ["pytester"]

CASES = """
import pytest
@pytest.mark.docker
def test_needs_an_engine(): pass
@pytest.mark.embedded
def test_skips_itself(): pytest.importorskip("no_such_module_anywhere", reason="[embedded] nothing there")
def test_needs_nothing(): pass
"""


@pytest.fixture
def suite(pytester, monkeypatch, tmp_path):
    pytester.makeconftest("from tests.conftest import *")
    pytester.makepyfile(CASES)
    pytester.makeini("[pytest]\nmarkers =\n  docker\n  embedded\n  browser\n")
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none")
    monkeypatch.setenv("PYTHONPATH", str(pytest.importorskip("rumi_setup.core.places").ROOT))
    return pytester


def test_without_the_requirement_the_summary_says_why(suite, monkeypatch) -> None:
    monkeypatch.delenv("RUMI_TEST_REQUIRE", raising=False)
    result = suite.runpytest_subprocess("-p", "no:randomly", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=1, skipped=2)
    result.stdout.fnmatch_lines(["*could not run here, and why*", "*1  [[]docker] no Docker engine*"])


def test_with_the_requirement_each_omission_is_a_failure(suite, monkeypatch) -> None:
    monkeypatch.setenv("RUMI_TEST_REQUIRE", "docker,embedded")
    result = suite.runpytest_subprocess("-p", "no:randomly", "-p", "no:cacheprovider")
    outcomes = result.parseoutcomes()
    assert outcomes.get("passed") == 1
    assert outcomes.get("failed", 0) + outcomes.get("errors", 0) == 2
    assert result.ret == 1


def test_a_requirement_that_no_marker_has_is_refused(suite, monkeypatch) -> None:
    monkeypatch.setenv("RUMI_TEST_REQUIRE", "dokcer")
    result = suite.runpytest_subprocess()
    assert result.ret == pytest.ExitCode.USAGE_ERROR


def test_a_test_that_lacks_what_was_not_required_is_left_out_whatever_else_it_needs(suite, monkeypatch) -> None:
    # as an ordinary user's run, which has an engine and is not root
    suite.makepyfile("""
import pytest
@pytest.mark.embedded
@pytest.mark.browser
def test_needs_a_browser_too(): raise AssertionError("it ran")
""")
    monkeypatch.setenv("RUMI_TEST_REQUIRE", "embedded")
    monkeypatch.setenv("PATH", "/nowhere")
    result = suite.runpytest_subprocess("-p", "no:randomly", "-p", "no:cacheprovider")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*1  [[]browser] no Chromium*"])
