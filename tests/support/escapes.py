"""Every way out of a sandbox that is tried here, each with the answer that it must get. Data of the escape suite.

`tests/attack/test_sandbox_escapes.py` carries them out in real sandboxes; `docs/reference/isolation.md` is made of them
(`python -m tests.support.isolation_document`), so the document can only say what a test has seen.

An escape's `source` runs inside and leaves a short text in `answer`: the name of the error that the kernel gave, or a
word. `{name}` in it stands for something on the host's side that `test_sandbox_escapes.py` puts there.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field

from core_runtime.rules.seccomp import ARCHITECTURES
from core_runtime.rules.seccomp_tables import X86_64

NUMBERS = ARCHITECTURES[platform.machine()].numbers if platform.machine() in ARCHITECTURES else X86_64

PRELUDE = """
import ctypes, errno, fcntl, mmap, os, signal, socket, stat
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *args):
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(a) if isinstance(a, int) else a for a in args])
    return errno.errorcode[ctypes.get_errno()] if result == -1 else 'works'
def tried(action):
    try:
        action()
    except OSError as error:
        return errno.errorcode.get(error.errno, type(error).__name__)
    return 'works'
def read(path):
    with open(path, 'rb') as file:
        return file.read(4096)
def write(path, data=b'x'):
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)
def connect(family, address, kind=socket.SOCK_STREAM):
    with socket.socket(family, kind) as one:
        one.settimeout(3)
        one.connect(address)
def descriptors():
    found = {}
    for fd in os.listdir('/proc/self/fd'):
        try:
            found[fd] = os.readlink('/proc/self/fd/' + fd)
        except OSError:
            pass  # the one that listed them
    return found
inherited = descriptors()
def everywhere():
    for folder, folders, files in os.walk('/'):
        if folder.startswith('/proc'):
            folders[:] = []
        else:
            yield from (os.path.join(folder, name) for name in files)
def processes():
    return [name for name in os.listdir('/proc') if name.isdigit()]
"""


@dataclass(frozen=True, slots=True)
class Escape:
    """One attempt. ``answer``: what it gets everywhere; ``but``: what it gets in one driver instead."""

    name: str
    surface: str
    en: str
    ja: str
    source: str
    answer: str
    but: Mapping[str, str] = field(default_factory=dict)
    call: str = ""
    """Name of the system call that it is about, where that is one: not every machine type has each."""

    @property
    def possible(self) -> bool:
        """Whether this machine's kernel has a number for what it tries."""
        return not self.call or self.call in NUMBERS

    def expected(self, driver: str) -> str:
        """The answer that ``driver`` must give; several that are as good are joined by " / "."""
        return self.but.get(driver, self.answer)


SURFACES: Mapping[str, str] = {
    "code": "What runs · 動いているコード",
    "files": "The host's files · ホストのファイル",
    "links": "Links and descriptors · リンクと記述子",
    "packs": "Other Packs · 他の Pack",
    "processes": "Processes and signals · プロセスとシグナル",
    "proc": "/proc and /sys",
    "devices": "Devices · デバイス",
    "sockets": "Sockets and networks · ソケットとネットワーク",
    "namespaces": "Namespaces and mounts · 名前空間とマウント",
    "rights": "Rights · 権限",
    "kernel": "Kernel interfaces · カーネルの入口",
    "ipc": "Shared memory and queues · 共有メモリーとキュー",
}


def _syscall(surface: str, name: str, en: str, ja: str, *args: int, answer: str = "EPERM", **but: str) -> Escape:
    number = NUMBERS.get(name, X86_64.get(name, 0))
    shown = "".join(f", {argument}" for argument in args)
    return Escape(f"syscall_{name}", surface, en, ja, f"answer = call({number}{shown})", answer, but, name)


def _number(name: str, number: int, en: str, ja: str) -> Escape:
    """A call that is newer than our tables: known by its number alone, the same on every machine since 5.0."""
    return Escape(f"syscall_{name}", "kernel", en, ja, f"answer = call({number}, 0, 0, 0, 0, 0)", "ENOSYS")


