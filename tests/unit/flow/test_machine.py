"""What a run does: each verb and adverb, as transcripts on a virtual clock."""

import pytest

from core_runtime.rules.flow.endings import RunStatus
from tests.support.flows import Fails, Playbook, Takes


def echo(args):
    return args


def boom(_args):
    raise Fails("broken")


def late(_args):
    return Takes(100.0, "late")


BASE = {"echo": echo, "boom": boom, "late": late}


def play(steps: str, head: str = "", **options):
    book = Playbook(f"flow: t\n{head}\nsteps:\n{steps}", BASE | options.pop("handlers", {}), **options.pop("book", {}))
    return book, book.run(**options)


def test_values_flow_from_step_to_step():
    book, outcome = play(
        """
  - {id: a, call: echo, with: {x: "${input.n}"}, as: r.a}
  - {id: b, call: echo, with: {y: "${r.a.x}"}, as: r.b}
  - {id: s, set: {swapped: "${r.b}", r.c: 1}}
""",
        'output: {r: "${r}", s: "${swapped}", flow: "${run.flow}"}',
        book={"values": {"n": 7}},
    )
    assert outcome.status is RunStatus.OK
    assert outcome.output == {"r": {"a": {"x": 7}, "b": {"y": 7}, "c": 1}, "s": {"y": 7}, "flow": "t"}
    assert [book.status(p) for p in "abs"] == ["ok"] * 3


def test_continue_is_the_default_and_degrades():
    book, outcome = play("  - {id: a, call: boom}\n  - {id: b, call: echo}")
    assert outcome.status is RunStatus.DEGRADED
    assert (book.status("a"), book.status("b")) == ("failed", "ok")


def test_a_step_that_needs_what_failed_does_not_run_on_null():
    book, outcome = play(
        """
  - {id: a, call: boom, as: v}
  - {id: reads, call: echo, with: "${v.x}", as: w}
  - {id: reads2, call: echo, with: "${w}"}
  - {id: asks, when: "${v}", call: echo}
  - {id: needs, needs: [a], call: echo}
  - {id: free, call: echo, with: 1}
"""
    )
    assert [book.status(p) for p in ("reads", "reads2", "asks", "needs", "free")] == ["skipped"] * 4 + ["ok"]
    assert book.results["reads"].reason == "upstream: v was not left by a"
    assert book.calls == [("boom", {}), ("echo", 1)]
    assert outcome.status is RunStatus.DEGRADED


def test_a_default_stands_in():
    book, outcome = play(
        '  - {id: a, call: boom, as: v, default: []}\n  - {id: b, needs: [a], call: echo, with: "${v}", as: w}'
    )
    assert book.status("a") == "failed"
    assert outcome.variables["w"] == []


def test_on_error_fail_ends_the_run_and_stop_passes_every_block():
    book, outcome = play("  - {id: a, call: boom, on_error: fail}\n  - {id: b, call: echo}")
    assert (outcome.status, outcome.error.type, "b" in book.results) == (RunStatus.FAILED, "broken", False)
    book, outcome = play(
        """
  - id: outer
    on_error: continue
    catch: [{error: "*", do: [{call: echo}]}]
    do: [{id: in, call: boom, on_error: stop}]
  - {id: b, call: echo}
"""
    )
    assert (outcome.status, "b" in book.results, book.calls) == (RunStatus.FAILED, False, [("boom", {})])


def test_a_sealed_phase_fails_closed_and_later_phases_do_not_run():
    book, outcome = play(
        "  - {id: a, phase: guard, call: boom}\n  - {id: b, phase: rest, call: echo}",
        "phases: [{name: guard, sealed: true}, rest]\ndefaults: {on_error: continue}",
    )
    assert outcome.status is RunStatus.FAILED
    assert "b" not in book.results


def test_a_missing_handler_in_a_sealed_phase_fails_closed():
    _, outcome = play("  - {id: a, phase: guard, call: nobody}", "phases: [{name: guard, sealed: true}]")
    assert (outcome.status, outcome.error.type) == (RunStatus.FAILED, "missing")


