"""The Japanese catalogue of `words.say`: English sentence → Japanese. Data only.

A test checks that every sentence said by the command line is here, and that the places in braces agree.
"""

from __future__ import annotations

JAPANESE: dict[str, str] = {
    # events and edges
    "What happened, as events; --follow goes on": "起きたことをイベントとして表示します（--follow で続けて表示）",
    "What happened, as events, oldest first; --follow goes on with what happens.":
        "起きたことを古い順にイベントとして表示します。--follow でこれから起きることも続けて表示します。",
    "Only what this Pack published.": "この Pack が発行したものだけ。",
    "Go on until interrupted.": "中断されるまで続けます。",
    "How many of the newest; with --since how many of the oldest, all unless given.":
        "新しいものから何件か。--since と併用すると古いものから何件か（指定しなければすべて）。",
    "Those after the event of this id; `oldest`: all that is kept.":
        "この ID のイベントより後のもの。`oldest` なら残されたものすべて。",
    "{since} is no event's id.": "{since} はイベントの ID ではありません。",
    "Some events in between are no longer kept.": "途中のイベントの一部はもう残っていません。",
    "Who called which key since the host started: calls, errors, latency.":
        "ホストの起動以降、誰がどのキーを呼び出したか（回数・エラー・所要時間）。",
    "Only edges from or to this Pack.": "この Pack からの、またはこの Pack への呼び出しだけ。",
    "caller": "呼び出し元",
    "calls": "回数",
    "errors": "エラー",
    "p50": "p50",
    "p99": "p99",
    # secrets
    "Passwords and keys for Packs: set, list, remove": "Pack に渡すパスワードや鍵の設定・一覧・削除",
    "Enter a value: typed without echo, or piped into the command.":
        "値を設定します。画面に表示せずに入力するか、パイプで渡します。",
    "Which secrets were entered for a Pack, and when it received them; never the values.":
        "Pack に設定したシークレットと、渡した日時を表示します（値は表示しません）。",
    "Delete a secret; a running Pack keeps what it received until it ends.":
        "シークレットを削除します。実行中の Pack は、渡した値を終了まで保持します。",
    "Value of {name} for {pack}": "{pack} に渡す {name} の値",
    "Once more": "もう一度",
    "That is too long for a secret.": "シークレットとしては長すぎます。",
    "It asks for {name}, which was not entered.": "{name} を要求していますが、まだ設定されていません。",
    "It does not ask for {name}.": "{name} は要求されていません。",
    "never": "なし",
    "name": "名前",
    "set": "設定日時",
    "handed over": "渡した日時",
    "usable": "使用可",
    # help
    "Rumi: runs Packs, each in its own sandbox.": "Rumi: Pack をそれぞれ専用のサンドボックスで実行します。",
    "Commands": "コマンド",
    "Exit codes": "終了コード",
    "Print JSON.": "JSON で出力します。",
    "Set up whatever is missing and run the host": "不足しているものを準備し、ホストを実行します",
    "Open the console in the browser": "ブラウザーでコンソールを開きます",
    "Open the console in your browser, with a session that may decide.":
        "判断できるセッション付きで、ブラウザーにコンソールを開きます。",
    "Print the file to open, and start no browser.": "開くファイルを表示するだけで、ブラウザーは起動しません。",
    "Your browser opens this file. It works once, for {n} seconds.":
        "ブラウザーがこのファイルを開きます。{n} 秒以内に一度だけ使えます。",
    "Open this file in a browser of yours. It works once, for {n} seconds.":
        "このファイルを自分のブラウザーで開いてください。{n} 秒以内に一度だけ使えます。",
    "Stop the host": "ホストを停止します",
    "What runs, what needs a decision, what is wrong": "実行中のもの、判断待ちのもの、問題を表示します",
    "Packs: list, review, approve, reject, start, stop, new": "Pack の一覧・確認・承認・拒否・開始・停止・新規作成",
    "Call an interface: rumi call KEY '{\"name\": \"value\"}'":
        "インターフェースの呼び出し: rumi call KEY '{\"name\": \"value\"}'",
    "Interfaces: list, show, edges, alias": "インターフェースの一覧・表示・呼び出しの集計・別名",
    "Other names for interfaces: list, add, remove": "インターフェースの別名の一覧・追加・削除",
    "Every other name, and the interface that it means.": "すべての別名と、それが指すインターフェース。",
    "Let NAME mean the interface KEY, for `rumi call`, calls over HTTP and steps of flows.":
        "`rumi call`、HTTP の呼び出し、フローのステップで、NAME がインターフェース KEY を指すようにします。",
    "Forget NAME; the interface itself stays.": "NAME を忘れます。インターフェース自体は残ります。",
    "hides one of": "隠している Pack",
    "Nobody provides {key} now.": "{key} は今だれも提供していません。",
    "{file} can't be used: {why}": "{file} は使えません: {why}",
    "Correct it, or have what is in force written, keeping it as a backup: ./rumi doctor --fix":
        "直してください。効いている内容で書き直す（元のファイルは残す）こともできます: ./rumi doctor --fix",
    "No interface has another name.": "別名のあるインターフェースはありません。",
    "What a Pack printed and logged last": "Pack の最近の出力とログ",
    "Running containers: list, start, stop": "実行中のコンテナの一覧・開始・停止",
    "Find what is wrong, and mend it with --fix": "問題を探します（--fix で修復）",
    "The management API's bearer token": "管理 API のトークン",
    "Set up the environment": "環境を準備します",
    "Run the quick checks over the source": "ソースを手早く検査します",
    "Set up whatever is missing and run all tests": "不足しているものを準備し、すべてのテストを実行します",
    "Measure": "性能を測定します",
    "Set up whatever is missing, start the host and say where it is.":
        "不足しているものを準備し、ホストを起動して、その場所を表示します。",
    "Leave it running in the background.": "バックグラウンドで実行し続けます。",
    "Install from a folder of wheels.": "wheel のフォルダーからインストールします。",
    "Stop the host that serves this home.": "このホームで動いているホストを停止します。",
    "What runs, what needs a decision, what is wrong.": "実行中のもの、判断待ちのもの、問題を表示します。",
    "Find what is wrong with this installation; --fix mends what can be mended, keeping backups.":
        "このインストールの問題を探します。--fix はバックアップを残して、直せるものを直します。",
    "Mend what can be mended.": "直せるものを直します。",
    "What is wrong: list, fix, history": "問題の一覧・修復・履歴",
    "What stands now, with what to do about it.": "いまある問題と、その対処を表示します。",
    "Have the host mend one issue as it suggested.": "ホストが提案したとおりに、問題を 1 つ直させます。",
    "Which suggestion, where there are several.": "提案が複数あるとき、どれにするか。",
    "What stood before, newest first, over restarts of the host.":
        "ホストの再起動をまたいだ、これまでの問題（新しい順）。",
    "Only about this Pack or part.": "この Pack または部分についてだけ。",
    "Only issues of this kind.": "この種類の問題だけ。",
    "Not looked at": "調べられなかったもの",
    "stands": "継続中",
    "mended": "直しました",
    "not mended": "直せませんでした",
    "Print the bearer token of the management API, for programs on other systems or users.":
        "管理 API のトークンを表示します（ほかのシステムやユーザーのプログラム用）。",
    "Print where it is, not what it is.": "内容ではなく、置き場所を表示します。",
    "Call an interface with JSON arguments; `-` reads them from standard input.":
        "JSON の引数でインターフェースを呼び出します。`-` なら標準入力から読みます。",
    "Seconds to wait.": "待つ秒数。",
    "Lines are read once, so a call with --lines has no idempotency key.":
        "行は一度しか読まれないので、--lines の呼び出しに冪等キーはありません。",
    "Reaches the handler: give the same one again when you try the same call again.":
        "ハンドラーに届くキー。同じ呼び出しをやり直すときは、同じものを渡します。",
    "Print items as they come, one JSON document a line.": "届いた順に、1 行に 1 つの JSON を出力します。",
    "Every key that can be called, and who provides it.": "呼び出せるすべてのキーと、その提供元。",
    "One key: who provides it and what it takes.": "1 つのキーの提供元と引数。",
    "What a Pack printed and logged last, oldest first.": "Pack の最近の出力とログ（古い順）。",
    "What runs, and how well isolated.": "実行中のものと、その隔離の強さ。",
    "Start the container of an approved Pack.": "承認済みの Pack のコンテナを開始します。",
    "Stop the container of a Pack.": "Pack のコンテナを停止します。",
    "All Packs and their state.": "すべての Pack とその状態。",
    "Packs that wait for a decision.": "判断待ちの Pack。",
    "State of one Pack, and what was approved.": "1 つの Pack の状態と、承認の内容。",
    "Everything that the decision needs: rights, risks, findings, differences.":
        "判断に必要なすべて: 権限、リスク、所見、差分。",
    "Approve a Pack. On a terminal it shows the review first and asks; what was shown is what is approved. "
    "Without one and without --digest, it approves what lies on the disk, leaving out the riskiest rights.":
        "Pack を承認します。端末では先に内容を表示して確認を求め、表示したとおりのものを承認します。"
        "端末でなく --digest もなければ、ディスク上の内容を、最も危険な権限を除いて承認します。",
    "Approve exactly this state of the files.": "ファイルのこの状態だけを承認します。",
    "Do not ask; approve what the review shows.": "確認せず、表示される内容を承認します。",
    "Agree to a weaker isolation than approved before.": "以前の承認より弱い隔離に同意します。",
    "Reject a Pack, and stop it.": "Pack を拒否し、停止します。",
    "Why, for the record.": "記録に残す理由。",
    "Uninstall a Pack: its folder, what was approved, its copy.":
        "Pack をアンインストールします（フォルダー、承認の記録、コピー）。",
    "Do not ask.": "確認しません。",
    "Put the approved files back over changed ones, and start.": "変更されたファイルを承認時のものに戻し、開始します。",
    "Start an approved Pack.": "承認済みの Pack を開始します。",
    "Run an approved Pack's code afresh, or one component's; no call is lost.":
        "承認済みの Pack、または 1 つのコンポーネントのコードを新しく実行し直します。呼び出しは失われません。",
    "Stop a Pack; it stays approved.": "Pack を停止します（承認は残ります）。",
    "Look at the folder of Packs again.": "Pack のフォルダーを調べ直します。",
    "Make a new Pack that works, to begin with.": "出発点として、そのまま動く新しい Pack を作ります。",
    "Your name in its identity.": "識別子に入れるあなたの名前。",
    "Another folder than ecosystem/packs.": "ecosystem/packs 以外のフォルダー。",
    "Connections of a Pack, bytes against budgets, what was refused lately.":
        "Pack の接続、予算に対する通信量、最近の拒否。",
    "this hour": "この 1 時間", "open": "接続中", "refused": "拒否",
    "Open connections": "接続中のもの", "Destinations": "接続先", "Refused lately": "最近の拒否",
    "{n} connections": "接続 {n} 回",
    "leads into your own network or machine: {addresses}":
        "あなたのネットワークやマシンの内側に届きます: {addresses}",
    "What changed against the approved version: permissions and files.":
        "承認済みのバージョンからの変更（権限とファイル）。",
    "What a Pack may do, and how much of it it uses.": "Pack に許された権限と、その使用状況。",
    "Grant one more permission that the Pack declared; it acts at once.":
        "Pack が宣言した権限を 1 つ追加で許可します（すぐに有効）。",
    "Take a permission away, or only some paths, keys or topics of it; it acts at once.":
        "権限の全部、または一部のパス・キー・トピックを取り上げます（すぐに有効）。",
    "For one use.": "1 回だけ。",
    "Until the host restarts.": "ホストの再起動まで。",
    "Until then: 90m, 8h, 7d or a date.": "期限: 90m、8h、7d または日時。",
    "Also all that was not used since counting began.": "集計の開始以降に使われなかったものもすべて。",
    "Grant only these; each is a type or a JSON object. Name none as --permission ''.":
        "これだけを許可します（型名または JSON オブジェクト）。何も許可しないときは --permission ''。",
    "Let it take over this key of another Pack.": "ほかの Pack のこのキーの置き換えを許可します。",
    "Remove the files that a Pack made, as its journal lists them.":
        "Pack が作ったファイルを、記録に従って削除します。",
    "Really remove them; without it, only list them.": "実際に削除します。付けなければ一覧だけを表示します。",
    "The audit trail: tail, verify, acknowledge": "監査記録: 表示・検証・確認",
    "The last records, oldest first.": "最近の記録（古い順）。",
    "Only about this Pack.": "この Pack に関するものだけ。",
    "Only events whose name begins so.": "名前がこう始まるイベントだけ。",
    "Check that nothing was edited, reordered or taken away.": "改ざん・並べ替え・削除がないかを検証します。",
    "Go on although the trail was changed; that you did is recorded.":
        "記録が変更されていても続行します（続行したことは記録されます）。",
    "Operations of the host for Packs: list, grant, revoke, reset, execute":
        "Pack のためのホスト操作: 一覧・許可・取り消し・全取り消し・実行",
    "Every operation with its risk and its parameters, and who may use it.":
        "すべての操作の危険度と引数、使用を許された Pack。",
    "Let a Pack use an operation that it declares.": "Pack が宣言した操作の使用を許可します。",
    "What the operation needs to know, such as folder=/home/me/out.":
        "操作に必要な設定（例: folder=/home/me/out）。",
    "Take an operation away from a Pack; it acts at once.": "Pack から操作の許可を取り上げます（すぐに有効）。",
    "Perform an operation in a Pack's name.": "Pack の名前で操作を実行します。",
    # exit codes
    "done": "成功",
    "failed": "失敗",
    "the command line is wrong": "コマンドラインの誤り",
    "the host does not run, or can't serve now": "ホストが動いていないか、いまは応じられない",
    "denied": "拒否された",
    "no such thing": "存在しない",
    "not in this state: a decision is needed first": "この状態ではできない: 先に判断が必要",
    "a Pack's code or files failed": "Pack のコードまたはファイルの問題",
    "interrupted": "中断された",
    # tables and sections
    "key": "キー",
    "owner": "提供元",
    "available": "利用可能",
    "yes": "はい",
    "no": "いいえ",
    "Flows": "フロー",
    "adds {flow} ({file})": "{flow} を追加 ({file})",
    "changes {flow} ({file})": "{flow} を変更 ({file})",
    "{file} would be refused: {why}": "{file} は拒否されます: {why}",
    "no: {why}": "いいえ: {why}",
    "none": "なし",
    "pack": "Pack",
    "status": "状態",
    "cause": "原因",
    "detail": "詳細",
    "version": "バージョン",
    "identity": "識別子",
    "description": "説明",
    "digest": "ダイジェスト",
    "approved": "承認日時",
    "approved by": "承認した人",
    "Isolation": "隔離",
    "isolation": "隔離",
    "bus transport": "バスの経路",
    "Limits: used, of which, met how often": "上限: 使用量 / 上限、達した回数",
    "met {n} times: {beyond}": "{n} 回到達: {beyond}",
    "changed files": "変更されたファイル",
    "id": "ID",
    "driver": "方式",
    "level": "強さ",
    "state": "状態",
    "restarts": "再起動",
    "last error": "直近のエラー",
    "host": "ホスト",
    "console": "コンソール",
    "API": "API",
    "Packs": "Pack",
    "Issues": "問題",
    "Mended": "修復したもの",
    "Found": "見つかった問題",
    "Machine": "マシン",
    "Host": "ホスト",
    "author": "作者",
    "files": "ファイル",
    "approved version": "承認済みのバージョン",
    "rating": "評価",
    "Permissions": "権限",
    "Deductions": "減点",
    "Findings": "所見",
    "Provides": "提供",
    "Your aliases": "あなたの別名",
    "calls over HTTP, the command line and flows reach what the name means, not what this Pack provides under it":
        "HTTP・コマンドライン・フローからの呼び出しは別名が指すものに届き、このPackがこの名前で提供するものには届きません",
    "this Pack provides what the name means, and answers who calls the name if you let it take the place of {owner}":
        "このPackは別名が指すものを提供します。{owner} の置き換えを許可すると、別名への呼び出しにこのPackが答えます",
    "this Pack provides what the name means: once approved, it answers who calls the name":
        "このPackは別名が指すものを提供します。承認すると、別名への呼び出しにこのPackが答えます",
    "Calls": "呼び出し先",
    "Contracts": "取り決め（バージョンとスキーマ）",
    "Packs that could not use it": "これを使えなくなるPack",
    "Addons": "アドオン",
    "Components": "コンポーネント",
    "Pass standard input as a stream: one JSON value a line, read as it is used.":
        "標準入力をストリームとして渡します。1 行に 1 つの JSON 値で、使われるにつれて読み込みます。",
    "With --lines the argument is what comes on standard input.": "--lines では、標準入力の内容が引数になります。",
    "effective digest": "適用後のダイジェスト",
    "is applied": "適用されます",
    "is left out": "適用されません",
    "is refused": "拒否されます",
    "conflicts with another": "別のアドオンと衝突します",
    "does not fit": "当てはまりません",
    "no version": "バージョンなし",
    "nothing": "なし",
    "What the isolation lacks": "隔離に欠けているもの",
    "approved isolation": "承認時の隔離",
    "low": "低",
    "medium": "中",
    "high": "高",
    "required": "必須",
    "optional": "任意",
    "nobody yet": "まだなし",
    "Together these can carry data out:": "組み合わせると、データが外に出る可能性があります:",
    "reads private data": "個人のデータを読む",
    "takes in what strangers wrote": "他人が書いたものを取り込む",
    "can send data out": "データを外に送れる",
    "Granted": "許可済み",
    "Not granted": "未許可",
    "Asked for while running": "実行中に求められたもの",
    "used {n} times": "{n} 回使用",
    "never used": "未使用",
    "over": "終了",
    "until {when}": "{when} まで",
    "always": "常に",
    "once": "1 回だけ",
    "until the host restarts": "ホストの再起動まで",
    "granted": "許可済み",
    "not granted": "未許可",
    "Removed": "削除したもの",
    "Would be removed": "削除の対象",
    "Left alone": "残したもの",
    "Not removable": "削除できなかったもの",
    "audit trail": "監査記録",
    "install journal": "インストール記録",
    "finding": "検出",
    "set aside": "退避したファイル",
    "path": "場所",
    "risk": "危険度",
    "title": "内容",
    "parameters": "引数",
    "options": "設定",
    "granted to": "許可先",
    "Replaces": "置き換え",
    "Keys with meaning to the host": "ホストにとって意味を持つキー",
    "Dependencies": "依存",
    "Python packages": "Python パッケージ",
    "Changed packages": "パッケージの変更",
    "Changed contracts": "取り決めの変更",
    "fetched when approved": "承認後に取得",
    "pure Python": "Python のみ",
    "machine code: {names}": "機械語: {names}",
    "Changed permissions": "権限の変更",
    "Changed files": "変更されたファイル",
    "Risk by combination": "組み合わせによるリスク",
    "WARNING: another identity than the approved version's.": "警告: 承認済みのバージョンと識別子が異なります。",
    "Its author says:": "作者の説明:",
    # sentences
    "Next: {command}": "次: {command}",
    "No command is called {word!r}.": "{word!r} というコマンドはありません。",
    "Did you mean {near!r}?": "{near!r} のことですか？",
    "Interrupted.": "中断しました。",
    "Healthy.": "正常です。",
    "Not healthy.": "問題があります。",
    "Nothing waits for a decision.": "判断待ちのものはありません。",
    "Nothing was changed.": "何も変更していません。",
    "Nothing changed.": "変更はありません。",
    "It was never approved, so there is nothing to compare with.":
        "まだ承認されていないため、比較するものがありません。",
    "The new limits count from its next start on.": "新しい上限は、次の開始から有効です。",
    "Name a type, or say --unused.": "型を指定するか、--unused を付けてください。",
    "{text} is no time: write 90m, 8h, 7d, or a date such as 2030-01-31T18:00.":
        "{text} は時刻ではありません: 90m、8h、7d、または 2030-01-31T18:00 のように書いてください。",
    "The permission is no JSON: {why}": "権限が JSON ではありません: {why}",
    "The parameters are no JSON: {why}": "引数が JSON ではありません: {why}",
    "{text} is no option: write NAME=VALUE.": "{text} は設定ではありません: NAME=VALUE と書いてください。",
    "Acknowledged. Packs may start and be approved again.": "確認しました。Pack の開始と承認を再開できます。",
    "Approve {pack}?": "{pack} を承認しますか？",
    "Delete {pack} and its folder?": "{pack} とそのフォルダーを削除しますか？",
    "This deletes the Pack's folder. Without a terminal, say --yes.":
        "Pack のフォルダーを削除します。端末でない場合は --yes を付けてください。",
    "{pack} is gone.": "{pack} を削除しました。",
    "{pack} was approved but does not run.": "{pack} は承認されましたが、動いていません。",
    "{pack} has written nothing yet.": "{pack} はまだ何も出力していません。",
    "{n} Packs.": "Pack は {n} 個です。",
    "{id} is no Pack id: 1 to 64 of a-z, 0-9, _ and -, beginning with a letter.":
        "{id} は Pack の ID ではありません: 英小文字で始まる、a-z・0-9・_・- の 1〜64 文字です。",
    "The arguments are longer than 1 MB.": "引数が 1 MB を超えています。",
    "The arguments are no JSON: {why}. Write them in single quotes, as in '{example}'.":
        "引数が JSON ではありません: {why}。'{example}' のように一重引用符で囲んでください。",
    "Whoever has this token decides over every Pack. Keep it to yourself.":
        "このトークンを持つ人は、すべての Pack を左右できます。他人に見せないでください。",
    "{path} is missing: this is no complete copy of the project.":
        "{path} がありません: プロジェクトの完全なコピーではありません。",
    "Fetch the project again.": "プロジェクトを取得し直してください。",
    # the way to the host
    "The host does not run.": "ホストが動いていません。",
    "Start it: ./rumi up": "起動: ./rumi up",
    "Start the host once: ./rumi up": "一度ホストを起動してください: ./rumi up",
    "./rumi status": "./rumi status",
    "{path} is not a private folder of yours; nothing was sent.":
        "{path} はあなた専用のフォルダーではありません。何も送信していません。",
    "Look at who made it: ls -ld {path}": "誰が作ったかを確認してください: ls -ld {path}",
    "The socket is served by user {found}, not by you; nothing was sent.":
        "ソケットの相手はあなたではなくユーザー {found} です。何も送信していません。",
    "Run the command as the user that runs the host.": "ホストを実行しているユーザーで実行してください。",
    "{path} may be read by others; it is not a secret any more.":
        "{path} は他人にも読めるため、もう秘密ではありません。",
    "Remove it and start the host again: it makes a new one.": "削除してホストを起動し直すと、新しいものが作られます。",
    "There is no token yet: {path}": "トークンがまだありません: {path}",
    "{path} can't be read: {why}": "{path} を読めません: {why}",
    "The host did not answer in time.": "ホストが時間内に応答しませんでした。",
    "The connection to the host broke: {why}": "ホストとの接続が切れました: {why}",
    "The answer is too large.": "応答が大きすぎます。",
    "One item of the stream is too large.": "ストリームの 1 項目が大きすぎます。",
    "The host answered with something that is no JSON.": "ホストの応答が JSON ではありません。",
    "The host answered in a form that this command does not know.": "ホストの応答が、このコマンドの知らない形式です。",
    "The host refused, without a reason ({status}).": "ホストが理由を示さずに拒否しました ({status})。",
    "The host may be of another version: ./rumi down, then ./rumi up":
        "ホストのバージョンが違うかもしれません: ./rumi down のあと ./rumi up",
    "Look at what went wrong: ./rumi doctor": "何が起きたかを調べてください: ./rumi doctor",
    # updates
    "Bring a Pack in from a folder, a zip or tar archive, a Git repository, or a registry (oci://HOST/NAME:TAG): a "
    "new one, or a new version of an approved one, which goes on running.":
        "フォルダー、zip か tar のアーカイブ、Git リポジトリ、レジストリ (oci://HOST/NAME:TAG) から Pack を"
        "取り込みます: 新しい Pack、または承認済みの Pack の新しい版 (今の版は動き続けます)。",
    "Which branch, tag or commit of a repository.": "リポジトリのどのブランチ、タグ、コミットか。",
    "--ref is for Git repositories; {source} is none.": "--ref は Git リポジトリ用です。{source} は違います。",
    "Refuse it unless it is signed with just this key.": "この鍵による署名でなければ拒否します。",
    "It is {pinned}.": "取得したもの: {pinned}",
    "Version {new} of {pack} is staged; what is approved goes on.":
        "{pack} の版 {new} を待機させました。承認済みの版はそのまま動きます。",
    "{pack} is there; it does not run before it is approved.": "{pack} を取り込みました。承認するまで動きません。",
    "Put the staged version of a Pack in the place of the approved one. One that does not start is taken back.":
        "待機中の新しい版を、承認済みの版と入れ替える。起動しない版は自動的に元へ戻す。",
    "Only show the differences.": "違いを表示するだけにする。",
    "Update {pack}?": "{pack} を更新しますか?",
    "Fetch the Python packages that an approved Pack lacks, and start it.":
        "承認済みの Pack に足りない Python パッケージを取得し、起動する。",
    "Throw the staged version of a Pack away.": "待機中の新しい版を捨てる。",
    "Return to the version before the last update, with the Pack's data of then.":
        "最後の更新の前の版に、当時の Pack のデータとともに戻す。",
    "waiting update": "待機中の更新",
    "in development": "開発中",
    "update {version} waits": "更新 {version} が待機中",
    "Updates that wait": "待機中の更新",
    # flows
    "Flows: list, validate, run, explain, graph, plan, runs": "フロー: list, validate, run, explain, graph, plan, runs",
    "Every flow as it would run now.": "いま実行される形での、すべてのフロー。",
    "Read a flow's or modifier's file: every problem with line and column.":
        "フローまたは修飾のファイルを読み、問題を行と桁で示す。",
    "The file is larger than 1 MB.": "ファイルが 1 MB を超えています。",
    "{file} is not valid.": "{file} は正しくありません。",
    "{file} is valid: {kind} {name}.": "{file} は正しい形です: {kind} {name}",
    "Run a flow with JSON input; `-` reads it from standard input.":
        "JSON の入力でフローを実行する。`-` は標準入力から読む。",
    "Each step: where it comes from, who it acts as, what modifiers did to it.":
        "各ステップの出所、誰の権限で動くか、修飾が何をしたか。",
    "Show the difference that one modifier makes.": "一つの修飾による違いを示す。",
    "Print a document of an older style in the form of today.": "古い形式の文書を、現在の形式で表示する。",
    "Print the flow as it runs, as a document in the form of today.":
        "実行される形のフローを、現在の形式の文書として表示する。",
    "Written in an older style ({style}). In the form of today: {command}":
        "古い形式（{style}）で書かれています。現在の形式での表示: {command}",
    "from the journal": "記録から",
    "the host": "ホスト",
    "the operator": "運用者",
    "Changes that left no step": "ステップに残らなかった変更",
    "The flow as a graph in Mermaid's text form.": "フローを Mermaid のテキスト形式のグラフで示す。",
    "What a run would call, and by whose rights; nothing is called.":
        "実行すると何を誰の権限で呼ぶか。何も呼び出さない。",
    "What ran, newest first; runs that were cut off can be resumed.":
        "実行の一覧、新しい順。途中で切れた実行は再開できる。",
    "One run: each step with its status, its time and its error.": "一つの実行: 各ステップの状態・時間・エラー。",
    "Go on with a journalled run that was cut off, from its last finished step.":
        "記録付きの切れた実行を、最後に終わったステップから続ける。",
    "End a run that is under way; its finally steps run.": "実行中のものを終える。finally のステップは実行される。",
    "Run {run_id}: {status}": "実行 {run_id}: {status}",
    "layer": "層",
    "seconds": "秒",
    "flow": "フロー",
    "started": "開始",
    "journal": "ジャーナル",
    "modifiers": "モディファイア",
    "starts by": "きっかけ",
    "switched off": "切られています",
    "run_id": "実行 ID",
    "The signing key: rotate-key": "署名鍵: rotate-key",
    "What is wrong with a Pack's folder or archive, line by line; nothing of it is run.":
        "Pack のフォルダやアーカイブの誤りを行ごとに示します。中身は何も実行しません。",
    "Run a Pack's own tests, with the Pack in the embedded sandbox; the rest goes to pytest.":
        "Pack 自身のテストを、Pack を内蔵サンドボックスに入れて実行します。残りの引数は pytest に渡します。",
    "Develop a Pack: approve and start it at each change of its folder, until Ctrl-C.":
        "Pack の開発: フォルダーが変わるたびに承認して起動します (Ctrl-C まで)。",
    "Do not ask, also not when it wants more.": "尋ねません。より多くを求めるときも尋ねません。",
    "Only what lies there now; do not watch.": "今あるものだけを扱い、見張りません。",
    "Watching {folder}; Ctrl-C ends it.": "{folder} を見張っています。Ctrl-C で終わります。",
    "Nothing is approved by itself any more; what runs goes on, marked as in development.":
        "もう自動では何も承認しません。動いているものは、開発中の印が付いたまま動き続けます。",
    "{folder} holds what Packs may write, or lies in it.":
        "{folder} は Pack が書き込める場所を含むか、その中にあります。",
    "Develop in another folder: a Pack must not write what approves it.":
        "別のフォルダーで開発してください。自分を承認させるものを Pack が書けてはなりません。",
    "{pack} may put files into {folder}.": "{pack} は {folder} にファイルを書き出せます。",
    "Take that back, look at the folder, and start again: {command}":
        "それを取り消し、フォルダーの中身を確かめてから、もう一度始めてください: {command}",
    "{pack} {state} after {s} s: digest {digest}": "{pack} は {s} 秒で {state}: ダイジェスト {digest}",
    "It wants what nobody agreed to yet.": "まだ誰も認めていないものを求めています。",
    "Say yes on a terminal, or start with --yes.": "端末で答えるか、--yes を付けて始めてください。",
    "Let {pack} have this, and run at each change?": "{pack} にこれを認め、変わるたびに実行しますか?",
    "{folder} has no tests.": "{folder} にはテストがありません。",
    "Write tests/test_*.py with the fixture `rumi`; see docs/ecosystem.md.":
        "フィクスチャ `rumi` を使って tests/test_*.py を書いてください。docs/ecosystem.ja.md を参照。",
    "error": "エラー",
    "warning": "警告",
    "note": "補足",
    "expected": "期待",
    "found": "実際",
    "hint": "次に",
    "The bill of materials of a Pack as CycloneDX 1.6: files and packages with hashes.":
        "Pack の部品表 (CycloneDX 1.6): ファイルとパッケージ、そのハッシュ。",
    "bill of materials": "部品表",
    "Of the version that waits for a decision.": "判断を待っている版のもの。",
    "Into this file.": "このファイルへ書き込みます。",
    "--update is for a Pack that the host knows; {source} is a path.":
        "--update はホストが知っている Pack のためのものです。{source} はパスです。",
    "{n} components in {file}.": "{n} 個の部品を {file} に書きました。",
    "Publishers of signed Packs: list, forget, reset, new": "署名付き Pack の発行者: list, forget, reset, new",
    "Sign a Pack's folder with your key: writes signature.dsse.json into it.":
        "自分の鍵で Pack のフォルダーに署名し、signature.dsse.json を書き込みます。",
    "Your private key; see: rumi publisher new.": "自分の秘密鍵。作り方: rumi publisher new",
    "What you call yourself; else the author.": "発行者としての名前。省略すると author。",
    "Password of the key": "鍵のパスワード",
    "Who signed a Pack, and whether the signature is right; needs no host.":
        "Pack に誰が署名したか、署名が正しいか。ホストは不要です。",
    "Fail unless it is signed with just this key.": "この鍵による署名でなければ失敗します。",
    "It is not signed with {key}.": "{key} による署名ではありません。",
    "Ask its publisher.": "発行者に確かめてください。",
    "signed; that says whom it is from, not what it does":
        "署名あり。誰からのものかを示すだけで、何をするかは示しません",
    "not signed": "署名なし",
    "signature": "署名",
    "publisher": "発行者",
    "public key": "公開鍵",
    "signed digest": "署名対象の digest",
    "file": "ファイル",
    "since": "以来",
    "Whose signature each Pack was first approved with.": "各 Pack が最初に承認されたときの署名者。",
    "No Pack was approved with a signature.": "署名付きで承認された Pack はありません。",
    "Take the key of one Pack back: its next approval takes another, or none.":
        "一つの Pack の鍵を忘れます。次の承認では別の鍵も、署名なしも受け入れます。",
    "Whoever signs next is believed. Without a terminal, say --yes.":
        "次に署名した者を信じることになります。端末がないときは --yes を付けてください。",
    "Believe whoever signs {pack} next?": "次に {pack} に署名した者を信じますか?",
    "The publisher of {pack} is forgotten.": "{pack} の発行者を忘れました。",
    "Forget every publisher: for when the list can't be believed.":
        "すべての発行者を忘れます。一覧を信じられないときのためです。",
    "No publisher is known any more.": "記憶している発行者はなくなりました。",
    "Make a key to sign your Packs with, in a new file that is yours alone.":
        "Pack に署名する鍵を、自分だけが読める新しいファイルに作ります。",
    "Keep the file to yourself and keep a copy: without it, nobody takes your next version for yours.":
        "ファイルを人に渡さず、控えを取ってください。失うと、次の版があなたのものと認められません。",
    "The tool gave no answer.": "ツールが応答しませんでした。",
    "Signature (it approves nothing)": "署名 (承認ではありません)",
    "signed; the key was not seen before and is remembered when you approve":
        "署名あり。初めて見る鍵で、承認すると記憶されます",
    "signed by the publisher of before": "以前と同じ発行者の署名",
    "signed by ANOTHER publisher than before: it will be refused": "以前と別の発行者の署名です。拒否されます",
    "NOT SIGNED any more, though it was before: it will be refused": "以前はあった署名がありません。拒否されます",
    "the signature is WRONG: it will be refused": "署名が正しくありません。拒否されます",
    "the known publishers can't be believed: it will be refused": "発行者の記憶を信じられません。拒否されます",
    "signed as {name} with {key}": "署名者の名乗り {name}、鍵 {key}",
    "approved before as {name} with {key}": "以前の承認: {name}、鍵 {key}",
    "Prepare a new signing key; the next start signs everything again with it.":
        "新しい署名鍵を用意します。次の起動ですべてに署名し直します。",
    "The new key is ready. Until the host is started again, the old one holds.":
        "新しい鍵を用意しました。ホストを起動し直すまでは古い鍵が有効です。",
    "Take every operation from every Pack: for when what is granted can't be believed.":
        "すべての Pack からすべての操作を取り消します。許可の記録を信じられないときのためです。",
    "No Pack holds an operation any more.": "操作を許可された Pack はなくなりました。",
    "Find the Pack that breaks a call": "呼び出しを壊している Pack を見つけます",
    "Find the Pack that breaks a call: Packs are stopped and started by turns, and all run again afterwards. "
    "Bad is an error, or a result other than --expect.":
        "呼び出しを壊している Pack を見つけます。Pack を順に止めては動かし、終わればすべて元どおり動きます。"
        "エラー、または --expect と違う結果を失敗とみなします。",
    "The good result; without it every result is good.": "正しい結果。なければ、どの結果も正しいとみなします。",
    "Calls in each trial; one that fails now and then needs more.":
        "一回の試行での呼び出し回数。ときどき失敗するものには多く要ります。",
    "Seconds to wait for each call.": "呼び出しごとに待つ秒数。",
    "It fails only now and then: the more --repeat, the surer the answer.":
        "ときどきしか失敗しません。--repeat を増やすほど答えは確かになります。",
    "{pack} did not start again: {why}": "{pack} は再び起動できませんでした: {why}",
    "{key} works now, with every Pack running: there is nothing to find.":
        "{key} はすべての Pack が動いている今、正しく動きます。探すものはありません。",
    "{key} fails also while nothing runs but what it needs. The fault lies in: {packs}":
        "{key} は必要なものだけを動かしても失敗します。原因はこの中です: {packs}",
    "{key} is broken by: {packs}. Without, it works.": "{key} を壊しているのは {packs} です。それがなければ動きます。",
    "{key} did not fail the same way twice. Most likely: {packs}":
        "{key} の失敗の仕方が一定しません。最も疑わしいもの: {packs}",
    "trial": "試行",
    "running beside": "一緒に動いた Pack",
    "Past runs of flows and Packs, over restarts": "フローと Pack の過去の実行（再起動をまたいで）",
    "Past runs of flows and of Packs' sandboxes, newest first; of one flow or Pack with its name.":
        "フローと Pack のサンドボックスの過去の実行。新しい順。名前を付ければその一つだけ。",
    "Only flows, or only Packs.": "フローだけ、または Pack だけ。",
    "Nothing ran yet.": "まだ何も実行されていません。",
    "kind": "種類",
    "run": "実行",
    "took": "所要時間",
}  # fmt: skip
