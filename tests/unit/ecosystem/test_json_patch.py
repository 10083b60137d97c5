"""RFC 6901 and RFC 6902, example by example, then the corners that their prose names."""

from __future__ import annotations

import copy
import json

import pytest

from backend_core.ecosystem.json_patch import (
    MAX_DEPTH,
    PatchError,
    apply_patch,
    diff,
    equal,
    format_pointer,
    parse_fragment,
    parse_pointer,
    refusal,
    resolve,
)

# -- RFC 6901, section 5 ------------------------------------------------------------------------------------------

DOCUMENT = {
    "foo": ["bar", "baz"], "": 0, "a/b": 1, "c%d": 2, "e^f": 3, "g|h": 4, "i\\j": 5, 'k"l': 6, " ": 7, "m~n": 8,
}  # fmt: skip


@pytest.mark.parametrize(
    ("pointer", "value"),
    [
        ("", DOCUMENT), ("/foo", ["bar", "baz"]), ("/foo/0", "bar"), ("/", 0), ("/a~1b", 1), ("/c%d", 2), ("/e^f", 3),
        ("/g|h", 4), ("/i\\j", 5), ('/k"l', 6), ("/ ", 7), ("/m~0n", 8),
    ],
)  # fmt: skip
def test_rfc_6901_section_5(pointer, value) -> None:
    assert resolve(DOCUMENT, pointer) == value
    assert format_pointer(parse_pointer(pointer)) == pointer


@pytest.mark.parametrize(
    ("fragment", "value"),
    [
        ("#", DOCUMENT), ("#/foo", ["bar", "baz"]), ("#/foo/0", "bar"), ("#/", 0), ("#/a~1b", 1), ("#/c%25d", 2),
        ("#/e%5Ef", 3), ("#/g%7Ch", 4), ("#/i%5Cj", 5), ("#/k%22l", 6), ("#/%20", 7), ("#/m~0n", 8),
    ],
)  # fmt: skip
def test_rfc_6901_section_6(fragment, value) -> None:
    assert resolve(DOCUMENT, format_pointer(parse_fragment(fragment))) == value


def test_rfc_6901_section_5_written_in_json() -> None:
    """The same pointers as JSON strings: two of them hold characters that JSON escapes."""
    assert resolve(DOCUMENT, json.loads(r'"/i\\j"')) == 5
    assert resolve(DOCUMENT, json.loads(r'"/k\"l"')) == 6


@pytest.mark.parametrize("fragment", ["", "/foo", "#foo", "#/%FF", "#/~2", "#/%7E2", None])
def test_what_is_no_fragment(fragment) -> None:
    with pytest.raises(PatchError) as caught:
        parse_fragment(fragment)
    assert caught.value.code == "patch_invalid"


def test_tilde_zero_one_is_no_slash() -> None:
    assert parse_pointer("/~01") == ("~1",)


@pytest.mark.parametrize("pointer", ["foo", "#/foo", "/~", "/~2", "/a~", None, 7, ["foo"]])
def test_what_is_no_pointer(pointer) -> None:
    with pytest.raises(PatchError) as caught:
        parse_pointer(pointer)
    assert caught.value.code == "patch_invalid"


@pytest.mark.parametrize("pointer", ["/foo/2", "/foo/-", "/foo/00", "/foo/01", "/foo/+1", "/foo/-1", "/foo/1e0",
                                     "/foo/", "/foo/٠", "/foo/0/x", "/absent", "/foo/bar", "/foo/99999999999999999999"])  # fmt: skip
def test_what_a_pointer_does_not_find(pointer) -> None:
    with pytest.raises(PatchError) as caught:
        resolve(DOCUMENT, pointer)
    assert caught.value.code == "patch_target"


# -- RFC 6902, appendix A -----------------------------------------------------------------------------------------