def _tried(surface: str, name: str, en: str, ja: str, action: str, answer: str, **but: str) -> Escape:
    return Escape(name, surface, en, ja, f"answer = tried(lambda: {action})", answer, but)


_CODE = (
    _tried("code", "write_the_pack", "write to a file of its own Pack", "自分の Pack のファイルへ書く",
           "write('/pack/marker.txt')", "EROFS / EACCES"),
    _tried("code", "write_the_agent", "write to the agent", "エージェントへ書く",
           "write('/opt/rumi/container_agent.py')", "EROFS / EACCES"),
    _tried("code", "write_the_interpreter", "write to the running interpreter", "動作中のインタープリターへ書く",
           "write('/proc/self/exe')", "EROFS / EACCES / ETXTBSY"),
    _tried("code", "plant_beside_the_pack", "put a file beside the Pack's", "Pack の隣にファイルを置く",
           "open('/pack/planted.py', 'w')", "EROFS / EACCES"),
    _tried("code", "replace_the_pack", "rename a file of the Pack", "Pack のファイルの名前を変える",
           "os.rename('/pack/marker.txt', '/pack/x')", "EROFS / EACCES / EBUSY"),
    _tried("code", "open_the_packs_mode", "make the Pack writable for everyone", "Pack を誰でも書けるようにする",
           "os.chmod('/pack/marker.txt', 0o777)", "EROFS / EPERM"),
    _tried("code", "write_through_a_mapping", "map a file of the Pack shared and writable", "Pack のファイルを書ける共有マップにする",
           "mmap.mmap(os.open('/pack/marker.txt', os.O_RDONLY), 0, mmap.MAP_SHARED, mmap.PROT_WRITE)", "EACCES"),
    _tried("code", "write_through_a_descriptor", "reopen a read-only descriptor for writing", "読み取り専用の記述子を書き込み用に開き直す",
           "write('/proc/self/fd/%d' % os.open('/pack/marker.txt', os.O_RDONLY))", "EROFS / EACCES"),
    _tried("code", "plant_a_system_library", "put a library where programs look for it", "プログラムが探す場所にライブラリーを置く",
           "open('/usr/lib/planted.so', 'w')", "EROFS / EACCES"),
    *(
        _tried("code", f"run_from_{name}", f"put a program into {folder} and run it", f"{folder} にプログラムを置いて実行する",
               f"(open('{folder}/planted', 'w').write('#!/bin/sh'), os.chmod('{folder}/planted', 0o755), os.posix_spawn('{folder}/planted', ['planted'], {{{{}}}}))",
               "EACCES")
        for name, folder in (("tmp", "/tmp"), ("shm", "/dev/shm"))
    ),
    _tried("code", "plant_in_the_root", "make a file in /", "/ にファイルを作る", "open('/planted', 'w')", "EROFS / EACCES"),
)  # fmt: skip

_FILES = (
    _tried("files", "read_a_canary", "read a world-readable file of the host by its path", "誰でも読めるホストのファイルをパスで読む",
           "read({canary!r})", "ENOENT / EACCES"),
    Escape("find_a_canary", "files", "look for that file's name everywhere", "そのファイル名を全体から探す",
           "answer = 'found' if any(os.path.basename(path) == os.path.basename({canary!r}) for path in everywhere()) else 'not there'", "not there"),
    _tried("files", "read_shadow", "read the password file", "パスワードファイルを読む", "read('/etc/shadow')", "ENOENT / EACCES"),
    _tried("files", "list_root_home", "list the administrator's home", "管理者のホームを一覧する", "os.listdir('/root')", "ENOENT / EACCES"),
    Escape("machine_id", "files", "learn the machine's identity", "マシンの識別子を知る",
           "answer = 'not there' if not os.path.exists('/etc/machine-id') or not read('/etc/machine-id').strip() else 'known'", "not there"),
    Escape("environment", "files", "find the host's environment in any process's", "どれかのプロセスにホストの環境変数を探す",
           "answer = 'found' if any({secret!r}.encode() in read('/proc/%s/environ' % pid) for pid in processes() if tried(lambda: read('/proc/%s/environ' % pid)) == 'works') else 'not there'", "not there"),
    _syscall("files", "open_by_handle_at", "open a file by its inode number (shocker)", "inode 番号でファイルを開く", 0, 0, 0),
    _syscall("files", "name_to_handle_at", "ask for such a handle", "そのハンドルを得る", -100, 0, 0, 0, 0),
)  # fmt: skip

