"""docs/reference/diagnosis.md, made from the checks and fixups themselves. ``python -m tests.support.diagnosis_document``."""

from __future__ import annotations

from core_runtime.diagnosis.checks import __name__ as checks_package
from core_runtime.diagnosis.doctor import CHECK_S, MOST_FOUND
from core_runtime.diagnosis.parts import load_checks, load_fixups
from core_runtime.drivers.issue_history import KEPT_S, MAX_ROWS
from tests.support.documents import ROOT

DOCUMENT = ROOT / "docs/reference/diagnosis.md"

HEAD = """\
# What is wrong, and what mends it / 問題と対処

A failure anywhere in the host ends as an *issue*: a code that never changes, a subject, what is wrong, what to do next, and the chain of causes. The host also
looks by itself: after its start, soon after each decision about a Pack, and every five minutes, for at most a hundredth of the time.

    ./rumi doctor                # this machine, this installation, every check of the running host
    ./rumi doctor --fix          # and mend what decides nothing for you
    ./rumi issue list            # what stands now
    ./rumi issue fix ISSUE       # have the host mend one, as it suggested
    ./rumi issue history         # what stood before, over restarts: {days} days, at most {rows:,} rows

Over HTTP: `GET /api/issues`, `GET /api/issues/history`, `GET /api/doctor` (runs every check now), `POST /api/doctor/fix` `{{"issue": ID}}`, or `{{}}` for everything
that decides nothing. On the bus: `issue.changed` (`{{id, code, severity, subject, title, count, change: found|gone}}`), once a second at most. The console's page
*Issues* has the same as buttons. An issue has its `title` in English and `title_ja` by its code (`""` for an error that has no words there); the console, `rumi doctor`,
`rumi issue` and `rumi status` show the one of the reader's language. Details and hints are in English.

* What a check no longer finds is resolved. A check that fails or takes longer than {check_s:g} s is an issue of its own (`check_failed`); what it found before stays.
* One check reports at most {most} subjects; the rest is counted.
* A fixup takes what it acts on from the issue, never from who asks. It is in the audit trail (`fixup.performed`) before it acts. What it replaces is kept beside it as
  `NAME.broken-TIME`.
* *unasked*: `--fix` performs it. The others decide something, so they want to be named.

ホストのどこかで起きた失敗は、必ず *issue* になります。変わらないコード、対象、何が問題か、次に何をするか、原因の連なりを持ちます。ホストは起動後、Packについて決定した少し後、そして 5 分ごとに自分でも調べます（時間の
100 分の 1 まで）。`./rumi doctor` は全部を調べ、`--fix` は利用者の判断が要らないものを直します。`./rumi issue list|fix|history` は、いまの問題、1 つの修復、これまでの履歴です。
修復の対象はつねに issue から取られ、頼んだ側からは取られません。実行前に監査記録へ書かれ、置き換えたものは `名前.broken-時刻` として残ります。「任せる」と書かれたものは `--fix` で
行われ、ほかは 1 つずつ指定します。題名は利用者の言語で示され（API では `title` と `title_ja`）、詳細と次の手は英語です。
"""


def rendered() -> str:
    checks, fixups = load_checks(), load_fixups()
    lines = [
        HEAD.format(days=round(KEPT_S / 86_400), rows=MAX_ROWS, check_s=CHECK_S, most=MOST_FOUND),
        "## Checks / 調べること",
        "",
        f"{len(checks)} of them, one file each in `{checks_package.replace('.', '/')}`.",
        "",
        "| code | looks at | 調べるもの |",
        "|---|---|---|",
        *(f"| `{check.code}` | {check.title} | {check.title_ja} |" for check in checks.values()),
        "",
        "## Fixups / 直せること",
        "",
        "| name | does | すること | unasked / 任せる |",
        "|---|---|---|---|",
        *(
            f"| `{fixup.name}` | {fixup.title} | {fixup.title_ja} | {'yes' if fixup.automatic else ''} |"
            for fixup in fixups.values()
        ),
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    DOCUMENT.write_text(rendered(), encoding="utf-8")