APPENDIX_A = {
    "A.1 adding an object member": (
        {"foo": "bar"}, [{"op": "add", "path": "/baz", "value": "qux"}], {"baz": "qux", "foo": "bar"}),
    "A.2 adding an array element": (
        {"foo": ["bar", "baz"]}, [{"op": "add", "path": "/foo/1", "value": "qux"}], {"foo": ["bar", "qux", "baz"]}),
    "A.3 removing an object member": (
        {"baz": "qux", "foo": "bar"}, [{"op": "remove", "path": "/baz"}], {"foo": "bar"}),
    "A.4 removing an array element": (
        {"foo": ["bar", "qux", "baz"]}, [{"op": "remove", "path": "/foo/1"}], {"foo": ["bar", "baz"]}),
    "A.5 replacing a value": (
        {"baz": "qux", "foo": "bar"}, [{"op": "replace", "path": "/baz", "value": "boo"}],
        {"baz": "boo", "foo": "bar"}),
    "A.6 moving a value": (
        {"foo": {"bar": "baz", "waldo": "fred"}, "qux": {"corge": "grault"}},
        [{"op": "move", "from": "/foo/waldo", "path": "/qux/thud"}],
        {"foo": {"bar": "baz"}, "qux": {"corge": "grault", "thud": "fred"}}),
    "A.7 moving an array element": (
        {"foo": ["all", "grass", "cows", "eat"]}, [{"op": "move", "from": "/foo/1", "path": "/foo/3"}],
        {"foo": ["all", "cows", "eat", "grass"]}),
    "A.8 testing a value: success": (
        {"baz": "qux", "foo": ["a", 2, "c"]},
        [{"op": "test", "path": "/baz", "value": "qux"}, {"op": "test", "path": "/foo/1", "value": 2}],
        {"baz": "qux", "foo": ["a", 2, "c"]}),
    "A.10 adding a nested member object": (
        {"foo": "bar"}, [{"op": "add", "path": "/child", "value": {"grandchild": {}}}],
        {"foo": "bar", "child": {"grandchild": {}}}),
    "A.11 ignoring unrecognized elements": (
        {"foo": "bar"}, [{"op": "add", "path": "/baz", "value": "qux", "xyz": 123}], {"foo": "bar", "baz": "qux"}),
    "A.14 ~ escape ordering": (
        {"/": 9, "~1": 10}, [{"op": "test", "path": "/~01", "value": 10}], {"/": 9, "~1": 10}),
    "A.16 adding an array value": (
        {"foo": ["bar"]}, [{"op": "add", "path": "/foo/-", "value": ["abc", "def"]}],
        {"foo": ["bar", ["abc", "def"]]}),
}  # fmt: skip


@pytest.mark.parametrize("name", APPENDIX_A)
def test_rfc_6902_appendix_a(name) -> None:
    before, patch, after = APPENDIX_A[name]
    untouched = copy.deepcopy(before)
    assert equal(apply_patch(before, patch), after)
    assert before == untouched


APPENDIX_A_ERRORS = {
    "A.9 testing a value: error": ({"baz": "qux"}, [{"op": "test", "path": "/baz", "value": "bar"}], "patch_test"),
    "A.12 adding to a nonexistent target": (
        {"foo": "bar"}, [{"op": "add", "path": "/baz/bat", "value": "qux"}], "patch_target"),
    "A.15 comparing strings and numbers": (
        {"/": 9, "~1": 10}, [{"op": "test", "path": "/~01", "value": "10"}], "patch_test"),
}  # fmt: skip


@pytest.mark.parametrize("name", APPENDIX_A_ERRORS)
def test_rfc_6902_appendix_a_errors(name) -> None:
    before, patch, code = APPENDIX_A_ERRORS[name]
    with pytest.raises(PatchError) as caught:
        apply_patch(before, patch)
    assert caught.value.code == code
    assert caught.value.fields["index"] == 0


def test_rfc_6902_a13_a_repeated_member_is_refused_by_the_reader() -> None:
    from backend_core.errors import AuthorError
    from backend_core.parsing import parse_json

    with pytest.raises(AuthorError, match="Key given twice"):
        parse_json(b'[{"op":"add","path":"/baz","value":"qux","op":"remove"}]', source="patch")