_LINKS = (
    Escape("symlink_out", "links", "follow a link of its own to a file of the host", "自作リンクでホストのファイルへ行く",
           "os.path.lexists('/tmp/out') and os.unlink('/tmp/out')\nos.symlink({canary!r}, '/tmp/out')\nanswer = tried(lambda: read('/tmp/out'))", "ENOENT / EACCES"),
    _tried("links", "dots", "climb above / with a descriptor of it", "/ の記述子から上へ出る",
           "os.open('../../../../..' + {canary!r}, os.O_RDONLY, dir_fd=os.open('/', os.O_RDONLY))", "ENOENT / EACCES"),
    Escape("proc_root", "links", "reach the host through /proc/*/root and cwd", "/proc/*/root と cwd からホストへ",
           "answer = 'found' if any(os.path.exists('/proc/%s/%s%s' % (pid, way, up) + {canary!r}) for pid in processes() for way in ('root', 'cwd') for up in ('', '/../../..')) else 'not there'", "not there"),
    Escape("inherited_descriptors", "links", "use a descriptor that the host left open", "ホストが開いたままの記述子を使う", """
ours = ('/dev/null', 'pipe:', 'socket:', '/proc/')
answer = 'not there' if len(inherited) <= 6 and all(target.startswith(ours) for target in inherited.values()) else 'found'
""", "not there"),
    _tried("links", "hard_link_the_pack", "hard-link a file of the Pack to where it may write", "Pack のファイルを書ける場所へハードリンクする",
           "os.link('/pack/marker.txt', '/tmp/linked')", "EXDEV / EPERM / EACCES"),
    _tried("links", "swap_the_bus", "replace the bus socket", "バスのソケットを差し替える",
           "os.unlink('/run/rumi/bus.sock')", "EBUSY / EROFS / EACCES / ENOENT"),
)  # fmt: skip

_PACKS = (
    _tried("packs", "anothers_socket", "connect to another Pack's bus socket", "他の Pack のバスへ接続する",
           "connect(socket.AF_UNIX, {other_socket!r})", "ENOENT / EACCES"),
    Escape("anothers_files", "packs", "find another Pack's temporary file", "他の Pack の一時ファイルを探す",
           "answer = 'found' if any(path.endswith('of-another-pack') for path in everywhere()) else 'not there'", "not there"),
    _tried("packs", "anothers_memory", "read another Pack's memory", "他の Pack のメモリーを読む",
           "read('/proc/%d/mem' % {other_pid})", "ENOENT / EACCES"),
    _tried("packs", "anothers_death", "end another Pack's process", "他の Pack のプロセスを終わらせる",
           "os.kill({other_pid}, signal.SIGKILL)", "ESRCH / EPERM"),
    Escape("anothers_abstract_socket", "packs", "connect to another Pack's abstract socket", "他の Pack の抽象ソケットへ接続する",
           "answer = tried(lambda: connect(socket.AF_UNIX, chr(0) + 'of-another-pack'))", "ECONNREFUSED"),
    Escape("anothers_shared_memory", "packs", "find another Pack's shared memory", "他の Pack の共有メモリーを探す",
           "answer = 'found' if os.path.exists('/dev/shm/of-another-pack-shm') else 'not there'", "not there"),
)  # fmt: skip