@pytest.mark.parametrize(
    ("policy", "status", "run"), [("skip", "skipped", RunStatus.DEGRADED), ("fail", "failed", RunStatus.DEGRADED)]
)
def test_missing_handlers(policy, status, run):
    book, outcome = play(
        f"  - {{id: a, call: nobody, on_missing: {policy}, as: v}}\n  - {{id: b, call: echo, with: '${{v}}'}}"
    )
    assert (book.status("a"), book.status("b"), outcome.status) == (status, "skipped", run)


def test_on_missing_wait_binds_when_the_handler_appears():
    book, outcome = play(
        "  - {id: a, call: soon, with: 5, on_missing: wait, timeout: 10s, as: v}", appear={4.0: "soon"}
    )
    assert (book.now, outcome.variables["v"], book.status("a")) == (4.0, 5, "ok")


def test_on_missing_wait_is_bounded_by_the_timeout():
    book, _ = play("  - {id: a, call: never, on_missing: wait, timeout: 10s}")
    assert (book.status("a"), book.now) == ("timeout", 10.0)


def test_a_call_that_is_answered_by_its_timeout_timed_out():
    book, outcome = play("  - {id: a, call: late, timeout: 3s}")
    assert (book.status("a"), book.now, outcome.status) == ("timeout", 3.0, RunStatus.DEGRADED)
    assert book.results["a"].error.type == "timeout"


def test_a_call_has_a_timeout_even_when_none_is_written():
    book, _ = play("  - {id: a, call: late}")
    assert (book.status("a"), book.now) == ("timeout", 60.0)


def test_timeout_of_a_block_interrupts_what_is_inside():
    book, _ = play(
        "  - {id: a, timeout: 3s, do: [{id: x, call: late, finally: [{id: f, call: echo}]}, {id: y, call: echo}]}"
    )
    assert (book.status("a"), book.status("a/x"), book.status("a/x/finally/f")) == ("timeout", "cancelled", "ok")
    assert "a/y" not in book.results


def test_retry_with_backoff_jitter_and_condition():
    tries = []

    def flaky(_args):
        tries.append(1)
        raise Fails("busy", retryable=len(tries) < 3)

    book, _ = play(
        '  - {id: a, call: flaky, retry: {max: 5, delay: 1s, backoff: 2, jitter: 0.5, when: "${error.retryable}"}}',
        handlers={"flaky": flaky}, book={"jitter": 1.0},
    )  # fmt: skip
    assert len(tries) == 3
    assert [s for s in book.sleeps if s < 10] == [1.5, 3.0]
    assert book.results["a"].status.value == "failed"


def test_retry_is_capped_by_max_delay():
    book, _ = play("  - {id: a, call: boom, retry: {max: 3, delay: 10s, backoff: 10, max_delay: 20s}}")
    assert [s for s in book.sleeps if s < 60] == [10.0, 20.0, 20.0]
    assert len(book.calls) == 4


def test_catch_takes_the_first_match_and_sees_the_error():
    book, outcome = play(
        """
  - id: a
    call: boom
    catch:
      - {error: "other*", do: [{call: echo}]}
      - {error: "bro*", when: "${e.retryable}", as: e, do: [{call: echo}]}
      - {error: "bro*", as: e, do: [{id: h, set: {why: "${e.type} at ${e.instance}"}}]}
    finally: [{id: f, set: {cleaned: true}}]
"""
    )
    assert (outcome.status, outcome.variables["why"], outcome.variables["cleaned"]) == (
        RunStatus.OK,
        "broken at ",
        True,
    )
    assert book.results["a"].reason == "caught broken"
    assert "e" not in outcome.variables


def test_a_catch_that_fails_fails_the_step():
    book, outcome = play(
        '  - {id: a, call: boom, catch: [{error: "*", do: [{call: boom}]}], finally: [{id: f, call: echo}]}'
    )
    assert (outcome.status, book.status("a"), book.status("a/finally/f")) == (RunStatus.FAILED, "failed", "ok")


