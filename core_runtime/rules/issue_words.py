"""What an issue is called in Japanese, by its code. Pure.

The title says what kind of thing is wrong; which Pack, file or flow it is about stands beside it, as the subject. Where
an issue comes from an error that has no words here, a face shows the English title.

Not here: titles in English, details and hints (where the issue is made), words of single faces.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

LIMIT: Final = "limit_"


def title_ja(code: str) -> str:
    """The title, or ``""`` where there is none."""
    if code.startswith(LIMIT):
        what = _LIMITS.get(code.removeprefix(LIMIT), "")
        return f"Packが上限に達しました（{what}）" if what else "Packが上限に達しました"
    return TITLES_JA.get(code, "")


_LIMITS: Final[Mapping[str, str]] = MappingProxyType({
    "memory": "メモリ", "cpu": "プロセッサー", "processes": "プロセスとスレッド", "files": "開いたファイルと接続",
    "tmp": "一時ファイル", "disk": "ユーザーデータ", "log": "ログへの出力", "message": "メッセージの大きさ",
    "rate": "1秒間の呼び出し", "values": "同時に運ばれる大きな値", "calls": "同時に行う呼び出し",
    "busy": "同時に受ける呼び出し", "depth": "呼び出しの深さ", "time": "呼び出しの時間",
    "requests": "同時に行うホストへの要求", "registrations": "登録",
})  # fmt: skip

TITLES_JA: Final[Mapping[str, str]] = MappingProxyType({
    # what checks find
    "account_damaged": "書き込んだファイルの記録が壊れています",
    "active_ecosystem_json_invalid": "active_ecosystem.jsonを読めません",
    "backup_old": "1か月より古い退避ファイルがあります",
    "choices_not_in_force": "active_ecosystem.jsonの選択がまだ効いていません",
    "clock_behind": "コンピュータの時計が戻されました",
    "data_without_pack": "なくなったPackのデータが残っています",
    "descriptors_short": "ホストが開けるファイルの数が残りわずかです",
    "disabled_unknown": "無効にした対象の部品が、どのPackにもありません",
    "disk_space_low": "ディスクの空きが残りわずかです",
    "evidence_set_aside": "変更された監査記録が退避されています",
    "folder_missing": "データフォルダがありません",
    "grant_without_pack": "決定済みのPackのフォルダがなくなりました",
    "inodes_low": "ファイルシステムに作れるファイルの数が残りわずかです",
    "interface_twice": "複数のPackが同じインターフェイスを提供しています",
    "isolation_reduced": "このコンピュータの隔離は弱くなっています",
    "isolation_unlike_approved": "承認時より隔離が弱くなっています",
    "key_rotation_waits": "新しい署名鍵が次の起動を待っています",
    "memory_short": "コンピュータのメモリが残りわずかです",
    "mount_missing": "マウント先のフォルダがありません",
    "mount_outside": "どのPackも到達できないマウントです",
    "mounts_json_invalid": "mounts.jsonを読めません",
    "override_unknown": "選ばれたPackはこのインターフェイスを提供していません",
    "pack_undecided": "Packがあなたの決定を待っています",
    "pack_unusable": "Packを使えません",
    "pack_waits": "Packがほかを待っています",
    "packages_missing": "PackのPythonパッケージがありません",
    "packs_folder_open": "ほかの利用者がecosystem/packsに書き込めます",
    "permission_unused": "Packが使っていない権限を持っています",
    "preference_unknown": "優先する部品が、どのPackにもありません",
    "private_folder_open": "ほかの利用者が非公開のフォルダに入れます",
    "publishers_unusable": "発行者の一覧を信頼できません",
    "quota_nearly_full": "Packのデータの空きが残りわずかです",
    "secret_missing": "Packが使う秘密がまだ入力されていません",
    "secret_unusable": "Packの秘密を使えません",
    "secrets_without_pack": "ないPackのための秘密が残っています",
    "signing_key_unusable": "署名鍵を信頼できません",
    "temporary_left": "書きかけのファイルが残っています",
    "token_unsafe": "管理APIのトークンを使えません",
    "update_undecided": "新しいバージョンがあなたの決定を待っています",
    "check_failed": "検査を最後まで行えませんでした",
    # Packs and what they do
    "bisect_not_restored": "呼び出しを壊すPackを探したあと、Packを起動し直せませんでした",
    "bus_backlog": "Packをバスから切り離しました（受け取りが追いつかない）",
    "bus_protocol": "Packをバスから切り離しました（決まりに反した）",
    "bus_stuck": "Packをバスから切り離しました（応答がない）",
    "component_disabled": "部品を無効にしました",
    "component_lifecycle": "部品の読み込みがホストの側で失敗しました",
    "contract_broken": "Packが承認された内容と違うものを登録しています",
    "denied": "Packの操作を拒否しました",
    "events_dropped": "イベントの受け取りが追いつかず、一部を捨てました",
    "interface_incompatible": "いま提供されているものをPackは使えません",
    "kept_running": "承認後にPackのファイルが変更されました",
    "mirror_failed": "登録された値をPackに見せられません",
    "pack_gave_up": "Packを動かし続けられませんでした",
    "pack_modified": "承認後にPackのファイルが変更されました",
    "pack_start_failed": "Packを起動できませんでした",
    "permission_requested": "Packが権限を求めています",
    "addon_copy": "アドオンを適用したコピーが、あるべきものと違います",
    "addon_rights": "アドオンがPackの権限を変えようとしています",
    "addons_not_applied": "適用されていないアドオンがあります",
    "runtime_changed": "Packが承認時と別の土台で動いています",
    "socket_stranger": "サンドボックスのソケットに見知らぬ接続がありました",
    "socket_strangers": "サンドボックスのソケットに見知らぬ接続が多すぎます",
    "stray_answer": "Packが、受けていない呼び出しに答えました",
    "unexpected_error": "予期しない失敗",
    # ways out, and what is fetched
    "dependencies_missing": "PackのPythonパッケージがありません",
    "dependencies_unfetched": "PackのPythonパッケージを取得できませんでした",
    "egress_budget": "Packが接続の予算を使い切りました",
    "egress_budgets_lost": "接続の予算の記録が失われました",
    "egress_budgets_unusable": "接続の予算を読めません",
    "egress_budgets_unwritable": "接続の予算の使用を書き込めません",
    "git_failed": "リポジトリを取得できませんでした",
    "git_missing": "Gitがインストールされていません",
    "oci_failed": "レジストリから取得できませんでした",
    "oci_mismatch": "レジストリの中身がそのダイジェストと違います",
    "publisher_unexpected": "別の発行者が署名しています",
    "wheel_refused": "Pythonパッケージのファイルを受け入れられません",
    # flows
    "flow_hook_failed": "フローのフックが失敗しました",
    "flow_invalid": "フローの文書が正しくありません",
    "flow_modifier": "フローの変更が適用されませんでした",
    "flow_refused": "フローを使えません",
    "flow_sealed": "封印されたフローは置き換えられません",
    "flow_step_failing": "フローのステップが失敗し続けています",
    "flow_taken": "フローにはほかの持ち主がいます",
    "flow_trigger_busy": "フローが許される回数より多く開始されています",
    "flow_trigger_loop": "フローが互いを開始し続けています",
    "flow_trigger_off": "フローの自動開始を止めました",
    "flow_twice": "同じフローが二つあります",
    "flow_view": "Packのフローの写しを書き込めません",
    "journal_full": "実行の記録がいっぱいです",
    # evidence, keys, decisions
    "audit_broken": "監査記録がこのホスト以外によって変更されました",
    "audit_unwritable": "証拠を書き込めません",
    "copy_differs": "動かそうとしたものが承認されたものと違います",
    "grant_missing": "Packの承認がありません",
    "identity_changed": "同じidの別のPackです",
    "journal_broken": "記録がこのホスト以外によって変更されました",
    "key_foreign": "署名鍵の持ち主が別の利用者です",
    "key_malformed": "署名鍵の形が正しくありません",
    "key_missing": "署名鍵がありません",
    "key_readable_by_others": "署名鍵をほかの利用者が読めます",
    "key_unreadable": "署名鍵を読めません",
    "pack_id_shared": "二つのフォルダが同じPackのidを名乗っています",
    "permission_forbidden": "Packが、誰も許可できないものを求めています",
    "uids_damaged": "利用者番号の表が壊れています",
    # the host and its machine
    "cgroup_failed": "サンドボックスの制御グループを作れませんでした",
    "console_code_refused": "コンソールを開かないコードが示されました",
    "desktop_failed": "デスクトップのプログラムが失敗しました",
    "desktop_unavailable": "これを行うデスクトップがありません",
    "docker_required": "Dockerが必要ですが、利用できません",
    "engine_refused": "エンジンが断りました",
    "engine_unavailable": "エンジンが応答しません",
    "event_journal_damaged": "イベントの記録を読めませんでした",
    "event_journal_unwritable": "イベントが保存されていません",
    "fixup_failed": "直せませんでした",
    "history_unusable": "問題の履歴を使えません",
    "image_build_failed": "土台のイメージを作れません",
    "image_missing": "土台のイメージがありません",
    "initialise_failed": "データフォルダを使えません",
    "isolation_none": "隔離の手段がありません",
    "isolation_weaker": "承認時より隔離が弱くなっています",
    "launcher_lost": "サンドボックスの起動役が応答しません",
    "loopback_failed": "ループバックのアドレスを使えません",
    "loopback_missing": "ループバックのアドレスがありません",
    "metrics_unwritable": "計測値が保存されていません",
    "operator_view": "Packの写しを書き込めませんでした",
    "packs_unreadable": "Packのフォルダを読めません",
    "port_refused": "このポートにはより強い権利が必要です",
    "port_taken": "Webページのための空いたポートがありません",
    "redirect_folder_unsafe": "コンソールを開くファイルのフォルダが非公開ではありません",
    "redirect_unwritable": "コンソールを開くファイルを書き込めません",
    "request_refused": "要求を拒否しました",
    "resources_invalid": "許可された資源を使えません",
    "run_dir_failed": "実行用のフォルダを作れません",
    "run_dir_unsafe": "実行用のフォルダが非公開ではありません",
    "runtime_failed": "サンドボックスの実行環境を作れません",
    "sandbox_invalid": "このサンドボックスは記述できません",
    "socket_failed": "サンドボックスのソケットを作れませんでした",
    "socket_path_too_long": "サンドボックスのソケットのパスが長すぎます",
    "stage_unsafe": "マウントのためのフォルダが安全ではありません",
    "start_failed": "サンドボックスを起動できませんでした",
    "startup_failed": "起動の安全確認が終わりませんでした",
    "storage": "保存できませんでした",
    "token_unusable": "管理APIのトークンを使えません",
    "too_many_packs": "Packのフォルダが多すぎます",
    "traces_not_sent": "トレースを送れません",
    "traces_unusable": "OTEL_の変数を使えないため、トレースは止まっています",
    "uid_unavailable": "Packに専用の利用者を割り当てられません",
    "uids_exhausted": "Packに割り当てる利用者番号が残っていません",
})  # fmt: skip
"""A code of which a check, an issue of the host's own, or an error that ends as one is made."""