_PROCESSES = (
    Escape("see_processes", "processes", "see processes that are not its own", "自分以外のプロセスを見る",
           "answer = 'own only' if len(processes()) <= 3 else 'others'", "own only"),
    _tried("processes", "kill_a_process_of_the_host", "end a process of the host by its number", "番号でホストのプロセスを終わらせる",
           "os.kill({host_pid}, signal.SIGKILL)", "ESRCH / EPERM"),
    _tried("processes", "signal_everybody", "signal everybody at once", "全員に一度にシグナルを送る", "os.kill(-1, signal.SIGTERM)", "ESRCH / EPERM"),
    _syscall("processes", "ptrace", "trace the sandbox's init", "サンドボックスの init をトレースする", 16, 1, 0, 0),
    _syscall("processes", "process_vm_readv", "read another process's memory", "他のプロセスのメモリーを読む", 1, 0, 0, 0, 0, 0),
    _syscall("processes", "process_vm_writev", "write another process's memory", "他のプロセスのメモリーへ書く", 1, 0, 0, 0, 0, 0),
    _tried("processes", "memory_of_init", "read the init's memory through /proc", "/proc から init のメモリーを読む",
           "read('/proc/1/mem')", "EACCES / EIO / EPERM"),
    _syscall("processes", "pidfd_getfd", "take a descriptor out of another process", "他のプロセスの記述子を取り出す", 0, 0, 0),
    _syscall("processes", "kcmp", "compare kernel objects of two processes", "二つのプロセスのカーネル資源を比べる", 1, 1, 0, 0, 0),
    _tried("processes", "higher_priority", "take more than its share of the processor", "プロセッサーを割り当て以上に使う優先度",
           "os.setpriority(os.PRIO_PROCESS, 0, -20)", "EACCES / EPERM"),
    _tried("processes", "real_time", "run in real time", "リアルタイムで動く",
           "os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50))", "ENOSYS / EPERM"),
)  # fmt: skip

_PROC = (
    *(
        _tried("proc", name, en, ja, f"write({path!r}, b'1')", "EROFS / EACCES / ENOENT / EPERM")
        for name, path, en, ja in (
            ("core_pattern", "/proc/sys/kernel/core_pattern", "have the host run a program at a crash", "クラッシュ時にホストでプログラムを実行させる"),
            ("modprobe_path", "/proc/sys/kernel/modprobe", "have the kernel run a program", "カーネルにプログラムを実行させる"),
            ("binfmt", "/proc/sys/fs/binfmt_misc/register", "register an interpreter for all", "全体のインタープリターを登録する"),
            ("sysrq", "/proc/sysrq-trigger", "reboot through sysrq", "sysrq で再起動する"),
            ("hostname", "/proc/sys/kernel/hostname", "rename the machine through /proc", "/proc からマシン名を変える"),
            ("uid_map", "/proc/self/uid_map", "map itself to root", "自分を root に割り当てる"),
            ("panic", "/proc/sys/kernel/panic", "change a kernel setting", "カーネル設定を変える"),
            ("next_pid", "/proc/sys/kernel/ns_last_pid", "choose the next process number", "次のプロセス番号を選ぶ"),
        )
    ),
    _tried("proc", "oom_score", "make the kernel kill others first", "メモリー不足で他を先に終わらせる",
           "write('/proc/self/oom_score_adj', b'-1000')", "EROFS / EACCES"),
    _tried("proc", "kcore", "read the kernel's memory", "カーネルのメモリーを読む", "len(read('/proc/kcore')) or read('/nothing')", "ENOENT / EACCES / EPERM"),
    Escape("kernel_addresses", "proc", "learn the kernel's addresses", "カーネルのアドレスを知る", """
try:
    with open('/proc/kallsyms') as file:
        answer = 'zeros only' if not any(int(file.readline().split()[0], 16) for _ in range(50)) else 'known'
except (OSError, IndexError):
    answer = 'zeros only'
""", "zeros only"),
    Escape("sysfs", "proc", "look at the machine's hardware in /sys", "/sys でハードウェアを見る",
           "answer = 'empty' if not os.path.exists('/sys') or not os.listdir('/sys') else 'visible'", "empty"),
    Escape("release_agent", "proc", "find a control group's files (release_agent)", "制御グループのファイルを探す",
           "answer = 'found' if any(path.endswith(('/cgroup.procs', '/release_agent')) for path in everywhere()) else 'not there'", "not there"),
    Escape("pressure", "proc", "set a pressure trigger that wakes the kernel", "カーネルを起こす負荷トリガーを設定する",
           "answer = tried(lambda: write('/proc/pressure/cpu', b'some 150000 2000000' + bytes(1)))", "EROFS / EACCES / ENOENT / EPERM"),
)  # fmt: skip