SECTIONS = {
    "3 a whole document": (
        {"a": {"b": {"c": "foo"}}},
        [
            {"op": "test", "path": "/a/b/c", "value": "foo"},
            {"op": "remove", "path": "/a/b/c"},
            {"op": "add", "path": "/a/b/c", "value": ["foo", "bar"]},
            {"op": "replace", "path": "/a/b/c", "value": 42},
            {"op": "move", "from": "/a/b/c", "path": "/a/b/d"},
            {"op": "copy", "from": "/a/b/d", "path": "/a/b/e"},
        ],
        {"a": {"b": {"d": 42, "e": 42}}}),
    "4 the order of members has no meaning (1)": (
        {"a": {"b": {}}}, [{"op": "add", "path": "/a/b/c", "value": "foo"}], {"a": {"b": {"c": "foo"}}}),
    "4 the order of members has no meaning (2)": (
        {"a": {"b": {}}}, [{"path": "/a/b/c", "op": "add", "value": "foo"}], {"a": {"b": {"c": "foo"}}}),
    "4 the order of members has no meaning (3)": (
        {"a": {"b": {}}}, [{"value": "foo", "path": "/a/b/c", "op": "add"}], {"a": {"b": {"c": "foo"}}}),
    "4.1 add": (
        {"a": {"b": {}}}, [{"op": "add", "path": "/a/b/c", "value": ["foo", "bar"]}],
        {"a": {"b": {"c": ["foo", "bar"]}}}),
    "4.1 add below an object that is there": (
        {"a": {"foo": 1}}, [{"op": "add", "path": "/a/b", "value": 2}], {"a": {"foo": 1, "b": 2}}),
    "4.2 remove": ({"a": {"b": {"c": 1}}}, [{"op": "remove", "path": "/a/b/c"}], {"a": {"b": {}}}),
    "4.3 replace": (
        {"a": {"b": {"c": 1}}}, [{"op": "replace", "path": "/a/b/c", "value": 42}], {"a": {"b": {"c": 42}}}),
    "4.4 move": (
        {"a": {"b": {"c": 1}}}, [{"op": "move", "from": "/a/b/c", "path": "/a/b/d"}], {"a": {"b": {"d": 1}}}),
    "4.5 copy": (
        {"a": {"b": {"c": 1}}}, [{"op": "copy", "from": "/a/b/c", "path": "/a/b/e"}], {"a": {"b": {"c": 1, "e": 1}}}),
    "4.6 test": (
        {"a": {"b": {"c": "foo"}}}, [{"op": "test", "path": "/a/b/c", "value": "foo"}], {"a": {"b": {"c": "foo"}}}),
}  # fmt: skip


@pytest.mark.parametrize("name", SECTIONS)
def test_rfc_6902_sections_3_and_4(name) -> None:
    before, patch, after = SECTIONS[name]
    assert equal(apply_patch(before, patch), after)


def test_rfc_6902_section_4_1_an_object_that_is_not_there() -> None:
    with pytest.raises(PatchError) as caught:
        apply_patch({"q": {"bar": 2}}, [{"op": "add", "path": "/a/b", "value": 1}])
    assert caught.value.code == "patch_target"


def test_rfc_6902_section_5_a_test_that_fails_undoes_what_went_before() -> None:
    before = {"a": {"b": {"c": "foo"}}}
    with pytest.raises(PatchError) as caught:
        apply_patch(
            before, [{"op": "replace", "path": "/a/b/c", "value": 42}, {"op": "test", "path": "/a/b/c", "value": "C"}]
        )
    assert caught.value.code == "patch_test"
    assert before == {"a": {"b": {"c": "foo"}}}


