"""The wizard's pages: values in, HTML out. No script, no external resource; every text goes through `html.tag`."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rumi_setup.core.checker import Check, Status
from rumi_setup.web.gate import Refusal
from rumi_setup.web.html import Content, Markup, join, tag, with_code
from rumi_setup.web.words import LANGUAGES, Words
from rumi_setup.web.work import State

if TYPE_CHECKING:
    from rumi_setup.core.problem import SetupError
    from rumi_setup.core.recovery import Issue, Mended
    from rumi_setup.web.wizard import Folders, Health, Installation
    from rumi_setup.web.work import Snapshot

# path → its name in the row of steps
STEPS = {"/": "Check", "/install": "Install", "/folders": "Folders", "/doctor": "Doctor", "/ready": "Ready"}
REFRESH_S = 2
_NAMES = {"ja": "日本語", "en": "English"}


@dataclass(frozen=True)
class View:
    """For whom a page is made. `csrf` is empty where there is no session, and then no form is shown."""

    say: Words
    csrf: str = ""
    path: str = ""


def checks(view: View, found: list[Check]) -> str:
    say = view.say
    failed = sum(c.status is Status.FAIL for c in found)
    summary = say("{n} of these must be mended before Packs can run.", n=failed) if failed else say(
        "This machine can run Rumi. What is marked “note” is worth a look."
    )  # fmt: skip
    rows = [tag("li", *_check(say, c), class_=f"card {c.status.value}") for c in found]
    return _page(
        view, say("This machine"),
        tag("p", summary, class_="lead", role="status"),
        tag("ul", *rows, class_="cards"),
        tag("p", say("Docker or bubblewrap is missing? The guide shows how to install it: "),
            tag("a", say("Installation guide"), href=_guide(say))),
        _row(_link(say("Look again"), "/", "quiet"), _link(say("Next: install"), "/install", "main")),
    )  # fmt: skip


def install(view: View, seen: Installation) -> str:
    say, work = view.say, seen.work
    working = work.state is State.WORKING
    body: list[Content] = [
        tag("p", say("Makes the folder .venv and installs exactly the packages of the lock file, each checked by its "
                     "hash. Nothing outside the project’s folder is changed."), class_="lead"),
    ]  # fmt: skip
    if working:
        body.append(_progress(say, work))
    elif work.state is State.FAILED:
        body.append(_problem(say, work.problem))
    if not working and seen.lock is not None:
        body.append(_outcome("ok", say("Everything is installed (lock “{name}”). There is nothing to do.",
                                       name=seen.lock)))  # fmt: skip
        body.append(_row(_link(say("Next: folders"), "/folders", "main")))
    elif not working:
        again = say("Try again") if work.state is State.FAILED else say("Install")
        place = _field(say("Folder of wheels (only without a network)"), "offline", seen.offline,
                       say("Made on a connected machine by `./rumi setup --wheelhouse DIR`."))  # fmt: skip
        body.append(_form(view, "/install", place, _button(again)))
    if work.notes:
        body.append(tag("ul", *(tag("li", with_code(n)) for n in work.notes), class_="notes"))
    return _page(view, say("Install"), *body, refresh="/install" if working else "")


def folders(view: View, seen: Folders) -> str:
    say = view.say
    body: list[Content] = [
        tag("p", say("Your settings, approvals and Packs live in two folders here. What exists is never touched."),
            class_="lead"),
        tag("p", tag("code", seen.home)),
    ]  # fmt: skip
    if seen.problem is not None:
        body.append(_problem(say, seen.problem))
    if seen.created:
        body.append(_outcome("ok", say("Created: {names}", names=", ".join(seen.created))))
    if seen.missing:
        body.append(tag("ul", *(tag("li", m) for m in seen.missing), class_="notes"))
        body.append(_form(view, "/initialise", _button(say("Create what is missing"))))
    elif seen.problem is None:
        if not seen.created:
            body.append(_outcome("ok", say("All folders are there.")))
        body.append(_row(_link(say("Next: doctor"), "/doctor", "main")))
    return _page(view, say("Folders"), *body)


def doctor(view: View, seen: Health) -> str:
    say = view.say
    body: list[Content] = [_outcome("ok" if m.success else "fail", _mended(say, m)) for m in seen.mended]
    if seen.problem is not None:
        body.append(_problem(say, seen.problem))
    if seen.healthy:
        body.append(_outcome("ok", say("Healthy. Nothing has to be mended.")))
    if seen.issues:
        body.append(tag("ul", *(_issue(view, i) for i in seen.issues), class_="cards"))
    mendable = [i for i in seen.issues if i.auto_fix]
    if len(mendable) > 1:
        body.append(_form(view, "/mend", _hidden("issue", "all"), _button(say("Mend all {n}", n=len(mendable)))))
    look = _link(say("Look again"), "/doctor", "quiet")
    body.append(_row(look, _link(say("Next: ready"), "/ready", "main" if seen.healthy else "quiet")))
    lead = say("Looks for what is missing or broken in your folders. What is replaced is kept beside it.")
    return _page(view, say("Doctor"), tag("p", lead, class_="lead"), *body)


def ready(view: View, *, installed: bool, healthy: bool) -> str:
    say = view.say
    left = [tag("li", tag("a", say(STEPS[path]), href=path))
            for path, done in (("/install", installed), ("/doctor", healthy)) if not done]  # fmt: skip
    state: list[Content] = [_outcome("ok", say("Rumi is set up."))]
    if left:
        state = [_outcome("warn", say("Not everything is done yet:")), tag("ul", *left)]
    commands = (
        ("./rumi up", say("starts the host and prints its two addresses")),
        ("./rumi pack new hello", say("makes a first Pack that works")),
        ("./rumi pack pending", say("shows what waits for your decision")),
        ("./rumi doctor", say("finds what is wrong, at any time")),
    )
    rows = [tag("div", tag("dt", tag("code", c)), tag("dd", meaning)) for c, meaning in commands]
    return _page(
        view, say("Ready"), *state,
        tag("h2", say("Next, in the terminal")), tag("dl", *rows, class_="commands"),
        tag("p", tag("a", say("First steps in the guide"), href=_guide(say, "first-steps"))),
        _form(view, "/finish", _button(say("Finish"))),
        tag("p", say("Finish ends this wizard; it changes nothing."), class_="hint"),
    )  # fmt: skip


def finished(view: View) -> str:
    say = view.say
    body = tag("p", with_code(say("You can close this page. Next, in the terminal: `./rumi up`")), class_="lead")
    return _page(View(say), say("Setup has ended"), body)


def entered(view: View) -> str:
    """Answers the printed address. A page that goes on by itself, not a redirect: after a click in a terminal that is
    itself a web page, the browser would keep a strict cookie back from the redirected request.
    """
    say = view.say
    return _page(View(say), say("Setup"), _row(_link(say("Begin"), "/", "main")), refresh="/", refresh_s=0)


_REFUSED = {
    Refusal.HOST: "This address is not served here.",
    Refusal.TARGET: "The address is too long.",
    Refusal.METHOD: "This kind of request is not answered.",
    Refusal.NO_SESSION: "This browser has no access. Open the address that the terminal shows.",
    Refusal.USED: "This address was used already. If that was not you, press Ctrl-C in the terminal and start again.",
    Refusal.FOREIGN: "This did not come from the wizard’s own page, so nothing was done.",
    Refusal.FORM: "This is not what the wizard’s forms send.",
    Refusal.SIZE: "That is more than the wizard takes.",
    Refusal.LENGTH: "The request does not say how long it is.",
}


def refused(say: Words, why: Refusal, *, inside: bool) -> str:
    body = [tag("p", say(_REFUSED[why]), class_="lead")]
    if inside:
        body.append(_row(_link(say("To the wizard"), "/", "main")))
    return _page(View(say), say("Refused"), *body)


def unknown(view: View) -> str:
    say = view.say
    return _page(View(say), say("No such page"), _row(_link(say("To the wizard"), "/", "main")))


def broken(say: Words) -> str:
    text = say("Something went wrong that was not foreseen. The terminal shows what; press Ctrl-C there to end.")
    return _page(View(say), say("Error"), tag("p", text, class_="lead"))


# parts


def _page(view: View, title: str, *body: Content, refresh: str = "", refresh_s: int = REFRESH_S) -> str:
    say = view.say
    head: list[Content] = [
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", f"{title} — Rumi"),
        tag("link", rel="stylesheet", href="/guide/style.css"),
        tag("link", rel="stylesheet", href="/wizard.css"),
    ]
    if refresh:
        head.append(tag("meta", http_equiv="refresh", content=f"{refresh_s};url={refresh}"))
    top: list[Content] = [tag("span", "Rumi", class_="home")]
    parts: list[Content] = [tag("a", say("Skip to the content"), href="#main", class_="skip")]
    if view.csrf:
        top.append(_languages(view))
    parts.append(tag("header", *top))
    if view.csrf:
        parts.append(_steps(view))
    parts.append(tag("main", tag("h1", title), *body, id="main"))
    document = tag("html", tag("head", *head), tag("body", *parts), lang=say.language)
    return f"<!doctype html>\n{document.text}\n"


def _steps(view: View) -> Markup:
    items = [
        tag("li", tag("a", view.say(name), href=path, aria_current="step" if path == view.path else False))
        for path, name in STEPS.items()
    ]
    return tag("nav", tag("ol", *items), aria_label=view.say("Steps"), class_="steps")


def _languages(view: View) -> Markup:
    buttons = [
        tag("button", _NAMES[name], name="language", value=name, lang=name, class_="link",
            aria_pressed="true" if name == view.say.language else "false")
        for name in LANGUAGES
    ]  # fmt: skip
    return _form(view, "/language", _hidden("back", view.path), *buttons, class_="languages")


def _check(say: Words, check: Check) -> list[Content]:
    shown: list[Content] = [_mark(say, check.status.value), tag("strong", check.title)]
    shown.append(tag("p", with_code(check.detail)))
    if check.hint and check.status is not Status.OK:
        shown.append(tag("p", with_code(check.hint), class_="hint"))
    return shown


def _issue(view: View, issue: Issue) -> Markup:
    kind = {"error": "fail", "warn": "warn"}.get(issue.severity, "ok")
    shown: list[Content] = [
        _mark(view.say, kind if issue.severity != "info" else "info"), tag("strong", issue.id),
        tag("p", with_code(issue.message)),
    ]  # fmt: skip
    if issue.auto_fix:
        shown.append(_form(view, "/mend", _hidden("issue", issue.id),
                           _button(view.say("Mend"), aria_label=f"{view.say('Mend')}: {issue.id}")))  # fmt: skip
    return tag("li", *shown, class_=f"card {kind}")


def _mended(say: Words, outcome: Mended) -> str:
    kept = " " + say("(the old one is {path})", path=outcome.backup) if outcome.backup else ""
    return f"{outcome.id}: {outcome.message}{kept}"


def _mark(say: Words, status: str) -> Markup:
    words = {"ok": say("fine"), "warn": say("note"), "fail": say("mend"), "info": say("note")}
    return tag("span", words[status], class_="mark")


def _progress(say: Words, work: Snapshot) -> Markup:
    elapsed_s = time.monotonic() - work.began_s
    done = max(work.step - 1, 0)
    return tag(
        "section",
        tag("label", work.text or say("Starting"), for_="bar"),
        tag("progress", f"{done}/{work.steps}", id="bar", max=str(max(work.steps, 1)), value=str(done)),
        tag("p", say("Step {step} of {steps}, {s} s so far. This page renews itself.",
                     step=max(work.step, 1), steps=max(work.steps, 1), s=f"{elapsed_s:.0f}"), class_="hint"),
        class_="working", role="status",
    )  # fmt: skip


def _problem(say: Words, problem: SetupError | None) -> Markup:
    if problem is None:
        text = say("Something went wrong that was not foreseen. The terminal shows what; press Ctrl-C there to end.")
        return tag("section", tag("p", tag("strong", text)), class_="card fail", role="alert")
    parts: list[Content] = [tag("p", tag("strong", with_code(problem.what)))]
    if problem.next_steps:
        parts += [tag("p", say("What to do, one of:")),
                  tag("ol", *(tag("li", with_code(s)) for s in problem.next_steps))]  # fmt: skip
    if problem.left:
        parts.append(tag("p", with_code(problem.left)))
    if problem.attempts:
        tried = [tag("li", tag("strong", a.way), ": ", a.outcome) for a in problem.attempts]
        parts.append(tag("details", tag("summary", say("What was tried")), tag("ul", *tried)))
    return tag("section", *parts, class_="card fail", role="alert")


def _outcome(kind: str, text: str) -> Markup:
    return tag("p", with_code(text), class_=f"card {kind}", role="status")


def _form(view: View, action: str, *content: Content, class_: str = "") -> Markup:
    if not view.csrf:
        return Markup("")
    return tag("form", _hidden("csrf", view.csrf), *content, method="post", action=action, class_=class_ or False)


def _hidden(name: str, value: str) -> Markup:
    return tag("input", type="hidden", name=name, value=value)


def _button(text: str, **attributes: str) -> Markup:
    return tag("button", text, class_="main", **attributes)


def _field(label: str, name: str, value: str, hint: str) -> Markup:
    return tag(
        "details", tag("summary", label),
        tag("p", with_code(hint), class_="hint", id=f"{name}-hint"),
        tag("input", type="text", name=name, value=value, maxlength="1024", autocomplete="off", spellcheck="false",
            aria_label=label, aria_describedby=f"{name}-hint"),
        open=bool(value),
    )  # fmt: skip


def _link(text: str, target: str, kind: str) -> Markup:
    return tag("a", text, href=target, class_=f"button {kind}")


def _row(*content: Content) -> Markup:
    return join([tag("p", *content, class_="row")])


def _guide(say: Words, page: str = "index") -> str:
    return f"/guide/{say.language}/{page}.html"
