"""The filter, executed: a small BPF interpreter runs the program as the kernel would."""

import json
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core_runtime.rules import seccomp
from core_runtime.rules.seccomp import ENOSYS, EPERM, RET_ALLOW, RET_ERRNO, RET_KILL_PROCESS
from core_runtime.rules.seccomp_tables import ALLOWED, REFUSED

ROOT = Path(__file__).resolve().parents[3]
MACHINES = sorted(seccomp.ARCHITECTURES)
PROGRAMS = {(m, memfd): seccomp.bpf_program(m, memfd=memfd) for m in MACHINES for memfd in (True, False)}


def run(program: bytes, number: int, args: tuple[int, ...] = (), audit: int = 0) -> int:
    data = struct.pack("<IIQ6Q", number & 0xFFFFFFFF, audit, 0, *(tuple(args) + (0,) * 6)[:6])
    code = [struct.unpack_from("<HBBI", program, at) for at in range(0, len(program), 8)]
    accumulator = at = 0
    for _ in range(len(code)):
        op, jt, jf, k = code[at]
        at += 1
        match op:
            case seccomp.LD_ABS:
                accumulator = struct.unpack_from("<I", data, k)[0]
            case seccomp.JEQ:
                at += jt if accumulator == k else jf
            case seccomp.JGE:
                at += jt if accumulator >= k else jf
            case seccomp.JSET:
                at += jt if accumulator & k else jf
            case seccomp.JA:
                at += k
            case seccomp.RET:
                return int(k)
            case _:
                raise AssertionError(op)
    raise AssertionError("no return within the program's length")


def decide(machine: str, name: str, *args: int, memfd: bool = True) -> int:
    arch = seccomp.ARCHITECTURES[machine]
    return run(PROGRAMS[machine, memfd], arch.numbers[name], args, arch.audit)


@pytest.mark.parametrize("machine", MACHINES)
def test_every_number_gets_what_the_policy_says(machine):
    arch = seccomp.ARCHITECTURES[machine]
    names = {number: name for name, number in arch.numbers.items()}
    for number in range(600):
        name = names.get(number, "")
        if name in seccomp.CONDITIONAL:
            continue
        want = RET_ERRNO | ENOSYS
        if name in seccomp.refused():
            want = RET_ERRNO | EPERM
        if name in seccomp.allowed():
            want = RET_ALLOW
        assert run(PROGRAMS[machine, True], number, audit=arch.audit) == want, (number, name)


@pytest.mark.parametrize("machine", MACHINES)
def test_program_fits_the_kernels_limit(machine):
    assert len(PROGRAMS[machine, True]) % 8 == 0
    assert len(PROGRAMS[machine, True]) // 8 <= 4096


@pytest.mark.parametrize("machine", MACHINES)
def test_foreign_architecture_and_x32_are_killed(machine):
    arch = seccomp.ARCHITECTURES[machine]
    assert run(PROGRAMS[machine, True], 0, audit=0x40000003) == RET_KILL_PROCESS  # i386
    assert run(PROGRAMS[machine, True], 0x40000000 | 1, audit=arch.audit) == RET_KILL_PROCESS
    assert run(PROGRAMS[machine, True], -1, audit=arch.audit) == RET_KILL_PROCESS


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("bit", [17, 25, 26, 27, 28, 29, 30])
def test_clone_with_any_namespace_flag_is_refused(machine, bit):
    assert decide(machine, "clone", 1 << bit) == RET_ERRNO | EPERM
    assert decide(machine, "clone", 0x003D0F00) == RET_ALLOW  # what pthread_create passes


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("name", ["clone3", "rseq_slice_yield"])
def test_clone3_and_unknown_calls_say_enosys(machine, name):
    if name in seccomp.ARCHITECTURES[machine].numbers:
        assert decide(machine, name) == RET_ERRNO | ENOSYS
    assert run(PROGRAMS[machine, True], 599, audit=seccomp.ARCHITECTURES[machine].audit) == RET_ERRNO | ENOSYS