# -- section 3 to 5, in the corners -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "patch", "after"),
    [
        ({"a": 1}, [{"op": "add", "path": "", "value": [1]}], [1]),
        ({"a": 1}, [{"op": "replace", "path": "", "value": None}], None),
        ({"a": 1}, [{"op": "add", "path": "/a", "value": 2}], {"a": 2}),
        ([], [{"op": "add", "path": "/0", "value": 1}], [1]),
        ([1], [{"op": "add", "path": "/1", "value": 2}], [1, 2]),
        ({"": 1}, [{"op": "replace", "path": "/", "value": 2}], {"": 2}),
        ({"a": None}, [{"op": "test", "path": "/a", "value": None}], {"a": None}),
        ({"a": 1.0}, [{"op": "test", "path": "/a", "value": 1}], {"a": 1}),
        ({"a": {"b": 1, "c": 2}}, [{"op": "test", "path": "/a", "value": {"c": 2, "b": 1}}], {"a": {"b": 1, "c": 2}}),
        ({"a": 1}, [{"op": "move", "from": "/a", "path": "/a"}], {"a": 1}),
        ({"a": {"b": 1}}, [{"op": "move", "from": "/a/b", "path": "/a"}], {"a": 1}),
        ({"a": [1]}, [{"op": "copy", "from": "/a", "path": "/b"}, {"op": "add", "path": "/b/-", "value": 2}],
         {"a": [1], "b": [1, 2]}),
        ({"a": {"b": 1}}, [{"op": "copy", "from": "", "path": "/a/c"}], {"a": {"b": 1, "c": {"a": {"b": 1}}}}),
        ({"1": "x"}, [{"op": "remove", "path": "/1"}], {}),
        ({}, [], {}),
    ],
)  # fmt: skip
def test_what_applies(before, patch, after) -> None:
    assert equal(apply_patch(before, patch), after)


@pytest.mark.parametrize(
    ("before", "operation", "code"),
    [
        ({}, {"op": "remove", "path": "/a"}, "patch_target"),
        ({}, {"op": "replace", "path": "/a", "value": 1}, "patch_target"),
        ([1], {"op": "replace", "path": "/1", "value": 1}, "patch_target"),
        ([1], {"op": "replace", "path": "/-", "value": 1}, "patch_target"),
        ([1], {"op": "remove", "path": "/-"}, "patch_target"),
        ([1], {"op": "add", "path": "/3", "value": 1}, "patch_target"),
        ([1], {"op": "add", "path": "/01", "value": 1}, "patch_target"),
        ([1], {"op": "add", "path": "/a", "value": 1}, "patch_target"),
        ("text", {"op": "add", "path": "/a", "value": 1}, "patch_target"),
        ({"a": {"b": 1}}, {"op": "move", "from": "/a", "path": "/a/b"}, "patch_invalid"),
        ({"a": 1}, {"op": "move", "from": "/b", "path": "/a"}, "patch_target"),
        ({"a": 1}, {"op": "move", "path": "/a"}, "patch_invalid"),
        ({"a": 1}, {"op": "copy", "path": "/a"}, "patch_invalid"),
        ({"a": 1}, {"op": "add", "path": "/a"}, "patch_invalid"),
        ({"a": 1}, {"op": "replace", "path": "/a"}, "patch_invalid"),
        ({"a": 1}, {"op": "test", "path": "/a"}, "patch_invalid"),
        ({"a": 1}, {"op": "remove"}, "patch_invalid"),
        ({"a": 1}, {"path": "/a"}, "patch_invalid"),
        ({"a": 1}, {"op": "spam", "path": "/a"}, "patch_invalid"),
        ({"a": 1}, {"op": ["add"], "path": "/a", "value": 1}, "patch_invalid"),
        ({"a": 1}, {"op": "add", "path": "a", "value": 1}, "patch_invalid"),
        ({"a": 1}, {"op": "remove", "path": ""}, "patch_invalid"),
        ({"a": 1}, "add", "patch_invalid"),
        ({"a": True}, {"op": "test", "path": "/a", "value": 1}, "patch_test"),
        ({"a": 0}, {"op": "test", "path": "/a", "value": False}, "patch_test"),
        ({"a": [1, True]}, {"op": "test", "path": "/a", "value": [1, 1]}, "patch_test"),
        ({"a": ""}, {"op": "test", "path": "/a", "value": None}, "patch_test"),
    ],
)
def test_what_does_not_apply(before, operation, code) -> None:
    with pytest.raises(PatchError) as caught:
        apply_patch(before, [operation])
    assert caught.value.code == code


