"""`docs/reference/isolation.md`, made of the rules and of the escape suite: `python -m tests.support.isolation_document`.

What the document says is either a constant of the product or an answer that `tests/attack/test_sandbox_escapes.py`
compares with a real sandbox's. `tests/unit/test_isolation_document.py` fails when the file differs from this text.
"""

from __future__ import annotations

import textwrap
from pathlib import Path

from core_runtime.rules import seccomp
from core_runtime.rules.frames import BusLimits
from core_runtime.rules.isolation import KERNEL_TUNNELS, REQUIRED_NAMESPACES, SANDBOXED_RUNTIMES, WRITABLE_ALLOWED
from core_runtime.rules.sandbox import CEILING, FLOOR, MIB, Limits
from core_runtime.rules.seccomp_tables import AARCH64, X86_64
from core_runtime.userdata_manager import DEFAULT_QUOTA_BYTES
from tests.support.escapes import ESCAPES, SURFACES

DOCUMENT = Path(__file__).resolve().parents[2] / "docs/reference/isolation.md"
NEWEST = 424
"""Number of the first system call that all architectures share (Linux 5.1): from here on, new calls."""


def rendered() -> str:
    parts = [_head(), _levels(), _limits(), _seccomp(), _escapes()]
    return "\n".join(parts)


def _head() -> str:
    return textwrap.dedent("""\
        # Isolation · 隔離

        <!-- made by `python -m tests.support.isolation_document`; a test compares it with the rules and the escape suite -->

        Each Pack runs in a sandbox of its own: a container of a Docker Engine, or the embedded sandbox (bubblewrap). Both get the same
        policy. `rumi doctor` shows which one this machine has, `rumi pack show ID` what was measured for a Pack.

        各 Pack は専用のサンドボックスで動きます。Docker Engine のコンテナか、組み込みサンドボックス (bubblewrap) です。方針は同じです。
        このマシンがどちらを使うかは `rumi doctor`、Pack ごとの測定結果は `rumi pack show ID` で確認できます。
        """)


def _levels() -> str:
    return textwrap.dedent(f"""\
        ## Levels, and how they are measured · 段階と測り方

        | level | what it takes | 条件 |
        |---|---|---|
        | `strong` | all of `standard`, and a kernel of its own: the engine says that it used a runtime such as {_names(sorted(SANDBOXED_RUNTIMES)[-2:])}, and the kernel inside is not this machine's | `standard` のすべてと、専用のカーネル (内側のカーネルがこのマシンのものと違うことを確認) |
        | `standard` | own user id (or own user namespace), our system-call filter, no capability, no_new_privs, cgroup limits of memory, processes and processor time, own {", ".join(REQUIRED_NAMESPACES)} namespaces | 専用ユーザー、システムコールフィルター、ケーパビリティなし、no_new_privs、cgroup の上限、専用の名前空間 |
        | `reduced` | one of these is missing; a sentence says which | どれかが欠けている (どれかは文で示されます) |
        | `none` | a border is broken (root, a capability of the host, a namespace of the host, a writable Pack, a file of the host): nothing runs | 境界が破れている。何も動きません |

        Two witnesses: the host reads `/proc/PID` of the sandbox (`status`, `ns`, `cgroup`, `mountinfo`), and the agent says what it sees from inside before a byte
        of the Pack is loaded. The weaker one counts. `source` is `measured` where the host looked, `reported` where it can't: an engine on another machine, or a host without
        root whose engine runs Packs under other users. Of the runtimes `runsc` (gVisor) is what the tests run (`tests/contract/test_gvisor.py`). A grant records driver, level and source; what is measured worse than granted is stopped,
        at its start and by a look every minute.
        Writable inside, at most: {_names(WRITABLE_ALLOWED)}. Interfaces besides `lo` that the kernel adds by itself and that lead nowhere: {_names(sorted(KERNEL_TUNNELS))}.

        証人は二つです。ホストはサンドボックスの `/proc/PID` を読み、エージェントは Pack を読み込む前に内側から見えるものを報告します。弱い方が採用されます。
        `source` は、ホストが見た場合は `measured`、見られない場合 (別マシンのエンジン、root でないホスト) は `reported` です。許可には driver・level・source が記録され、
        起動時と毎分の測定で、許可より弱いものは停止されます。
        """)


