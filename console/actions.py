"""What the operator does to a Pack beside deciding about it. Each needs a form of the open session."""

from __future__ import annotations

import time

from starlette.requests import Request
from starlette.responses import Response

from backend_core.errors import RequestError
from console import forms
from console.desk import Desk, actor, pack_id_of, pack_page
from core_runtime.api.call import NAME

SECRET_LIMIT_CHARS = 16 * 1024


async def scan(desk: Desk, request: Request) -> Response:
    await desk.form(request)
    await desk.host.scan()
    return desk.done(request, "done_scanned", "/_rumi/")


async def acknowledge(desk: Desk, request: Request) -> Response:
    form = await desk.form(request)
    await desk.host.acknowledge(forms.one(form, "reason"), actor=actor(request))
    return desk.done(request, "done_acknowledged", "/_rumi/audit")


async def cancel_run(desk: Desk, request: Request) -> Response:
    await desk.form(request)
    run_id = str(request.path_params["run_id"])
    desk.host.cancel_run(run_id)
    return desk.done(request, "run_cancelling", f"/_rumi/runs/{run_id}")


async def mend(desk: Desk, request: Request) -> Response:
    """What the host suggested for an issue; which one and what for is read back from the issue itself."""
    form = await desk.form(request)
    issue, fixup = forms.one(form, "issue", "", 300), forms.one(form, "fixup", "", 60)
    done = await desk.host.mend(issue, fixup, actor=actor(request))
    outcome = {"pack_id": None, "status": None, "cause": done.message}
    return desk.done(request, "done_mended" if done.success else "mending_failed", "/_rumi/issues", outcome)


async def start(desk: Desk, request: Request) -> Response:
    pack_id = pack_id_of(request)
    await desk.form(request)
    return desk.done(request, "done_started", pack_page(pack_id), await desk.host.start(pack_id))


async def stop(desk: Desk, request: Request) -> Response:
    pack_id = pack_id_of(request)
    await desk.form(request)
    return desk.done(request, "done_stopped", pack_page(pack_id), await desk.host.stop(pack_id))


async def reload(desk: Desk, request: Request) -> Response:
    pack_id = pack_id_of(request)
    await desk.form(request)
    done = await desk.host.reload(pack_id, actor=actor(request))
    return desk.done(request, "done_reloaded", pack_page(pack_id), done)


async def restore(desk: Desk, request: Request) -> Response:
    pack_id = pack_id_of(request)
    await desk.form(request)
    done = await desk.host.restore(pack_id, actor=actor(request))
    return desk.done(request, "done_restored", pack_page(pack_id), done)


async def rollback(desk: Desk, request: Request) -> Response:
    pack_id = pack_id_of(request)
    await desk.form(request)
    done = await desk.host.rollback(pack_id, actor=actor(request))
    return desk.done(request, "done_rolled_back", pack_page(pack_id), done)


async def grant(desk: Desk, request: Request) -> Response:
    """All that was declared of one type, for as long as was chosen."""
    pack_id = pack_id_of(request)
    form = await desk.form(request)
    timing = forms.timing(forms.one(form, "mode", "always", 20), "", time.time())
    await desk.host.grant(pack_id, {"type": forms.one(form, "type", "", 100), **timing}, actor=actor(request))
    return desk.done(request, "done_granted", pack_page(pack_id))


async def revoke(desk: Desk, request: Request) -> Response:
    pack_id = pack_id_of(request)
    form = await desk.form(request)
    kind, item = forms.one(form, "type", "", 100), forms.one(form, "item")
    await desk.host.revoke(pack_id, kind, item, actor=actor(request))
    return desk.done(request, "done_revoked", pack_page(pack_id))


async def revoke_unused(desk: Desk, request: Request) -> Response:
    pack_id = pack_id_of(request)
    await desk.form(request)
    await desk.host.revoke_unused(pack_id, actor=actor(request))
    return desk.done(request, "done_narrowed", pack_page(pack_id))


async def grant_privilege(desk: Desk, request: Request) -> Response:
    """Options as the operation defines them: fields ``option-NAME``; an empty one is left out."""
    pack_id = pack_id_of(request)
    form = await desk.form(request)
    options = {
        name.removeprefix("option-"): forms.one(form, name) for name in form if name.startswith("option-")
    }  # fmt: skip
    given = {name: value for name, value in options.items() if value}
    await desk.host.grant_privilege(pack_id, forms.one(form, "privilege", "", 100), given, actor=actor(request))
    return desk.done(request, "done_granted", pack_page(pack_id))


async def revoke_privilege(desk: Desk, request: Request) -> Response:
    pack_id = pack_id_of(request)
    form = await desk.form(request)
    await desk.host.revoke_privilege(pack_id, forms.one(form, "privilege", "", 100), actor=actor(request))
    return desk.done(request, "done_revoked", pack_page(pack_id))


async def put_secret(desk: Desk, request: Request) -> Response:
    """What is typed goes in and comes back nowhere: refusals name fields, never what stood in them."""
    pack_id = pack_id_of(request)
    form = await desk.form(request)
    name, value = _secret_name(form), forms.one(form, "value", "", SECRET_LIMIT_CHARS)
    await desk.host.put_secret(pack_id, name, value, actor=actor(request))
    return desk.done(request, "done_secret", pack_page(pack_id))


async def remove_secret(desk: Desk, request: Request) -> Response:
    pack_id = pack_id_of(request)
    form = await desk.form(request)
    await desk.host.remove_secret(pack_id, _secret_name(form), actor=actor(request))
    return desk.done(request, "done_revoked", pack_page(pack_id))


def _secret_name(form: forms.Form) -> str:
    name = forms.one(form, "name", "", 128)
    if NAME.fullmatch(name):
        return name
    raise RequestError("This can't be a secret's name", code="name_invalid", detail=f"expected {NAME.pattern}")
