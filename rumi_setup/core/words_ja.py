"""The Japanese catalogue of `words.say`: English sentence → Japanese. Data only.

A test checks that every sentence said by the core is here, and that the places in braces agree.
"""

from __future__ import annotations

JAPANESE: dict[str, str] = {
    # environment and installation
    "Sets up whatever is missing.": "不足しているものを準備します。",
    "Tried:": "試した方法:",
    "What to do, one of:": "次のいずれかを行ってください:",
    "Nothing was changed.": "何も変更していません。",
    "Nothing outside {folder} was changed.": "{folder} の外は何も変更していません。",
    "Nothing outside {folder} was changed; .venv in it is incomplete and will be made anew.":
        "{folder} の外は何も変更していません。中の .venv は不完全なため、次回作り直します。",
    "Looking for Python": "Python を探しています",
    "Making the environment with Python {p}": "Python {p} で環境を作成しています",
    "Looking for the installer": "インストーラーを探しています",
    "Installing {n} packages": "{n} 個のパッケージをインストールしています",
    "Downloading {n} packages": "{n} 個のパッケージをダウンロードしています",
    "Finishing": "仕上げています",
    "Environment ready in {s} s.": "環境の準備ができました（{s} 秒）。",
    "The environment {folder} could not be made.": "環境 {folder} を作成できませんでした。",
    "Look whether the disk is full or the folder belongs to somebody else.":
        "ディスクの空きとフォルダーの所有者を確認してください。",
    "Install the module: `sudo apt install python3-venv`.":
        "モジュールをインストールしてください: `sudo apt install python3-venv`",
    "Name another Python: `RUMI_PYTHON=/path/to/python3.12 ./rumi setup`.":
        "別の Python を指定してください: `RUMI_PYTHON=/path/to/python3.12 ./rumi setup`",
    "The packages could not be installed.": "パッケージをインストールできませんでした。",
    "Connect to the network (or set the index your network uses in pip.conf), then run `./rumi setup` again.":
        "ネットワークに接続し（または pip.conf に組織内の取得先を設定し）、`./rumi setup` をもう一度実行してください。",
    "`sudo apt install python3-venv`, then run `./rumi setup` again.":
        "`sudo apt install python3-venv` の後、`./rumi setup` をもう一度実行してください。",
    "On a connected machine of the same kind `./rumi setup --wheelhouse DIR`; here `./rumi setup --offline DIR`.":
        "接続できる同種のマシンで `./rumi setup --wheelhouse DIR`、ここで `./rumi setup --offline DIR` を実行してください。",
    "On a connected machine of the same kind: `./rumi setup --wheelhouse DIR`.":
        "接続できる同種のマシンで `./rumi setup --wheelhouse DIR` を実行してください。",
    "{folder} is no folder of wheels.": "{folder} は wheel のフォルダーではありません。",
    "Name a folder that you can write.": "書き込めるフォルダーを指定してください。",
    "The wheelhouse could not be filled.": "wheel のフォルダーを作成できませんでした。",
    "What came so far lies in {folder}; running this again goes on from there.":
        "取得済みのものは {folder} にあります。もう一度実行すると続きから始まります。",
    "Wheelhouse ready: {folder}": "wheel のフォルダーができました: {folder}",
    "On the other machine: ./rumi setup --offline {folder}": "もう一方のマシンで: ./rumi setup --offline {folder}",
    # Python
    "The Pythons found here are older than 3.11, which is needed; looking for a newer one with uv.":
        "見つかった Python は必要な 3.11 より古いため、uv で新しいものを探します。",
    "Python 3.11 or newer is needed and none was found.": "Python 3.11 以上が必要ですが、見つかりませんでした。",
    "Install Python 3.11 or newer (Debian 12+, Ubuntu 24.04+: `sudo apt install python3`).":
        "Python 3.11 以上をインストールしてください（Debian 12 以降、Ubuntu 24.04 以降: `sudo apt install python3`）。",
    "Name one that you have: `RUMI_PYTHON=/path/to/python3.12 ./rumi setup`.":
        "お持ちの Python を指定してください: `RUMI_PYTHON=/path/to/python3.12 ./rumi setup`",
    "Install uv, then run this again: it can bring a Python of its own.":
        "uv をインストールしてもう一度実行してください。uv が Python を用意できます。",
    "not on PATH": "PATH にありません",
    "older than 3.11": "3.11 より古いです",
    # one setup at a time
    "The folder {folder} can not be written: {why}.": "フォルダー {folder} に書き込めません: {why}。",
    "Another setup is working in this folder; waiting for it.":
        "このフォルダーで別のセットアップが動作中です。終わるのを待っています。",
    "Another setup has been working in this folder for {n} s.":
        "このフォルダーで別のセットアップが {n} 秒以上動作しています。",
    "Run this as the owner of the folder.": "フォルダーの所有者として実行してください。",
    "Copy the project into a folder of your own.": "プロジェクトをご自分のフォルダーにコピーしてください。",
    "Let the owner run `./rumi setup` once; afterwards everybody can use it.":
        "所有者が一度 `./rumi setup` を実行すれば、以後は全員が使えます。",
    "End that process, then run this again.": "そのプロセスを終了してから、もう一度実行してください。",
    "still held": "まだ解放されていません",
    # finding the installer
    "apt without root": "root なしの apt",
    "No pip here: fetching Debian's into a private folder (nothing on the system changes).":
        "pip がないため、Debian のものを専用フォルダーに取得します（システムは変更しません）。",
    "the pip bundled with Python": "Python 付属の pip",
    "this Python has none": "この Python にはありません",
    "pip fetched by apt into a private folder": "apt で専用フォルダーに取得した pip",
    "this system has no apt": "このシステムに apt はありません",
    "did not do it": "うまくいきませんでした",
    "uv on PATH": "PATH 上の uv",
    "not there": "ありません",
    "holds no uv {v} with the right hash": "正しいハッシュの uv {v} がありません",
    "Expressions in flows need a package that this machine does not get; all else works.":
        "フローの式に必要なパッケージがこのマシンでは入手できません。他はすべて動作します。",
    "locks/{name}.in has no solution.": "locks/{name}.in を満たす組み合わせがありません。",
    "The locks could not be compiled: no uv.": "uv がないため、ロックを作成できませんでした。",
    "Compiling locks/{name}.lock": "locks/{name}.lock を作成しています",
    # words of the command line
    "where ecosystem/ and user_data/ are": "ecosystem/ と user_data/ の場所",
    "do one thing": "一つの作業だけを行う",
    "the setup wizard in the browser": "ブラウザーのセットアップ画面",
    "install from a folder of wheels": "wheel のフォルダーからインストールする",
    "answer yes to the question of `reset`": "`reset` の確認に「はい」と答える",
    "fill a folder of wheels for another machine": "別のマシン用に wheel のフォルダーを作る",
    "which lock": "どのロックか",
    "make the base image without a registry": "レジストリなしでベースイメージを作る",
    "compile the locks (developers)": "ロックを作成する（開発者用）",
    "with --lock": "--lock と共に使う",
    "Interrupted. Running it again mends whatever was half done.":
        "中断しました。もう一度実行すると、途中のものも修復されます。",
    "Ready: {home} ({n} created). Next: ./rumi up": "準備完了: {home}（{n} 件作成）。次: ./rumi up",
    "Mend it: python bootstrap.py --cli recover": "修復するには: python bootstrap.py --cli recover",
    "Images: {names}": "イメージ: {names}",
    "Healthy.": "正常です。",
    " (the old one is {path})": "（元のものは {path}）",
    "Nothing was changed. Without a terminal, say --yes.":
        "何も変更していません。端末がない場合は --yes を付けてください。",
    "Put {path} aside and start anew? [y/N] ": "{path} を退避して最初からやり直しますか？ [y/N] ",
    "Stop it first: ./rumi down": "先に停止してください: ./rumi down",
    "No check is called {names}; there are {known}.": "{names} という検査はありません。あるのは {known} です。",
    "no end after {n} s": "{n} 秒たっても終わりません",
    # machine checks
    "Disk space": "ディスクの空き",
    "{n} MiB free": "空き {n} MiB",
    "Free at least {n} MiB.": "{n} MiB 以上の空きを作ってください。",
    "Environment": "環境",
    ".venv equals the lock `{lock}`": ".venv はロック `{lock}` と一致しています",
    ".venv is missing or older than its lock": ".venv がないか、ロックより古いです",
    "Embedded sandbox (bubblewrap)": "組み込みサンドボックス（bubblewrap）",
    "Locale": "ロケール",
    "Isolation": "隔離",
    "{v} runs the setup, the host needs 3.11 or newer":
        "{v} でセットアップは動きますが、ホストには 3.11 以上が必要です",
    "`./rumi setup` looks for a newer one, also with uv.": "`./rumi setup` が uv も使って新しいものを探します。",
    "Project folder": "プロジェクトのフォルダー",
    "Data folder": "データのフォルダー",
    "{folder} can not be written": "{folder} に書き込めません",
    "Run this as its owner, or set RUMI_HOME to a folder of your own.":
        "所有者として実行するか、RUMI_HOME にご自分のフォルダーを指定してください。",
    "not found": "見つかりません",
    "Needed only to fetch new versions of the host.": "ホストの新しい版を取得するときにだけ必要です。",
    "output is {encoding}; Japanese text may not show": "出力が {encoding} のため、日本語が表示されないことがあります",
    "Linux only": "Linux のみ",
    "Use Docker here.": "ここでは Docker を使ってください。",
    "Install Docker.": "Docker をインストールしてください。",
    "Run outside the chroot.": "chroot の外で実行してください。",
    "Install Docker, or the distribution's profile for bubblewrap (package apparmor-profiles).":
        "Docker か、bubblewrap 用プロファイル（apparmor-profiles パッケージ）をインストールしてください。",
    "Install Docker, or ask them.": "Docker をインストールするか、管理者に相談してください。",
    "Give it a Docker socket, or run on the host.": "Docker のソケットを渡すか、コンテナの外で実行してください。",
    "this is a chroot, where the kernel refuses namespaces": "chroot の中ではカーネルが名前空間を拒否します",
    "AppArmor keeps programs without a profile from making namespaces":
        "プロファイルのないプログラムの名前空間作成を AppArmor が禁止しています",
    "the administrator switched user namespaces off": "ユーザー名前空間が管理者によって無効にされています",
    "this is inside a container, which may not nest sandboxes":
        "コンテナの中のため、サンドボックスを入れ子にできません",
    "embedded (Docker ranks above it)": "組み込み（Docker の方が強い隔離です）",
    "Start Docker, or use the embedded sandbox (bubblewrap, Linux only).":
        "Docker を起動するか、組み込みサンドボックス（bubblewrap、Linux のみ）を使ってください。",
    "Docker is required but not available, and no embedded sandbox works":
        "Docker が必要ですが利用できず、組み込みサンドボックスも動作しません",
    "The host starts, but no Pack runs until there is one of them.":
        "ホストは起動しますが、どちらかが使えるまで Pack は動きません。",
    # engines and images
    "no engine: DOCKER_HOST is not set and no usual socket exists":
        "エンジンがありません（DOCKER_HOST は未設定で、通常のソケットもありません）",
    "an engine at {address} can not be asked from here": "{address} のエンジンにはここから問い合わせできません",
    "{address} does not answer: {why}": "{address} が応答しません: {why}",
    "only on Linux": "Linux でのみ可能です",
    "needs root": "root 権限が必要です",
    "{names} not installed": "{names} がインストールされていません",
    "dockerd was not ready in {n} s.": "dockerd が {n} 秒以内に準備できませんでした。",
    "Removing the engine of a run that was killed ({folder}).":
        "強制終了された実行のエンジンを片付けています（{folder}）。",
    "No cgroup file system is mounted, and none could be.":
        "cgroup ファイルシステムがマウントされておらず、マウントもできませんでした。",
    "dockerd ended at start, with exit code {code}.": "dockerd が起動時に終了しました（終了コード {code}）。",
    "dockerd could not be started: {why}.": "dockerd を起動できませんでした: {why}。",
    "Starting a Docker engine for the tests": "テスト用の Docker エンジンを起動しています",
    "No Docker engine for the tests: {why}.": "テスト用の Docker エンジンがありません: {why}。",
    "The base image could not be made: {why}": "ベースイメージを作成できませんでした: {why}",
    "No image was changed.": "イメージは変更していません。",
    "A local base image needs a Debian or Ubuntu with its own python3.":
        "ローカルのベースイメージには、標準の python3 がある Debian か Ubuntu が必要です。",
    "Building the sandbox's base image": "サンドボックスのベースイメージを作成しています",
    "Packing this machine's Python {v} into an image": "このマシンの Python {v} をイメージにしています",
    "Start Docker, or set DOCKER_HOST, then `./rumi setup --local-base`.":
        "Docker を起動するか DOCKER_HOST を設定して、`./rumi setup --local-base` を実行してください。",
    "Where a registry can be reached: `docker pull {name}`.": "レジストリに接続できる場合: `docker pull {name}`",
    "Use the embedded sandbox: `RUMI_ISOLATION=embedded ./rumi up`.":
        "組み込みサンドボックスを使う: `RUMI_ISOLATION=embedded ./rumi up`",
    "Installing {names} with apt-get (system packages).":
        "apt-get で {names} をインストールします（システムのパッケージ）。",
    "No Docker engine and no bubblewrap: no Pack will run until you `sudo apt install bubblewrap`.":
        "Docker も bubblewrap もありません。`sudo apt install bubblewrap` を実行するまで Pack は動きません。",
    # folders and the doctor
    "The folders under {home} could not be created: {why}.": "{home} の下にフォルダーを作成できませんでした: {why}。",
    "Created so far: {names}.": "作成済み: {names}。",
    "Make {home} writable for you, then run `./rumi setup` again.":
        "{home} に書き込めるようにして、`./rumi setup` をもう一度実行してください。",
    "Choose another folder: `RUMI_HOME=/path ./rumi setup`.":
        "別のフォルダーを選んでください: `RUMI_HOME=/path ./rumi setup`",
    "{path} is missing.": "{path} がありません。",
    "{path} is missing or incomplete.": "{path} がないか、不完全です。",
    "{path} can not be used: {why}.": "{path} は使えません: {why}。",
    "{path} holds no flow: the host would not know how to start.":
        "{path} に flow がありません。ホストは起動手順を読み込めません。",
    "No Pack is installed yet: `./rumi pack new` makes one.":
        "Pack はまだありません。`./rumi pack new` で作成できます。",
    "it is missing": "ありません",
    "an object was expected": "オブジェクトが必要です",
    "`mounts` must map names to paths": "`mounts` は名前とパスの対応である必要があります",
    "`{name}` has the wrong type": "`{name}` の型が違います",
    "replaced by the default": "既定のものに置き換えました",
    "created: {names}": "作成: {names}",
    "restored from git": "git から復元しました",
    "could not be mended: {why}": "修復できませんでした: {why}",
    "user_data is new; the old one is {name}": "user_data を新しくしました。元のものは {name} です",
    # starting and stopping
    "isolation must be one of {names}, not {given!r}.": "isolation は {names} のいずれかです（指定: {given!r}）。",
    "Starting the host": "ホストを起動しています",
    "Stopping the host (process {pid})": "ホストを停止しています（プロセス {pid}）",
    "{path} is missing: this is no complete copy of the project.":
        "{path} がありません。プロジェクトの完全なコピーではありません。",
    "Fetch the project again, or `git checkout HEAD -- app.py`.":
        "プロジェクトを取得し直すか、`git checkout HEAD -- app.py` を実行してください。",
    "Nothing was started.": "何も起動していません。",
    "Nothing runs.": "何も動いていません。",
    "Stop it with Ctrl-C.": "Ctrl-C で停止します。",
    "Stopping.": "停止しています。",
    "Stopped.": "停止しました。",
    "It did not stop by itself and was killed.": "自分では停止しなかったため、強制終了しました。",
    "It was stopped again.": "停止しました。",
    "The host did not answer on {url}/api/health in {n} s.": "ホストが {n} 秒以内に {url}/api/health で応答しませんでした。",
    "The host ended at once, with exit code {code}.": "ホストがすぐに終了しました（終了コード {code}）。",
    "The host runs already (process {pid}).": "ホストはすでに動いています（プロセス {pid}）。",
    "The host runs (process {pid}).": "ホストが動いています（プロセス {pid}）。",
    "No host runs for {home}.": "{home} のホストは動いていません。",
    "Last lines of {log}:": "{log} の最後の行:",
    "Port {port}, where the management API listens, is taken by another program.": "管理 API のポート {port} は別のプログラムが使用中です。",
    "See who holds it: ss -ltnp 'sport = :{port}'": "使用中のプログラムを調べる: ss -ltnp 'sport = :{port}'",
    "Or choose another: ./rumi up --api-port {port}": "または別のポートを選ぶ: ./rumi up --api-port {port}",
    "rumi test [--with-engine|--no-engine] [what pytest takes]: sets up what is missing, runs all tests.": (
        "rumi test [--with-engine|--no-engine] [pytest の引数]: 足りないものを用意し、すべてのテストを実行します。"
    ),
    "Port {a} is taken by another program; using {b}.": "ポート {a} は別のプログラムが使用中のため、{b} を使います。",
    "No free port from {a} to {b}.": "{a} から {b} までに空きポートがありません。",
    "Name free ones: ./rumi up --api-port N --web-port M":
        "空きポートを指定してください: ./rumi up --api-port N --web-port M",
    "Start it in the foreground to see why: ./rumi up": "原因を見るには前面で起動してください: ./rumi up",
    "./rumi doctor --fix": "./rumi doctor --fix",
    "Console and Packs: {url}": "コンソールと Pack: {url}",
    "Management API:    {url}": "管理 API:          {url}",
    "Next: ./rumi pack pending   (what waits for your decision)": "次: ./rumi pack pending（承認待ちの Pack）",
    # new Packs
    "{id!r} is no Pack id: 1 to 64 of a-z, 0-9, _ and -, beginning with a letter.":
        "{id!r} は Pack ID に使えません: 英小文字で始まる、a-z 0-9 _ - の 1〜64 文字にしてください。",
    "{name!r} is no author name: letters, digits, . _ and -.":
        "{name!r} は作者名に使えません: 英数字と . _ - だけにしてください。",
    "{path} exists already.": "{path} はすでにあります。",
    "Choose another id, or move that folder away.": "別の ID を選ぶか、そのフォルダーを移動してください。",
}  # fmt: skip
