"""docs/reference/formats.md: every format that must keep working, with the acceptance tests that show it.

``python -m tests.support.formats`` writes it. ``tests/unit/test_formats_document.py`` holds it against the tests: each
that is named exists, in a file of its phase, and the words of the row stand in that file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from tests.support.documents import ROOT

DOCUMENT: Final = ROOT / "docs/reference/formats.md"


@dataclass(frozen=True)
class Row:
    """``words``: literal words of the format, separated by blanks; each must stand in the file of one of the tests."""

    what: str
    words: str
    tests: tuple[str, ...]


def row(what: str, words: str, *tests: str) -> Row:
    return Row(what, words, tests)


SECTIONS: Final[Mapping[str, tuple[int, tuple[Row, ...]]]] = {
    "Pack files / Packのファイル": (1, (
        row("`backend/ecosystem.json`: what it must say", "pack_id version pack_identity pack_type",
            "test_what_ecosystem_json_must_say"),
        row("`pack_version` for `version`; `author` as a text or a map", "pack_version author",
            "test_pack_version_is_an_alias_and_an_author_may_be_a_text"),
        row("every optional field", "pack_identity display_name description author license dependencies pack_type "
            "vocabulary components connectivity metadata", "test_every_field_of_ecosystem_json_is_read"),
        row("`pack_uuid` goes before the derived one", "pack_uuid", "test_a_uuid_that_is_given_goes_before_the_derived_one"),
        row("the README's minimal Pack, byte for byte", "minimal_pack", "test_the_minimal_pack_provides_its_interface",
            "test_rule_1_placing_a_pack_reads_its_metadata_and_runs_nothing"),
        row("libraries first; `dependencies` and `requires` decide the order of starts", "library dependencies requires",
            "test_what_the_files_say_decides_the_order_of_starts"),
        row("`components/<id>/manifest.json`: what it must say", "manifest type id", "test_what_a_manifest_must_say"),
        row("every field of a manifest", "accepts provides requires uses component_uuid display_name description author "
            "entry backend frontend storage uses_mounts layout addon_policy allowed_manifest_paths editable_files "
            "path_glob allowed_json_pointer_prefixes deny_all extensions settings_schema metadata",
            "test_every_field_of_a_manifest_is_read"),
        row("`permissions.json`", "permissions type reason", "test_rule_4_permissions_are_declared_in_permissions_json"),
        row("`addons/*.addon.json`: both kinds of patches, and the policy by whole segments of a pointer",
            "addon_id priority enabled targets manifest_json_patch file_json_patch /extensions/extX",
            "test_an_addon_patches_what_the_policy_admits_and_nothing_beside_it", "test_a_file_that_is_there_is_patched"),
        row("a target by id or by UUID", "component_uuid", "test_an_addon_names_its_target_by_id_or_by_uuid"),
        row("`conditions` are evaluated", "pack_version component_version", "test_conditions_of_an_addon_are_evaluated"),
        row("`enabled`", "enabled", "test_an_addon_may_be_switched_off_by_its_author"),
        row("`priority` from 0 to 1000, ascending, 100 by itself", "priority", "test_priorities_go_from_0_to_1000",
            "test_addons_apply_in_ascending_priority"),
        row("`add`, `remove`, `replace`, `test`; not `move` and `copy`", "add remove replace test move copy",
            "test_move_and_copy_are_refused_and_the_others_are_not"),
        row("`create_if_missing`", "create_if_missing", "test_a_file_is_made_only_where_the_addon_says_so"),
        row("UUIDs of Packs, components and addons; full ids of components",
            "a3e9f8c2-7b4d-5e1a-9c6f-2d8b4a7e3f1c component: addon: full_id",
            "test_identifiers_derive_from_the_identity", "test_an_addon_names_its_target_by_id_or_by_uuid"),
    )),
    "What runs / 動くもの": (2, (
        row("`run(context)`, else `main(context)`, else import only; a function without a parameter", "run main",
            "test_run_goes_before_main_and_main_before_import_alone"),
        row("the keys of `context`", "phase ts ids component_full_id component_type component_id pack_id paths "
            "component_runtime_dir mounts interface_registry event_bus diagnostics install_journal permission_manager "
            "userdata_manager _source_component", "test_the_context_has_the_keys_that_packs_know"),
        row("a phase is any name", "runtime_boot", "test_a_phase_is_any_name_and_its_file_is_what_the_flow_says"),
        row("`backend/handlers/<name>.py`: `run(args, ctx)`, else `execute(context, args)`, when declared",
            "backend/handlers/ execute", "test_custom_handlers_are_registered_under_their_pack_when_they_are_declared"),
        row("`ecosystem/docker/<pack>/`", "ecosystem/docker handlers scopes grants sandbox seccomp",
            "test_the_operator_can_read_what_the_host_does_for_the_pack"),
    )),
    "Registry, events and the other objects / レジストリ、イベントなど": (3, (
        row("InterfaceRegistry, the same inside and outside", "register get strategy register_if_absent ttl "
            "register_handler get_schema get_source observe immediate unobserve unobserve_all temporary_override list "
            "include_meta last_ts last_meta find unregister", "test_the_registry_in_the_host", "test_the_registry_inside_the_sandbox"),
        row("a ttl really expires", "ttl", "test_a_ttl_really_expires"),
        row("handlers plain or `async`; callables in a map", "async nested",
            "test_handlers_are_plain_or_async_and_lie_in_dicts_too"),
        row("EventBus", "subscribe handler_id publish unsubscribe clear list_subscribers", "test_events_in_the_host",
            "test_events_inside_the_sandbox"),
        row("FunctionAlias", "register_aliases add_alias resolve find_all is_alias_of get_canonical list_all_canonicals "
            "list_all_mappings remove_alias remove_canonical", "test_function_aliases"),
        row("diagnostics, at most 10,000 events", "ts phase step_id handler status target error meta started_at "
            "event_count summary counts phase_counts failed disabled last_event_ts last_failure 10_000",
            "test_diagnostics_in_the_host_are_bounded", "test_diagnostics_inside_the_sandbox"),
        row("the install journal and `uninstall`", "ts event scope ref result paths created modified meta error "
            "dry_run planned_delete deleted skipped reason errors policy", "test_the_install_journal",
            "test_the_install_journal_inside_the_sandbox"),
    )),
    "user_data": (4, (
        row("`mounts.json`, relative to the project", "mounts.json data.user data.cache",
            "test_mounts_are_relative_to_the_project", "test_mounts_reach_the_packs_as_prefixes"),
        row("`active_ecosystem.json`", "active_pack_identity overrides interface_overrides disabled_components "
            "disabled_addons metadata", "test_the_choices_of_the_operator_are_read_whole"),
        row("all approved Packs run, whatever is active", "active_pack_identity", "test_all_approved_packs_run_whatever_is_active"),
        row("`overrides` is kept as it was written and decides nothing", "overrides",
            "test_the_choices_of_the_operator_are_read_whole",
            "test_preferred_components_decide_nothing_and_the_doctor_says_so"),
        row("`interface_overrides` and `disabled_components` act", "interface_overrides disabled_components",
            "test_the_operator_chooses_who_answers_a_key_that_two_provide",
            "test_a_component_that_was_switched_off_does_not_start"),
        row("`<pack>.grants.json` and its signature", "status created_at approved_at file_hashes permissions_requested "
            "rejection_reason _hmac_signature .secret_key", "test_a_grant_is_signed_as_the_format_says"),
        row("signed elsewhere, it verifies; unsigned, it never counts", "unsigned",
            "test_a_file_that_was_signed_elsewhere_verifies_and_is_decided_about_here", "test_what_is_not_signed_never_counts"),
        row("the words of the states", "installed pending approved running modified blocked error",
            "test_the_words_of_the_states"),
        row("`flows/<id>.flow.json`, `flows/*.flow.yaml`", "mine.flow.json today.flow.yaml",
            "test_the_operators_flows_of_both_kinds_run"),
    )),
    "Flows of the older styles / 古い書き方のフロー": (5, (
        row("A, pipelines: defaults, order, merging by id", "flow_version fail_soft on_missing_handler pipelines "
            "description optional on_error abort disable_target",
            "test_pipelines_merge_by_name_and_are_soft_unless_they_say_otherwise"),
        row("A: core, then ecosystem, then loose files, by name", "core/ ecosystem/",
            "test_files_of_pipelines_go_from_core_over_ecosystem_to_loose_ones_by_name"),
        row("B, registered under `flow.<id>`: every type of step", "handler flow loop exit_when max_iterations "
            "_loop_index branch condition then else parallel branches _parallel_results group when retry max_attempts "
            "delay_ms output", "test_registered_steps_of_every_type"),
        row("B: an unknown type is the key `flow.construct.<type>`", "flow.construct.thrice", "test_registered_steps_of_every_type"),
        row("B: recursion and a timeout give `_error`", "_error", "test_recursion_and_timeout_give_an_error_value"),
        row("B: hooks", "before_step after_step error_handler _skip _abort abort retry continue",
            "test_hooks_stand_around_steps", "test_hooks_may_stop_a_flow_retry_a_step_and_end_it"),
        row("C, phases: order by phase, priority, id, `depends_on`; inputs and outputs", "flow_id inputs outputs phases "
            "defaults fail_soft on_missing_step priority depends_on when",
            "test_phases_order_by_phase_priority_id_and_dependency"),
        row("C: every type of step", "handler python_file_call owner_pack file set if function flow construct "
            "timeout_seconds", "test_phases_order_by_phase_priority_id_and_dependency",
            "test_the_other_types_of_steps_in_phases"),
        row("C: `schedule` by cron or interval", "schedule cron interval", "test_an_older_schedule_starts_its_flow"),
        row('C: `{"__flow_control": "abort"}`', "__flow_control", "test_a_step_may_stop_the_flow"),
        row("`*.modifier.yaml`: before, replace, remove, `requires`, a glob of flows", "modifier_id target_flow_id phase "
            "priority inject_before replace remove target_step_id requires interfaces step five.mod*",
            "test_modifier_files_inject_replace_and_remove"),
        row("`*.modifier.yaml`: after, append, `capabilities`, `conflicts_with`",
            "inject_after append capabilities conflicts_with", "test_modifier_files_inject_after_append_and_conflict"),
        row("`flow.modifier`: every action", "flow.modifier modifications inject_before inject_after replace "
            "wrap_with_loop remove set_property target_step steps conflicts_with", "test_registered_modifiers_of_every_action"),
        row("references: types stay, never expanded twice, no environment", "${ctx. ${order. $ctx. ${PATH}",
            "test_references_keep_their_type_and_are_never_expanded_twice"),
        row("conditions; bare words are strings", "== != > < >= <=", "test_conditions"),
        row("`io.http.routes`: refused by name, since routes of Packs have no place yet", "io.http.routes rule methods "
            "endpoint", "test_routes_have_no_place_yet_so_their_key_is_refused_and_the_pack_serves"),
    )),
    "HTTP": (6, (
        row("the envelope; 400, 404, 405", "success data error Bad.Id", "test_refusals_come_in_the_envelope"),
        row("Packs from being found to being gone", "/api/packs /api/packs/pending /api/packs/scan scanned /approve "
            "/reject /api/containers/my_pack/start 403", "test_packs_from_being_found_to_being_gone"),
        row("`GET /api/docker/status`", "available required", "test_docker_and_what_isolates"),
        row("an ungranted privilege is 403", "/api/privileges", "test_privileges_are_granted_one_by_one_and_an_ungranted_one_is_403"),
        row("a changed file invalidates the Pack", "modified", "test_a_changed_file_invalidates_the_pack_until_it_is_approved_again"),
    )),
    "Doctor of the set-up / セットアップの診断": (7, (
        row("the ids of what it finds, and their fields", "user_data_missing user_data_{name}_missing ecosystem_missing "
            "flow_missing no_flow_files mounts_json_invalid active_ecosystem_json_invalid id severity message auto_fix "
            "fix_action fix_args", "test_each_finding_has_its_id_and_its_fields"),
        row("what can be mended is; healthy afterwards", "healthy",
            "test_what_can_be_mended_is_and_the_doctor_is_healthy_again"),
        row("healthy after `init` (`no_packs` is information)", "no_packs healthy", "test_after_init_the_doctor_is_healthy"),
        row("a broken file is kept before it is replaced", "backup", "test_a_broken_file_is_kept_before_it_is_replaced"),
    )),
}  # fmt: skip

HEAD: Final = """\
# Formats that keep working, and the tests that show it / 使い続けられる形式と、それを示すテスト

Packs, data and flows of older versions are read as they are. Each row has at least one acceptance test, in `tests/test_ecosystem_phase<n>.py`; those of Packs that run do it in
both sandboxes. This page is generated (`python -m tests.support.formats`), and a test holds it against the tests: each exists, and the words of its row stand in its file.

古い版のPack、データ、フローは、そのまま読めます。どの行にも少なくとも1つの受け入れテストがあります。このページは生成されたもので、挙げたテストがあり、その行の語を実際に使っていることを
テストが確かめます。

    ./rumi test tests/test_ecosystem_phase5.py     # one phase / 1つの段階
"""


def rendered() -> str:
    lines = [HEAD]
    for title, (phase, rows) in SECTIONS.items():
        lines += [f"## {title}", "", f"`tests/test_ecosystem_phase{phase}.py`", "", "| format | shown by |", "|---|---|"]
        lines += [f"| {one.what.replace('|', chr(92) + '|')} | {', '.join(f'`{name}`' for name in one.tests)} |" for one in rows]
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    DOCUMENT.write_text(rendered(), encoding="utf-8")