_DEVICES = (
    Escape("device_list", "devices", "find a device beyond null, zero, random and terminals", "null・zero・random・端末以外のデバイスを探す", """
known = {'null', 'zero', 'full', 'random', 'urandom', 'tty', 'ptmx', 'console', 'core', 'fd', 'stdin', 'stdout', 'stderr', 'shm', 'pts', 'mqueue'}
answer = 'none' if set(os.listdir('/dev')) <= known else 'found'
""", "none"),
    *(
        _tried("devices", f"open_{path.rpartition('/')[2]}", f"open {path}", f"{path} を開く", f"os.open({path!r}, os.O_RDWR)", "ENOENT / EACCES / EPERM")
        for path in ("/dev/mem", "/dev/kmsg", "/dev/fuse", "/dev/kvm", "/dev/net/tun", "/dev/userfaultfd", "/dev/loop-control")
    ),
    _syscall("devices", "mknodat", "make a device of a disk", "ディスクのデバイスを作る", -100, 0, 0o060666, 2048),
    Escape("tiocsti", "devices", "type into the terminal (TIOCSTI)", "端末へ入力する (TIOCSTI)", f"answer = call({NUMBERS.get('ioctl', 16)}, 0, 0x5412, 0)", "EPERM / ENOSYS"),
    Escape("tiocsetd", "devices", "load a line discipline (TIOCSETD), also with high bits set", "回線規程を読み込む (TIOCSETD、上位ビット付きも)",
           f"answer = call({NUMBERS.get('ioctl', 16)}, 0, 0x100005423, 0)", "EPERM / ENOSYS"),
)  # fmt: skip

_SOCKETS = (
    *(
        _tried("sockets", f"engine_{index}", f"connect to {path}", f"{path} へ接続する", f"connect(socket.AF_UNIX, {path!r})", "ENOENT / EACCES")
        for index, path in enumerate(("/var/run/docker.sock", "/run/docker.sock", "/run/containerd/containerd.sock", "/run/dbus/system_bus_socket"))
    ),
    Escape("any_socket", "sockets", "find any socket file but its own bus", "自分のバス以外のソケットファイルを探す", """
found = []
for path in everywhere():
    try:
        found += [path] if stat.S_ISSOCK(os.lstat(path).st_mode) else []
    except OSError:
        pass
answer = 'none' if set(found) <= {'/run/rumi/bus.sock'} else 'found'
""", "none"),
    Escape("abstract", "sockets", "connect to an abstract socket of the host", "ホストの抽象ソケットへ接続する",
           "answer = tried(lambda: connect(socket.AF_UNIX, chr(0) + {abstract!r}))", "ECONNREFUSED"),
    _tried("sockets", "loopback", "connect to a port of the host's loopback", "ホストのループバックのポートへ接続する",
           "connect(socket.AF_INET, ('127.0.0.1', {port}))", "ECONNREFUSED / ENETUNREACH"),
    _tried("sockets", "metadata", "ask the cloud's metadata address", "クラウドのメタデータへ問い合わせる",
           "connect(socket.AF_INET, ('169.254.169.254', 80))", "ENETUNREACH"),
    _tried("sockets", "internet", "connect to an address of the internet", "インターネットのアドレスへ接続する",
           "connect(socket.AF_INET, ('192.0.2.1', 443))", "ENETUNREACH"),
    _tried("sockets", "internet_6", "the same over IPv6", "同じく IPv6 で", "connect(socket.AF_INET6, ('2001:db8::1', 443))", "ENETUNREACH / EADDRNOTAVAIL / EAFNOSUPPORT"),
    _tried("sockets", "datagram", "send a DNS question to anybody", "DNS の問い合わせを送る",
           "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 53))", "ENETUNREACH"),
    Escape("interfaces", "sockets", "find a network interface besides the loopback", "ループバック以外のインターフェースを探す",
           "answer = 'lo' if {{name for _, name in socket.if_nameindex()}} <= {{'lo', 'tunl0', 'sit0', 'gre0', 'gretap0', 'erspan0', 'ip_vti0', 'ip6_vti0', 'ip6tnl0', 'ip6gre0'}} else 'others'", "lo"),
    *(
        Escape(f"family_{family}", "sockets", f"open a socket of the family {name}", f"{name} のソケットを開く",
               f"answer = call({NUMBERS.get('socket', 41)}, {family}, 3, 0)", "EPERM / ENOSYS")
        for family, name in ((17, "packet (raw Ethernet)"), (40, "vsock"), (38, "alg (kernel crypto)"), (31, "Bluetooth"), (44, "XDP"), (21, "RDS"), (30, "TIPC"))
    ),
    Escape("raw_ip", "sockets", "open a raw IP socket", "生の IP ソケットを開く", f"answer = call({NUMBERS.get('socket', 41)}, 2, 3, 255)", "EPERM"),
    Escape("audit", "sockets", "listen to the kernel's audit", "カーネルの監査を聞く", f"answer = call({NUMBERS.get('socket', 41)}, 16, 3, 9)", "EPERM"),
    Escape("pairs", "sockets", "load a family's module through socketpair", "socketpair で別ファミリーのモジュールを読み込ませる",
           f"answer = call({NUMBERS.get('socketpair', 53)}, 21, 5, 0, 0)", "EPERM"),
)  # fmt: skip

