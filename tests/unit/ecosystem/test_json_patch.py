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


SENTENCES = {
    "4: members that are not defined for an operation are ignored": (
        {"a": 1, "b": 2},
        [{"op": "remove", "path": "/a", "value": 7, "from": "no pointer"}, {"op": "add", "path": "/c", "value": 3, "from": 9}],
        {"b": 2, "c": 3}),
    "4.1: elements at or above the index are shifted one to the right": (
        [1, 2, 3], [{"op": "add", "path": "/0", "value": 0}, {"op": "test", "path": "/3", "value": 3}], [0, 1, 2, 3]),
    "4.1: the index may equal the number of elements": (
        {"a": [[], 1]}, [{"op": "add", "path": "/a/0/0", "value": 2}], {"a": [[2], 1]}),
    "4.1: a member that exists is replaced, whatever its type was": (
        {"a": [1, 2]}, [{"op": "add", "path": "/a", "value": {"b": None}}], {"a": {"b": None}}),
    "4.2: elements above the index are shifted one to the left": (
        [1, 2, 3, 4], [{"op": "remove", "path": "/1"}, {"op": "remove", "path": "/1"}], [1, 4]),
    "4.2: a member whose value is null exists": ({"a": None}, [{"op": "remove", "path": "/a"}], {}),
    "4.3: as a remove and an add at the same place, in an array": (
        [1, 2, 3], [{"op": "replace", "path": "/1", "value": [9]}], [1, [9], 3]),
    "4.3: a member whose value is null can be replaced": (
        {"a": None}, [{"op": "replace", "path": "/a", "value": 0}], {"a": 0}),
    "4.4: the target is looked up after the removal": (
        [1, 2, 3], [{"op": "move", "from": "/0", "path": "/2"}], [2, 3, 1]),
    "4.4: to the end of the array it comes from": ([1, 2, 3], [{"op": "move", "from": "/0", "path": "/-"}], [2, 3, 1]),
    "4.4: from one array into another": (
        [[1, 2], [3]], [{"op": "move", "from": "/0/0", "path": "/1/0"}], [[2], [1, 3]]),
    "4.5: as an add, an array gets one more": ([1, 2], [{"op": "copy", "from": "/1", "path": "/0"}], [2, 1, 2]),
    "4.5: as an add, a member that exists is replaced": (
        {"a": 1, "b": [2]}, [{"op": "copy", "from": "/a", "path": "/b"}], {"a": 1, "b": 1}),
    "4.6: the ordering of members is not significant, at any depth": (
        [{"a": {"b": 1, "c": [{"d": 2, "e": 3}]}}],
        [{"op": "test", "path": "", "value": [{"a": {"c": [{"e": 3, "d": 2}], "b": 1}}]}],
        [{"a": {"b": 1, "c": [{"d": 2, "e": 3}]}}]),
    "4.6: literals are equal if they are the same": (
        [True, False, None],
        [{"op": "test", "path": f"/{at}", "value": value} for at, value in enumerate((True, False, None))],
        [True, False, None]),
    "5: operations go on upon the result of the one before": (
        {}, [{"op": "add", "path": "/a", "value": {}}, {"op": "add", "path": "/a/b", "value": [1]},
             {"op": "move", "from": "/a/b", "path": "/c"}, {"op": "replace", "path": "/c/0", "value": 2}], {"a": {}, "c": [2]}),
}  # fmt: skip


@pytest.mark.parametrize("name", SENTENCES)
def test_rfc_6902_sentence_by_sentence(name) -> None:
    before, patch, after = SENTENCES[name]
    assert equal(apply_patch(before, patch), after)


REFUSING_SENTENCES = {
    "4: op is one of six, in this spelling": ({}, {"op": "Add", "path": "/a", "value": 1}, "patch_invalid"),
    "4: path is a string": ({}, {"op": "add", "path": None, "value": 1}, "patch_invalid"),
    "4.1: the place it is added to is an object or an array": (
        {"a": None}, {"op": "add", "path": "/a/b", "value": 1}, "patch_target"),
    "4.1: the end of an array has nothing inside": ([[]], {"op": "add", "path": "/-/0", "value": 1}, "patch_target"),
    "4.4: the index is counted after the removal": ([1, 2], {"op": "move", "from": "/0", "path": "/2"}, "patch_target"),
    "4.4: from must exist, even where it is the target": ({}, {"op": "move", "from": "/a", "path": "/a"}, "patch_target"),
    "4.4: the whole document can't move into itself": ({"a": 1}, {"op": "move", "from": "", "path": "/b"}, "patch_invalid"),
    "4.5: from must exist": ({"a": 1}, {"op": "copy", "from": "/b", "path": "/c"}, "patch_target"),
    "4.5: from is a pointer": ({"a": 1}, {"op": "copy", "from": "a", "path": "/c"}, "patch_invalid"),
    "4.6: the place that is tested exists, even for null": ({}, {"op": "test", "path": "/a", "value": None}, "patch_target"),
    "4.6: strings have the same code points": (["\u00e9"], {"op": "test", "path": "/0", "value": "e\u0301"}, "patch_test"),
    "4.6: strings have the same number of characters": (["a"], {"op": "test", "path": "/0", "value": "a "}, "patch_test"),
    "4.6: arrays have as many values": ([[1]], {"op": "test", "path": "/0", "value": [1, 1]}, "patch_test"),
    "4.6: arrays have them at the same places": ([[1, 2]], {"op": "test", "path": "/0", "value": [2, 1]}, "patch_test"),
    "4.6: objects have as many members (more there)": (
        [{"a": 1, "b": 2}], {"op": "test", "path": "/0", "value": {"a": 1}}, "patch_test"),
    "4.6: objects have as many members (fewer there)": (
        [{"a": 1}], {"op": "test", "path": "/0", "value": {"a": 1, "b": None}}, "patch_test"),
    "4.6: objects have the same names": ([{"a": 1}], {"op": "test", "path": "/0", "value": {"A": 1}}, "patch_test"),
    "4.6: values are of the same type": ([[]], {"op": "test", "path": "/0", "value": {}}, "patch_test"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSING_SENTENCES)
def test_rfc_6902_what_its_sentences_forbid(name) -> None:
    before, operation, code = REFUSING_SENTENCES[name]
    with pytest.raises(PatchError) as caught:
        apply_patch(before, [operation])
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("1" + "0" * 30, "1e30", True), ("1" + "0" * 308, "1e308", True), ("-1" + "0" * 23, "-1E+23", True),
        ("1", "10e-1", True), ("0", "-0.0", True), ("9007199254740992", "9007199254740992.0", True),
        ("9007199254740993", "9007199254740992.0", False), ("1000000000000000019884624838656", "1e30", False),
        ("1" + "0" * 29 + "1", "1e30", False), ("1", "1.0000000000000002", False), ("1" + "0" * 400, "1e308", False),
        ("true", "1", False), ("false", "0.0", False), ("null", "0", False), ('"1"', "1", False),
    ],
)  # fmt: skip
def test_rfc_6902_section_4_6_numbers_by_their_value(one, other, same) -> None:
    """What counts is the number that was written, not the binary fraction that stands for it."""
    assert equal(json.loads(one), json.loads(other)) is same
    assert equal(json.loads(other), json.loads(one)) is same


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
