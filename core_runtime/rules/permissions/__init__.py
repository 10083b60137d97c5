"""Permission types, what each covers, and what the operator may grant of what a Pack declared. Pure.

Invariants:
  * Nothing is allowed that was not declared *and* granted.
  * What the operator alone may write (permissions, flows, store, keys, other Packs' folders) is grantable by nobody.

``asking``: what a Pack declares · ``choosing``: what of it is granted · ``using``: what a granted Pack may do.
"""

from core_runtime.rules.permission_kinds import KINDS, host_key_permission, path_fault, protected_fault
from core_runtime.rules.permissions.asking import describe, forbidden, request_fault, requests_of, withheld_reason
from core_runtime.rules.permissions.choosing import (
    Choice,
    Decision,
    Withheld,
    decide,
    narrow,
    parse_choices,
    unspent,
    with_replaced,
)
from core_runtime.rules.permissions.outcomes import Allow, Deny
from core_runtime.rules.permissions.using import (
    Rights,
    covering_item,
    covers_use,
    fetches,
    in_force,
    item_params,
    items_of,
    resources_of,
    rights_of,
)

__all__ = [
    "KINDS",
    "Allow",
    "Choice",
    "Decision",
    "Deny",
    "Rights",
    "Withheld",
    "covering_item",
    "covers_use",
    "decide",
    "describe",
    "fetches",
    "forbidden",
    "host_key_permission",
    "in_force",
    "item_params",
    "items_of",
    "narrow",
    "parse_choices",
    "path_fault",
    "protected_fault",
    "request_fault",
    "requests_of",
    "resources_of",
    "rights_of",
    "unspent",
    "with_replaced",
    "withheld_reason",
]