def test_a_patch_applies_whole_or_not_at_all() -> None:
    before = {"a": [1]}
    with pytest.raises(PatchError, match="operation 1"):
        apply_patch(before, [{"op": "add", "path": "/a/-", "value": 2}, {"op": "remove", "path": "/b"}])
    assert before == {"a": [1]}


def test_a_patch_is_a_list() -> None:
    with pytest.raises(PatchError):
        apply_patch({}, {"op": "add"})  # type: ignore[arg-type]


def test_the_patch_keeps_its_own_values() -> None:
    patch = [{"op": "add", "path": "/a", "value": []}, {"op": "add", "path": "/a/-", "value": 1}]
    apply_patch({}, patch)
    assert patch[0]["value"] == []


def test_copy_can_not_build_a_bomb() -> None:
    patch = [{"op": "copy", "from": "", "path": f"/{index}"} for index in range(40)]
    with pytest.raises(PatchError, match="builds too much"):
        apply_patch({"x": 1}, patch)


def nested(levels: int) -> object:
    value: object = 1
    for _ in range(levels - 1):
        value = {"x": value}
    return value


@pytest.mark.parametrize("verb", ["copy", "move", "add", "replace"])
def test_no_patch_builds_deeper_than_whoever_walks_the_result_can(verb) -> None:
    """``copy`` of the root below itself doubles the depth each time; ``add`` at the deepest place lengthens it."""
    half = MAX_DEPTH // 2
    before = {"a": nested(half), "b": nested(half + 1)}
    deepest = "/b" + "/x" * half
    patches = {
        "copy": [{"op": "copy", "from": "", "path": "/b" + "/x" * (half - 1) + "/y"}],
        "move": [{"op": "move", "from": "/a", "path": deepest}],
        "add": [{"op": "add", "path": deepest, "value": nested(half)}],
        "replace": [{"op": "replace", "path": deepest, "value": nested(half)}],
    }
    with pytest.raises(PatchError, match="too deep"):
        apply_patch(before, patches[verb])
    assert apply_patch(before, [{"op": "add", "path": deepest, "value": nested(half - 1)}])


# -- policy -------------------------------------------------------------------------------------------------------


def op(path: str, verb: str = "add") -> list[dict[str, object]]:
    return [{"op": verb, "path": path, "value": 1}]


def test_prefixes_match_whole_segments() -> None:
    assert refusal(op("/ext"), ["/ext"]) is None
    assert refusal(op("/ext/a/b"), ["/ext"]) is None
    assert "/extX" in (refusal(op("/extX"), ["/ext"]) or "")
    assert refusal(op("/ext~1a"), ["/ext"]) is not None
    assert refusal(op("/a"), []) is not None
    assert refusal(op(""), ["/ext"]) is not None


@pytest.mark.parametrize("verb", ["move", "copy", "spam", None])
def test_only_four_operations_are_for_addons(verb) -> None:
    assert refusal(op("/ext", verb), ["", "/ext"]) is not None


def test_protected_places_and_their_parents_are_beyond_every_policy() -> None:
    for path in ("/connectivity", "/connectivity/provides/-", ""):
        assert refusal(op(path, "replace"), [""], ["/connectivity"]) is not None
    assert refusal(op("/connectivity/provides", "test"), [""], ["/connectivity"]) is None
    assert refusal(op("/connectivityX"), [""], ["/connectivity"]) is None


# -- diff ---------------------------------------------------------------------------------------------------------


def test_diff_says_only_what_changed() -> None:
    before = {"a": 1, "b": [1, 2, 3, 4], "c": {"d": True}}
    after = {"a": 1, "b": [1, 9, 4], "c": {"d": 1}}
    patch = diff(before, after)
    assert patch == [
        {"op": "replace", "path": "/b/1", "value": 9},
        {"op": "remove", "path": "/b/2"},
        {"op": "replace", "path": "/c/d", "value": 1},
    ]
    assert equal(apply_patch(before, patch), after)