_NAMESPACES = (
    *(
        Escape(f"unshare_{name}", "namespaces", f"a new {name} namespace of its own", f"新しい {name} 名前空間", f"answer = call({NUMBERS.get('unshare', 272)}, {flag})", "EPERM")
        for name, flag in (("user", 0x10000000), ("mount", 0x00020000), ("network", 0x40000000), ("process", 0x20000000), ("cgroup", 0x02000000),
                           ("host name", 0x04000000), ("IPC", 0x08000000), ("time", 0x00000080))
    ),
    Escape("clone_user", "namespaces", "clone into a new user namespace", "clone で新しい user 名前空間", f"answer = call({NUMBERS.get('clone', 56)}, {0x10000000 | 17}, 0, 0, 0, 0)", "EPERM"),
    Escape("clone3", "namespaces", "hide such flags in clone3's structure", "そのフラグを clone3 の構造体に隠す", f"answer = call({NUMBERS.get('clone3', 435)}, 0, 0)", "ENOSYS"),
    _syscall("namespaces", "setns", "enter another namespace", "別の名前空間へ入る", 0, 0),
    *(
        _syscall("namespaces", name, en, ja, 0, 0, 0, 0, 0)
        for name, en, ja in (
            ("mount", "mount a file system", "ファイルシステムをマウントする"),
            ("umount2", "take a mount away, and see what is below", "マウントを外して下を見る"),
            ("move_mount", "move a mount", "マウントを移す"),
            ("open_tree", "copy a tree of mounts", "マウントの木を写す"),
            ("fsopen", "mount by the newer calls", "新しい呼び出しでマウントする"),
            ("mount_setattr", "make a mount writable", "マウントを書けるようにする"),
            ("pivot_root", "change the root", "ルートを変える"),
            ("chroot", "leave by chroot", "chroot で抜け出す"),
        )
    ),
)  # fmt: skip

_RIGHTS = (
    _syscall("rights", "setuid", "become root", "root になる", 0),
    _syscall("rights", "setgroups", "drop a group that binds", "縛るグループを外す", 0, 0),
    _syscall("rights", "capset", "take a capability", "ケーパビリティを得る", 0, 0),
    Escape("capabilities", "rights", "hold any capability", "何らかのケーパビリティを持つ", """
status = dict(line.split(':\\t') for line in open('/proc/self/status').read().splitlines() if ':\\t' in line)
answer = 'none' if not any(int(status[name], 16) for name in ('CapEff', 'CapPrm', 'CapInh', 'CapAmb')) else 'some'
""", "none"),
    Escape("no_new_privs", "rights", "take no_new_privs back", "no_new_privs を戻す", "answer = 'EINVAL' if libc.prctl(38, 0, 0, 0, 0) == -1 else 'works'", "EINVAL"),
    _syscall("rights", "seccomp", "load a filter of its own", "自分のフィルターを読み込む", 1, 0, 0),
    _syscall("rights", "personality", "switch off address randomisation", "アドレスのランダム化を切る", 0x0040000),
    Escape("more_descriptors", "rights", "raise a limit", "制限を上げる", """
import resource
try:
    resource.setrlimit(resource.RLIMIT_NOFILE, (100000, 100000)); answer = 'works'
except (ValueError, OSError) as error:
    answer = 'refused'
""", "refused"),
    Escape("core_dump", "rights", "leave a core dump", "コアダンプを残す",
           "import resource\nanswer = 'limit 0' if resource.getrlimit(resource.RLIMIT_CORE) == (0, 0) else 'allowed'", "limit 0"),
)  # fmt: skip