def test_inside_a_block_with_catch_a_failure_reaches_the_catch():
    book, outcome = play(
        '  - {id: a, do: [{id: x, call: boom}, {id: y, call: echo}], catch: [{error: "*", do: [{id: h, call: echo}]}]}'
    )
    assert (outcome.status, book.status("a/x"), "a/y" in book.results, book.status("a/catch0/h")) == (
        RunStatus.OK, "failed", False, "ok",
    )  # fmt: skip


def test_parallel_runs_at_once_and_merges_in_document_order():
    book, outcome = play(
        """
  - id: p
    as: all
    parallel:
      branches:
        slow: [{id: x, call: wait5, as: who}, {id: s, set: {shared: slow}}]
        fast: [{id: y, call: wait1, as: fast}, {id: s, set: {shared: fast}}]
""",
        handlers={"wait5": lambda _: Takes(5, "slow"), "wait1": lambda _: Takes(1, "fast")},
    )
    assert book.now == 5.0
    assert outcome.variables["shared"] == "fast"
    assert (outcome.variables["who"], outcome.variables["fast"]) == ("slow", "fast")


def test_parallel_all_cancels_the_rest_when_one_fails():
    book, outcome = play(
        """
  - id: p
    on_error: fail
    parallel: {branches: {bad: [{id: x, call: boom}], slow: [{id: y, call: late, finally: [{id: f, call: echo}]}]}}
"""
    )
    assert (outcome.status, book.now) == (RunStatus.FAILED, 0.0)
    assert (book.status("p/slow/y"), book.status("p/slow/y/finally/f")) == ("cancelled", "ok")


def test_parallel_any_takes_the_first_success():
    book, outcome = play(
        """
  - id: p
    as: r
    on_error: fail
    parallel: {wait: any, branches: {bad: [{id: x, call: boom}], ok: [{id: y, call: quick}], slow: [{id: z, call: late}]}}
""",
        handlers={"quick": lambda _: Takes(1, "quick")},
    )
    assert (book.now, outcome.variables["r"]) == (1.0, {"bad": None, "ok": "quick", "slow": None})
    assert book.status("p/slow/z") == "cancelled"


def test_parallel_max_bounds_what_runs_at_once():
    book, _ = play(
        """
  - id: p
    parallel: {max: 1, branches: {a: [{call: two}], b: [{call: two}], c: [{call: two}]}}
""",
        handlers={"two": lambda _: Takes(2)},
    )
    assert book.now == 6.0


def test_choose_takes_one_arm():
    arms = '  - {id: c, choose: [{when: "${input.a}", do: [{id: x, call: echo}]}, {default: [{id: y, call: echo}]}]}'
    book, _ = play(arms, book={"values": {"a": 1}})
    assert set(book.results) == {"c", "c/0/x"}
    book, _ = play(arms, book={"values": {"a": 0}})
    assert set(book.results) == {"c", "c/1/y"}


def test_each_over_lists_and_maps():
    _, outcome = play(
        """
  - {id: e, each: {in: "${input.l}", as: i, at: n, collect: "${n}=${i}"}, as: r, do: [{set: {last: "${i}"}}]}
  - {id: m, each: {in: "${input.m}", at: k}, as: s, do: [{call: echo, with: "${k}${item}"}]}
  - {id: none, each: {in: "${input.none}"}, as: none, do: [{call: echo}]}
""",
        book={"values": {"l": ["a", "b"], "m": {"x": 1}}},
    )
    assert (outcome.variables["r"], outcome.variables["s"], outcome.variables["none"]) == (["0=a", "1=b"], ["x1"], [])
    assert outcome.variables["last"] == "b"
    assert "i" not in outcome.variables