def _limits() -> str:
    default, low, high, bus = Limits(), FLOOR, CEILING, BusLimits()
    rows = (
        ("memory, swap off · メモリー", _mib(default.memory_bytes), "`memory_mb`", "the kernel ends it · カーネルが終了"),
        ("processor · CPU", f"{default.cpus:g}", "`cpu`", "it waits · 待たされる"),
        ("processes and threads · プロセスとスレッド", str(default.pids), "`pids`", "fork fails · fork が失敗"),
        ("open files · 開けるファイル", str(default.files), "–", "open fails · open が失敗"),
        ("`/tmp`", _mib(default.tmp_bytes), "`tmp_mb`", "no space · 空きなし"),
        ("user data · ユーザーデータ", _mib(DEFAULT_QUOTA_BYTES), "`disk_mb`", "the write is refused · 書き込みを拒否"),
        ("log rate · ログの速さ", f"{_kib(bus.log_bytes_per_s)}/s", "–", "dropped and counted · 捨てて数える"),
        ("log that is kept · 残すログ", _mib(default.log_bytes_kept), "–", "the oldest lines go · 古い行から消える"),
        ("one message, a result · 一つの値", _mib(bus.value_bytes), "–", "the call fails · 呼び出しが失敗"),
        ("values beyond a frame at once · 一フレームを超える値の同時数", f"{bus.values}, {_mib(bus.value_bytes)}", "–", "the call is refused · 呼び出しを拒否"),
        ("calls in a second · 1 秒間の呼び出し", str(bus.calls_per_s), "–", "the call is refused · 呼び出しを拒否"),
        ("calls in flight · 同時の呼び出し", str(bus.in_flight), "–", "the call is refused · 呼び出しを拒否"),
        ("calls within calls · 呼び出しの深さ", str(bus.depth), "–", "the call is refused · 呼び出しを拒否"),
        ("time of a call · 呼び出しの時間", f"{bus.deadline_ms / 1000:g} s", "–", "the caller is answered · 呼び出し側へ応答"),
        ("requests to the host · ホストへの要求", str(bus.requests), "–", "the request is refused · 要求を拒否"),
        ("registrations · 登録", f"{bus.registrations}, {bus.register_per_s}/s", "–", "the registration is refused · 登録を拒否"),
    )  # fmt: skip
    head = (
        "## Limits, on by default · 既定の上限\n\n"
        "A granted `resources` permission raises what has a parameter, never beyond the machine, "
        f"within {_mib(low.memory_bytes)} to {_mib(high.memory_bytes)} of memory and {low.pids} to {high.pids} processes.\n"
        "`rumi pack show ID` and `GET /api/packs/{id}/limits` show each with what is used and how often it was met.\n"
        "パラメーターのあるものは `resources` の許可で引き上げられます (マシンの大きさが上限です)。"
        "使用量と到達回数は `rumi pack show ID` で見られます。\n\n"
        "| limit · 上限 | default · 既定 | `resources` | beyond it · 超えると |\n|---|---|---|---|\n"
    )
    return head + "".join(f"| {' | '.join(row)} |\n" for row in rows) + _limits_of_a_guest()


def _limits_of_a_guest() -> str:
    return textwrap.dedent("""
        **gVisor** holds the same limits in its own way. The number of processes is what its kernel takes on this machine: some 45 by itself, one or more for each
        process of the Pack, none for a thread that sleeps; that kernel ends when it is refused one, so beyond the limit the whole Pack ends (and starts anew), and with
        a limit of 20 it can't start. Beyond the memory it ends as a whole too. Either is told as the limit that was met. `/tmp` is full at its size, but files in it
        are not counted, and neither a full `/tmp` nor open files can be seen from the host: no issue tells of them.

        **gVisor** も同じ上限を独自の方法で守ります。プロセス数はそのカーネルがこのマシンで使う数です (カーネル自身が約 45、Pack のプロセスごとに一つ以上、眠っている
        スレッドは数えません)。上限で拒否されるとカーネルごと終了するので、Pack 全体が終了し (再起動されます)、上限が 20 では起動できません。メモリーも同様です。
        どちらも到達した上限として通知されます。`/tmp` は大きさで制限されますが、ファイル数は数えません。満杯の `/tmp` と開いたファイルはホストから見えず、通知されません。
        """)


def _seccomp() -> str:
    new = {name: number for name, number in X86_64.items() if number >= NEWEST}
    allowed = sorted(name for name in new if name in seccomp.allowed())
    refused = sorted(name for name in new if name in seccomp.refused())
    return textwrap.dedent(f"""\
        ## System calls · システムコール

        An allow-list of {len(seccomp.allowed())} calls; {len(seccomp.refused())} that are known and dangerous get EPERM; everything else, also every call that a future kernel adds, gets ENOSYS.
        By their arguments: {_names(sorted(seccomp.CONDITIONAL))} (no flag of a new namespace; only Unix, TCP, UDP and route-netlink sockets; not {_names(f"0x{n:x}" for n in seccomp.REFUSED_IOCTLS)}).
        Other architectures' numbers (x32, 32 bit) end the process. Tables for x86_64 ({len(X86_64)} numbers) and aarch64 ({len(AARCH64)}).

        {len(seccomp.allowed())} 個の呼び出しだけを許可し、危険と分かっている {len(seccomp.refused())} 個には EPERM、将来のカーネルが加えるものを含むその他すべてには ENOSYS を返します。

        | calls since Linux 5.1 · Linux 5.1 以降の呼び出し | answer · 応答 |
        |---|---|
        | {_names(allowed)} | allowed · 許可 |
        | {_names(refused)} | EPERM |
        | `clone3`, and every other · その他すべて | ENOSYS |
        """)


def _escapes() -> str:
    lines = [
        f"## Escapes that are tried · 試している脱出 ({len(ESCAPES)})",
        "",
        "Each is carried out by `tests/attack/test_sandbox_escapes.py` inside a real sandbox of both drivers, with the host as root and as an ordinary user",
        "(`tests/contract/test_ordinary_user.py`); a test fails at any other answer than these. Several answers joined by / are as good.",
        "各行は `tests/attack/test_sandbox_escapes.py` が両方のサンドボックスの中で実行し、root のホストでも一般ユーザーのホストでも同じ応答を確かめます。",
        "",
    ]
    for surface, title in SURFACES.items():
        lines += [f"### {title}", "", "| tried · 試すこと | Docker | embedded |", "|---|---|---|"]
        lines += [
            f"| {escape.en} · {escape.ja} | {escape.expected('docker')} | {escape.expected('embedded')} |"
            for escape in ESCAPES
            if escape.surface == surface
        ]
        lines.append("")
    return "\n".join(lines)


def _names(names: object) -> str:
    return ", ".join(f"`{name}`" for name in names)  # type: ignore[attr-defined]


def _mib(size: int) -> str:
    return f"{size // MIB} MiB"


def _kib(size: int) -> str:
    return f"{size // 1024} KiB"


if __name__ == "__main__":
    DOCUMENT.write_text(rendered(), encoding="utf-8")
