"""What the wizard says, in Japanese."""

JAPANESE = {
    "The setup wizard in the browser.": "ブラウザーのセットアップ画面。",
    "install from a folder of wheels": "wheel のフォルダーからインストールする",
    "Open this in a browser on this machine. It can be used once:":
        "このマシンのブラウザーで開いてください。使えるのは一度だけです:",
    "From another machine, first: ssh -L {port}:127.0.0.1:{port} THIS-MACHINE":
        "別のマシンからは、先に: ssh -L {port}:127.0.0.1:{port} このマシン",
    "It ends with Finish, after {n} minutes without use, or with Ctrl-C.":
        "「終了」を押すか、{n} 分間使わないか、Ctrl-C で終わります。",
    "Setup finished. Next: ./rumi up": "セットアップを終えました。次: ./rumi up",
    "Nobody used the wizard, so it ended.": "使われなかったため、セットアップ画面を終了しました。",
    "The address was opened a second time; that was refused.": "アドレスが二度目に開かれたため、拒否しました。",
    # steps
    "Steps": "手順",
    "Check": "確認",
    "Install": "インストール",
    "Folders": "フォルダー",
    "Doctor": "診断",
    "Ready": "完了",
    "Skip to the content": "本文へ移動",
    # this machine
    "This machine": "このマシン",
    "{n} of these must be mended before Packs can run.": "Pack を動かすには、このうち {n} 件を直す必要があります。",
    "This machine can run Rumi. What is marked “note” is worth a look.":
        "このマシンで Rumi を動かせます。「注意」の項目は目を通してください。",
    "Docker or bubblewrap is missing? The guide shows how to install it: ":
        "Docker や bubblewrap がないときは、入れ方をガイドで説明しています: ",
    "Installation guide": "インストールガイド",
    "Look again": "もう一度調べる",
    "fine": "正常",
    "note": "注意",
    "mend": "要修復",
    "Next: install": "次: インストール",
    # install
    "Makes the folder .venv and installs exactly the packages of the lock file, each checked by its hash. "
    "Nothing outside the project’s folder is changed.":
        "フォルダー .venv を作り、ロックファイルにあるパッケージだけを、一つずつハッシュを確かめて入れます。"
        "プロジェクトのフォルダーの外は変更しません。",
    "Everything is installed (lock “{name}”). There is nothing to do.":
        "すべてインストール済みです（ロック「{name}」）。することはありません。",
    "Next: folders": "次: フォルダー",
    "Try again": "もう一度試す",
    "Folder of wheels (only without a network)": "wheel のフォルダー（ネットワークがない場合だけ）",
    "Made on a connected machine by `./rumi setup --wheelhouse DIR`.":
        "ネットワークのあるマシンで `./rumi setup --wheelhouse DIR` を実行して作ります。",
    "Starting": "始めています",
    "Step {step} of {steps}, {s} s so far. This page renews itself.":
        "手順 {step}/{steps}、ここまで {s} 秒。このページは自動で更新されます。",
    "Something went wrong that was not foreseen. The terminal shows what; press Ctrl-C there to end.":
        "予期しない問題が起きました。内容は端末に表示されています。終えるには端末で Ctrl-C を押してください。",
    "What to do, one of:": "次のいずれかを行ってください:",
    "What was tried": "試したこと",
    # folders
    "Your settings, approvals and Packs live in two folders here. What exists is never touched.":
        "設定・承認・Pack は、この場所の二つのフォルダーに置かれます。すでにあるものには触れません。",
    "Created: {names}": "作成しました: {names}",
    "Create what is missing": "足りないものを作成する",
    "All folders are there.": "フォルダーはすべてそろっています。",
    "Next: doctor": "次: 診断",
    # doctor
    "Looks for what is missing or broken in your folders. What is replaced is kept beside it.":
        "フォルダーの中の不足や破損を探します。置き換えたものは、その隣に残します。",
    "Healthy. Nothing has to be mended.": "正常です。直すものはありません。",
    "Mend": "直す",
    "Mend all {n}": "{n} 件すべてを直す",
    "(the old one is {path})": "（元のものは {path}）",
    "Next: ready": "次: 完了",
    # ready
    "Rumi is set up.": "Rumi の準備ができました。",
    "Not everything is done yet:": "まだ終わっていないことがあります:",
    "Next, in the terminal": "次は端末で",
    "starts the host and prints its two addresses":
        "ホストを起動し、二つのアドレスを表示します",
    "makes a first Pack that works": "最初の動く Pack を作ります",
    "shows what waits for your decision": "承認待ちの Pack を表示します",
    "finds what is wrong, at any time": "いつでも、問題を探せます",
    "First steps in the guide": "ガイドの「最初の一歩」",
    "Finish": "終了",
    "Finish ends this wizard; it changes nothing.": "「終了」はこの画面を終えるだけで、何も変更しません。",
    "You can close this page. Next, in the terminal: `./rumi up`":
        "このページは閉じてかまいません。次は端末で: `./rumi up`",
    "Setup has ended": "セットアップを終えました",
    "Setup": "セットアップ",
    "Begin": "始める",
    # refusals
    "Refused": "拒否しました",
    "This address is not served here.": "このアドレスはここでは提供していません。",
    "The address is too long.": "アドレスが長すぎます。",
    "This kind of request is not answered.": "この種類の要求には応答しません。",
    "This browser has no access. Open the address that the terminal shows.":
        "このブラウザーからは使えません。端末に表示されたアドレスを開いてください。",
    "This address was used already. If that was not you, press Ctrl-C in the terminal and start again.":
        "このアドレスは使用済みです。心当たりがなければ、端末で Ctrl-C を押してやり直してください。",
    "This did not come from the wizard’s own page, so nothing was done.":
        "セットアップ画面からの要求ではないため、何も行いませんでした。",
    "This is not what the wizard’s forms send.": "セットアップ画面のフォームが送る形ではありません。",
    "That is more than the wizard takes.": "受け取れる大きさを超えています。",
    "The request does not say how long it is.": "要求に長さが示されていません。",
    "To the wizard": "セットアップ画面へ",
    "No such page": "ページがありません",
    "Error": "エラー",
}  # fmt: skip