@given(family=st.integers(0, 2**64 - 1), protocol=st.integers(0, 2**64 - 1))
def test_only_four_socket_families(family, protocol):
    low, proto = family & 0xFFFFFFFF, protocol & 0xFFFFFFFF
    good = low == 1 or (low in {2, 10} and proto in {0, 6, 17}) or (low == 16 and proto == 0)
    for machine in MACHINES:
        assert decide(machine, "socket", family, 1, protocol) == (RET_ALLOW if good else RET_ERRNO | EPERM)


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("family", [2, 10])
def test_internet_sockets_are_tcp_and_udp(machine, family):
    for protocol in (0, 6, 17, 7 << 32 | 6):
        assert decide(machine, "socket", family, 1, protocol) == RET_ALLOW
    for protocol in (1, 33, 132, 136, 255, 262):  # icmp, dccp, sctp, udplite, raw, mptcp
        assert decide(machine, "socket", family, 1, protocol) == RET_ERRNO | EPERM


@given(family=st.integers(0, 2**64 - 1))
def test_pairs_of_sockets_are_local(family):
    for machine in MACHINES:
        want = RET_ALLOW if family & 0xFFFFFFFF == 1 else RET_ERRNO | EPERM
        assert decide(machine, "socketpair", family, 1, 0) == want


@given(high=st.integers(0, 2**32 - 1))
def test_tiocsti_is_refused_whatever_stands_above_its_32_bits(high):
    for machine in MACHINES:
        for request in (0x5412, 0x541C, 0x5423):
            assert decide(machine, "ioctl", 0, high << 32 | request) == RET_ERRNO | EPERM
        assert decide(machine, "ioctl", 0, high << 32 | 0x5413) == RET_ALLOW  # TIOCGWINSZ


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(
    "name",
    ["io_uring_setup", "userfaultfd", "bpf", "ptrace", "keyctl", "mount", "setns", "unshare", "perf_event_open", "process_vm_readv",
     "open_by_handle_at", "chroot", "pivot_root", "personality", "kexec_load", "init_module", "setuid", "mknodat"],
)  # fmt: skip
def test_dangerous_calls_are_refused(machine, name):
    assert decide(machine, name) == RET_ERRNO | EPERM


@pytest.mark.parametrize("machine", MACHINES)
def test_memfd_is_refused_where_nothing_counts_it(machine):
    assert decide(machine, "memfd_create") == RET_ALLOW
    assert decide(machine, "memfd_create", memfd=False) == RET_ERRNO | EPERM


def test_nothing_is_both_allowed_and_refused():
    assert not ALLOWED & REFUSED


@given(number=st.integers(0, 2**32 - 1), excluded=st.sets(st.integers(0, 2**32 - 1), min_size=1, max_size=4))
def test_complement_prefixes_cover_everything_else_once(number, excluded):
    hits = [pair for pair in seccomp.complement_prefixes(excluded) if number & pair[0] == pair[1]]
    assert len(hits) == (0 if number in excluded else 1)


def test_docker_profile_never_compares_one_argument_twice_in_a_rule():
    # the engine would turn such a rule into alternatives, and so into no rule at all
    for rule in seccomp.docker_profile()["syscalls"]:
        indexes = [condition["index"] for condition in rule.get("args", [])]
        assert len(indexes) == len(set(indexes))


def test_committed_profile_is_the_generated_one():
    committed = (ROOT / "docker/core/base/seccomp.json").read_text(encoding="utf-8")
    assert committed == seccomp.docker_profile_json(), "regenerate docker/core/base/seccomp.json from rules/seccomp.py"
    assert json.loads(committed)["defaultAction"] == "SCMP_ACT_ERRNO"


def test_docker_profile_and_program_agree_on_names():
    allowed = {n for r in seccomp.docker_profile()["syscalls"] if r["action"] == "SCMP_ACT_ALLOW" for n in r["names"]}
    assert allowed == ALLOWED