_KERNEL = (
    *(
        _syscall("kernel", name, en, ja, 0, 0, 0, 0, 0)
        for name, en, ja in (
            ("io_uring_setup", "io_uring", "io_uring"),
            ("io_uring_enter", "io_uring with a ring of somebody else", "他者のリングで io_uring"),
            ("keyctl", "read the kernel's keyring", "カーネルの鍵束を読む"),
            ("add_key", "put a key there", "鍵を置く"),
            ("request_key", "have the host fetch a key", "ホストに鍵を取らせる"),
            ("bpf", "load a program into the kernel", "カーネルにプログラムを読み込む"),
            ("perf_event_open", "watch the machine's counters", "マシンのカウンターを見る"),
            ("userfaultfd", "hold the kernel at a page fault", "ページフォルトでカーネルを止める"),
            ("init_module", "load a kernel module", "カーネルモジュールを読み込む"),
            ("kexec_load", "start another kernel", "別のカーネルを起動する"),
            ("memfd_secret", "hide memory from the kernel", "カーネルからメモリーを隠す"),
            ("modify_ldt", "change segment descriptors", "セグメント記述子を変える"),
            ("ioperm", "reach hardware ports", "ハードウェアのポートに触れる"),
            ("syslog", "read the kernel's log", "カーネルのログを読む"),
            ("swapon", "switch swap on", "スワップを有効にする"),
            ("reboot", "reboot", "再起動する"),
            ("settimeofday", "set the clock", "時計を合わせる"),
            ("sethostname", "rename the machine", "マシン名を変える"),
            ("acct", "log every process of the machine", "全プロセスを記録する"),
            ("quotactl", "change disk quotas", "ディスク割り当てを変える"),
            ("fanotify_init", "watch every file access", "全ファイルアクセスを監視する"),
            ("move_pages", "learn where memory lies", "メモリーの配置を知る"),
            ("vmsplice", "map its memory into a pipe", "メモリーをパイプへ差し込む"),
        )
    ),
    _number("statmount", 457, "a call of Linux 6.8: read any mount", "Linux 6.8 の呼び出し: マウントを読む"),
    _number("lsm_set_self_attr", 460, "a call of Linux 6.8: change the security module", "Linux 6.8 の呼び出し: セキュリティモジュールを変える"),
    _number("open_tree_attr", 467, "a call of Linux 6.15: mounts again", "Linux 6.15 の呼び出し: マウント"),
    _number("of_the_future", 999, "a call that no kernel has yet", "まだどのカーネルにもない呼び出し"),
)  # fmt: skip

_IPC = (
    _syscall("ipc", "shmget", "System V shared memory", "System V 共有メモリー", 0, 4096, 0o1600),
    _syscall("ipc", "msgget", "System V messages", "System V メッセージ", 0, 0o1600),
    _syscall("ipc", "semget", "System V semaphores", "System V セマフォ", 0, 1, 0o1600),
    _syscall("ipc", "mq_open", "POSIX message queues", "POSIX メッセージキュー", 0, 0, 0, 0),
    Escape("shared_memory_of_the_host", "ipc", "find the host's shared memory", "ホストの共有メモリーを探す",
           "answer = 'found' if os.path.exists('/dev/shm/' + {shm!r}) else 'not there'", "not there"),
)  # fmt: skip

ESCAPES: tuple[Escape, ...] = (
    *_CODE, *_FILES, *_LINKS, *_PACKS, *_PROCESSES, *_PROC, *_DEVICES, *_SOCKETS, *_NAMESPACES, *_RIGHTS, *_KERNEL, *_IPC,
)  # fmt: skip
