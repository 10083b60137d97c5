"""What a glob covers, what is no glob, and the limits of both, as tables."""

from __future__ import annotations

import pytest

from core_runtime.rules.globs import MAX_GLOB_CHARS, MAX_WILD_SEGMENTS, any_matches, glob_fault, literal_prefix, matches

COVERED = [
    ("a", "a"), ("a/b", "a/b"), ("*", "anything"), ("*", ""), ("a*", "a"), ("a*", "abc"), ("*c", "abc"), ("*c", "cc"),
    ("a*c", "ac"), ("a*c", "abbc"), ("a*b*c", "aXbYc"), ("a*b*c", "abbbc"), ("*b*", "abc"), ("a**", "abc"), ("?", "x"),
    ("a?c", "abc"), ("??", "ab"), ("*?", "a"), ("?*", "ab"), ("*ab", "aab"), ("*aab", "aaab"), ("*abc", "ababc"),
    ("a*?c", "abbc"), ("*a*b", "aab"), ("*x?z", "xyxyz"),
    ("**", "a"), ("**", "a/b/c"), ("a/**", "a"), ("a/**", "a/b"), ("a/**", "a/b/c"), ("**/c", "c"), ("**/c", "a/b/c"),
    ("a/**/c", "a/c"), ("a/**/c", "a/b/b/c"), ("**/b/**", "a/b/c"), ("**/b/**", "b"), ("**/a/b", "a/a/b"),
    ("**/a/a/b", "a/a/a/b"), ("a/*/c", "a/b/c"), ("**/**", "a"), ("a/**/**", "a"), ("**/x/**/z", "x/y/x/z"),
    ("**/a/?/c", "a/b/a/b/c"),
]  # fmt: skip
NOT_COVERED = [
    ("a", "b"), ("a", "A"), ("a", "aa"), ("aa", "a"), ("a", ""), ("", "a"), ("a/b", "a"), ("a", "a/b"), ("*", "a/b"), ("a*", "ba"),
    ("*a", "ab"), ("a*c", "ab"), ("?", ""), ("?", "ab"), ("a?c", "ac"), ("??", "a"), ("a/*", "a"), ("a/*", "a/b/c"),
    ("a/?", "a/bb"), ("a/**/c", "a/b"), ("a/**/c", "b/c"), ("**/b", "a"), ("a/**", "b/a"), ("?", "/"), ("*/b", "a/c"),
    ("a*b*c", "acb"), ("a?", "a/"), ("[ab]", "a"), ("a**b", "a/b"), ("a.b", "aXb"), ("**/a/b", "a/b/c"),
    ("*ab", "aba"), ("a*?c", "ac"), ("a/**/b/**/c", "a/c/b"), ("?*?", "a"), ("ab*", "a"), ("*-*", "ab"),
]  # fmt: skip


@pytest.mark.parametrize(("glob", "text"), COVERED)
def test_covered(glob, text):
    assert matches(glob, text)


@pytest.mark.parametrize(("glob", "text"), NOT_COVERED)
def test_not_covered(glob, text):
    assert not matches(glob, text)


@pytest.mark.parametrize(
    ("glob", "topic", "covered"),
    [
        ("news.*", "news.today", True), ("news.*", "news.today.late", False), ("news.**", "news.today.late", True),
        ("*", "news/today", True), ("news/*", "news.today", False), ("news.*", "news/today", False),
    ],
)  # fmt: skip
def test_a_separator_of_its_own_for_topics(glob, topic, covered):
    assert matches(glob, topic, ".") is covered
    assert any_matches([glob], topic, ".") is covered


def test_any_of_several_is_enough_and_none_covers_nothing():
    assert any_matches(["x", "a/*"], "a/b")
    assert any_matches(["a/*", "x"], "a/b")
    assert not any_matches(["x", "y"], "a/b")
    assert not any_matches([], "a")
    assert not any_matches(["*"], "a/b")
    assert not any_matches(["a"], "a/b")


@pytest.mark.parametrize(
    ("glob", "fault"),
    [
        ("", "is empty or longer than 256 characters"),
        ("a" * 257, "is empty or longer than 256 characters"),
        ("a\x1bb", "contains an invisible character"),
        ("a\u202eb", "contains an invisible character"),
        ("a[b", "contains one of [ ] { } \\, which are no part of these patterns"),
        ("a]b", "contains one of [ ] { } \\, which are no part of these patterns"),
        ("a{b", "contains one of [ ] { } \\, which are no part of these patterns"),
        ("a}b", "contains one of [ ] { } \\, which are no part of these patterns"),
        ("a\\b", "contains one of [ ] { } \\, which are no part of these patterns"),
        ("/a", "has an empty, '.' or '..' segment"),
        ("a/", "has an empty, '.' or '..' segment"),
        ("a//b", "has an empty, '.' or '..' segment"),
        ("./a", "has an empty, '.' or '..' segment"),
        ("a/../b", "has an empty, '.' or '..' segment"),
        ("a/b**", "has '**' beside other characters of a segment"),
        ("**a/b", "has '**' beside other characters of a segment"),
        ("***", "has '**' beside other characters of a segment"),
        ("/".join(["**"] * 9), "has more than 8 '**' segments"),
        ("/".join(["**", "a"] * 9), "has more than 8 '**' segments"),
        ("/".join(["**"] * 8), ""),
        ("/".join(["**"] * 8 + ["a"] * 20), ""),
        ("aXb/XX", ""),
        ("a" * 256, ""),
        ("a/b", ""), ("*", ""), ("**", ""), ("a/**", ""), ("a b/ü.txt", ""), (".hidden/..x", ""), ("a*b/?", ""),
    ],
)  # fmt: skip
def test_what_is_no_glob_and_why(glob, fault):
    assert glob_fault(glob) == fault
    assert (MAX_GLOB_CHARS, MAX_WILD_SEGMENTS) == (256, 8)


@pytest.mark.parametrize(
    ("glob", "prefix"),
    [
        ("a/b/c", ("a", "b", "c")), ("a/*/c", ("a",)), ("a/b?/c", ("a",)), ("*", ()), ("**", ()), ("a/b/**", ("a", "b")),
        ("a/x*/b", ("a",)), ("a/?", ("a",)), ("a/*?", ("a",)), ("a", ("a",)),
    ],
)  # fmt: skip
def test_the_part_before_the_first_wildcard(glob, prefix):
    assert literal_prefix(glob) == prefix