def test_each_in_parallel_and_over_what_is_no_list():
    book, outcome = play(
        '  - {id: e, each: {in: [1, 2, 3, 4], parallel: 2}, as: r, do: [{call: two, with: "${item}"}]}',
        handlers={"two": lambda args: Takes(2, args)},
    )
    assert (book.now, outcome.variables["r"]) == (4.0, [1, 2, 3, 4])
    book, _ = play("  - {id: e, each: {in: 5}, do: [{call: echo}]}")
    assert book.results["e"].error.type == "value"


def test_loop_until_and_max():
    count = []

    def tick(_args):
        count.append(1)
        return {"n": len(count), "done": len(count) == 3}

    _, outcome = play(
        '  - {id: l, loop: {max: 10, until: "${t.done}"}, do: [{call: tick, as: t}]}', handlers={"tick": tick}
    )
    assert (outcome.variables["t"]["n"], len(count)) == (3, 3)
    _, _ = play("  - {id: l, loop: {max: 4}, do: [{call: tick}]}", handlers={"tick": tick})
    assert len(count) == 7


def test_cancel_runs_finally_and_is_not_caught():
    book, outcome = play(
        """
  - id: a
    call: late
    retry: 5
    catch: [{error: "*", do: [{id: h, call: echo}]}]
    finally: [{id: f, call: echo}]
  - {id: b, call: echo}
""",
        cancel_at=2.0,
    )
    assert outcome.status is RunStatus.CANCELLED
    assert (book.status("a"), book.status("a/finally/f"), set(book.results)) == (
        "cancelled",
        "ok",
        {"a", "a/finally/f"},
    )


def test_limits_of_a_run():
    _, outcome = play("  - {id: l, loop: {max: 100}, do: [{call: echo}]}", "limits: {steps: 5}")
    assert (outcome.status, outcome.error.type) == (RunStatus.FAILED, "limit")
    book, outcome = play("  - {id: a, call: late}\n  - {id: b, call: late}", "limits: {wall: 70s}")
    assert (outcome.status, outcome.error.type, book.now) == (RunStatus.FAILED, "timeout", 70.0)


def test_disabled_and_when():
    book, outcome = play(
        '  - {id: a, enabled: false, call: boom}\n  - {id: b, when: "${input.no}", call: boom, as: v}\n  - {id: c, call: echo, with: "${v}"}'
    )
    assert outcome.status is RunStatus.OK
    assert [book.status(p) for p in "abc"] == ["skipped", "skipped", "ok"]
    assert book.calls == [("echo", None)]


def test_a_thousand_branches_end():
    branches = ", ".join(f"b{i}: [{{call: echo, with: {i}}}]" for i in range(1000))
    _, outcome = play(f"  - {{id: p, as: r, parallel: {{branches: {{{branches}}}}}}}")
    assert outcome.status is RunStatus.OK
    assert outcome.variables["r"]["b999"] == 999


def test_a_need_is_of_the_same_iteration():
    def handler(args):
        if args["fails"]:
            raise Fails("own")
        return 1

    book = Playbook(
        """
flow: x
steps:
  - id: all
    each: {in: [true, false], as: fails, parallel: 2, collect: "${ran}"}
    do:
      - {id: a, call: h, with: {fails: "${fails}"}, on_error: continue}
      - {id: pause, call: later}
      - {id: b, set: {ran: true}, needs: [a]}
    as: ran
  - {id: out, return: "${ran}"}
""",
        {"h": handler, "later": lambda args: Takes(1.0 if args else 0.0, None)},
    )
    assert book.run().output == [None, True]


def test_a_need_is_of_the_same_flow():
    book = Playbook(
        """
flow: x
defaults: {on_error: continue}
steps:
  - {id: a, fail: {type: own, title: no}, on_error: continue}
  - {id: sub, flow: y}
  - {id: b, set: {ran: true}, needs: [a]}
""",
        {}, flows={"y": "flow: y\nsteps: [{id: a, set: {z: 1}}]"},
    )  # fmt: skip
    book.run()
    assert (book.results["b"].status, book.results["b"].reason) == ("skipped", "upstream: a did not succeed")
    assert (book.results["a"].flow, book.results["b"].flow) == ("y", "x")
