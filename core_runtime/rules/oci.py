"""A Pack in a registry: which references are taken, what a manifest must be, where a registry may send us. Pure.

Invariants:
  * Whatever is taken has a digest that was checked: a tag stands for the manifest that it led to at that moment.
  * Exactly one layer, an archive of a Pack; foreign addresses and inline data in a manifest count for nothing.
  * What a registry answers chooses neither scheme nor scope: redirects and token services are https (plain http stays
    on loopback where it began), and a token is asked for pulling this one repository.

Not here: connections (``drivers.oci_source``), unpacking (``drivers.archive``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from typing import Any, Final
from urllib.parse import quote as percent
from urllib.parse import urlencode, urljoin, urlsplit

from msgspec import Struct

from backend_core.canonical import sha256_hex
from backend_core.document import Limits
from backend_core.errors import AuthorError, HostError, RequestError, TrustError, quote
from backend_core.parsing import parse_json
from core_runtime.rules.archive import LIMITS
from core_runtime.rules.digest import PREFIX

SCHEME: Final = "oci://"
MANIFEST_TYPE: Final = "application/vnd.oci.image.manifest.v1+json"
LAYER_TYPES: Final = (
    "application/vnd.rumi.pack.v1.tar+gzip",
    "application/vnd.rumi.pack.v1.tar",
    "application/vnd.rumi.pack.v1.zip",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar",
)
MANIFEST_BYTES: Final = 4 * 1024 * 1024
TOKEN_BYTES: Final = 64 * 1024
MAX_TOKEN_CHARS: Final = 16 * 1024
MAX_URL_CHARS: Final = 8_192
_MANIFEST_LIMITS: Final = Limits(limit_bytes=MANIFEST_BYTES, depth=16)
_TOKEN_LIMITS: Final = Limits(limit_bytes=TOKEN_BYTES, depth=8, values=200)
_HOST: Final = re.compile(r"(?=.{1,253}\Z)[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*\Z")
_PART: Final = r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*"
_NAME: Final = re.compile(rf"(?=.{{1,255}}\Z){_PART}(?:/{_PART})*\Z")
_TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}\Z")
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}\Z")
_PARAMETER: Final = re.compile(r'\s*([A-Za-z]+)="([^"\\\x00-\x1f]{0,2000})"\s*(?:,|\Z)')
_LOGIN_LIMITS: Final = Limits()
_LOGIN: Final = re.compile(r"[A-Za-z0-9+/]{4,2000}={0,2}\Z")
_TOKEN: Final = re.compile(r"[\x21-\x7e]+\Z")


class Origin(Struct, frozen=True):
    """Whom we speak to. ``plain``: without TLS, on this machine's loopback alone."""

    host: str
    port: int
    plain: bool = False

    @property
    def authority(self) -> str:
        """As it stands in a request's ``Host``."""
        name = f"[{self.host}]" if ":" in self.host else self.host
        return name if self.port == (80 if self.plain else 443) else f"{name}:{self.port}"


class Place(Struct, frozen=True):
    """One address to ask: an origin, and the path with its query."""

    origin: Origin
    target: str


class Reference(Struct, frozen=True):
    """``oci://HOST[:PORT]/NAME[:TAG][@DIGEST]``; one of both is there, and a digest counts alone."""

    origin: Origin
    name: str
    tag: str = ""
    digest: str = ""

    @property
    def shown(self) -> str:
        """For records and people."""
        tag = f":{self.tag}" if self.tag else ""
        return f"{SCHEME}{self.origin.authority}/{self.name}{tag}{f'@{self.digest}' if self.digest else ''}"

    def pinned(self, digest: str) -> str:
        """The reference that means just what was fetched."""
        return f"{SCHEME}{self.origin.authority}/{self.name}@{digest}"

    @property
    def manifest(self) -> Place:
        """Where its manifest is."""
        return Place(self.origin, f"/v2/{self.name}/manifests/{self.digest or self.tag}")

    def blob(self, digest: str) -> Place:
        """Where a blob of its repository is."""
        return Place(self.origin, f"/v2/{self.name}/blobs/{digest}")


class Layer(Struct, frozen=True):
    """The archive that a manifest names."""

    digest: str
    size: int


class Manifest(Struct, frozen=True):
    """A manifest whose ``digest`` was computed from its bytes."""

    digest: str
    layer: Layer


def is_loopback(host: str) -> bool:
    """Whether a name means this machine and nothing else."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def reference(text: str) -> Reference:
    """Raises ``RequestError`` ``source_refused``."""
    if not text.startswith(SCHEME) or len(text) > 1000 or not text.isascii() or not text.isprintable():
        raise _refused(f"{quote(text, 200)} does not begin with {SCHEME}, or holds what no reference does.")
    authority, _, path = text.removeprefix(SCHEME).partition("/")
    path, _, digest = path.partition("@")
    name, _, tag = path.partition(":")
    if "@" in authority:
        raise _refused("It names a user; who may read is told to the host by no address.")
    if not _NAME.match(name):
        raise _refused(f"{quote(name, 200)} is no name of a repository.")
    if (tag and not _TAG.match(tag)) or (digest and not _DIGEST.match(digest)) or path.endswith(":"):
        raise _refused("Its tag or its digest is none; digests are sha256: and 64 hex digits.")
    if not (tag or digest) or text.endswith("@"):
        raise _refused("It names neither a tag nor a digest.")
    return Reference(_origin(authority), name, tag, digest)


def _origin(authority: str) -> Origin:
    try:
        parts = urlsplit(f"//{authority}")
        host, port = parts.hostname or "", parts.port
        address = ip_address(host) if ":" in host or host.replace(".", "").isdigit() else None
    except ValueError:
        raise _refused(f"{quote(authority, 100)} is no host with a port.") from None
    if (address is None and not _HOST.match(host)) or port == 0 or (address is not None and "%" in host):
        raise _refused(f"{quote(authority, 100)} is no host with a port.")
    plain = is_loopback(host)
    return Origin(host, port or (80 if plain else 443), plain)


def follow(location: str, now: Place) -> Place:
    """Where a redirect leads. Raises ``HostError`` where it may not."""
    try:
        url = urljoin(_url(now), location)
    except ValueError:
        raise failed(f"We were redirected to {quote(location, 120)}, which is no address.") from None
    return _place(url, now.origin, "redirected to")


def login_of(raw: bytes, origin: Origin) -> str:
    """The user's log-in for just this registry in a file as ``docker login`` writes it: base64, or ``""``.

    Programs that such a file names (credential helpers) are not run.
    """
    try:
        entry = parse_json(raw, source="config.json", limits=_LOGIN_LIMITS)["auths"][origin.authority]
        login = entry.get("auth")
    except (AuthorError, KeyError, TypeError, AttributeError):
        return ""
    return login if isinstance(login, str) and _LOGIN.match(login) else ""


def asks_for_login(challenge: str) -> bool:
    """Whether a ``WWW-Authenticate`` wants name and password instead of a token."""
    return challenge.strip().partition(" ")[0].lower() == "basic"


def token_place(challenge: str, reference_: Reference) -> Place:
    """Where a token for pulling is to be had, from a ``WWW-Authenticate``. Raises ``HostError``."""
    kind, _, rest = challenge.strip().partition(" ")
    if kind.lower() != "bearer":
        raise failed(f"It asks for a log-in ({quote(kind, 40)}), and there is none for it: docker login.")
    parameters: dict[str, str] = {}
    at = 0
    while at < len(rest) and (found := _PARAMETER.match(rest, at)):
        parameters.setdefault(found[1].lower(), found[2])
        at = found.end()
    realm = _place(parameters.get("realm", ""), reference_.origin, "sent for a token to")
    scope = {"scope": f"repository:{reference_.name}:pull"}
    service = {"service": parameters["service"]} if parameters.get("service") else {}
    joint = "&" if "?" in realm.target else "?"
    return Place(realm.origin, f"{realm.target}{joint}{urlencode({**service, **scope})}")


def token_of(raw: bytes) -> str:
    """The token in a service's answer. Raises ``HostError``."""
    try:
        document = parse_json(raw, source="token", limits=_TOKEN_LIMITS)
        token = document.get("token") or document.get("access_token")
    except (AuthorError, AttributeError):
        token = None
    if not isinstance(token, str) or len(token) > MAX_TOKEN_CHARS or not _TOKEN.match(token):
        raise failed("The token service gave no token.")
    return token


def read_manifest(raw: bytes, media_type: str, wanted: Reference, told: str = "") -> Manifest:
    """The manifest in an answer. ``told``: the digest that the registry says it has.

    Raises:
        TrustError: ``oci_mismatch``: the bytes are not those of the digest.
        AuthorError: ``oci_refused``: it is no manifest of a Pack.
    """
    digest = PREFIX + sha256_hex(raw)
    for expected in (wanted.digest, told if _DIGEST.match(told) else ""):
        if expected and expected != digest:
            raise mismatch("manifest", expected, digest)
    kind = media_type.partition(";")[0].strip().lower()
    if kind != MANIFEST_TYPE:
        raise _no_pack(f"It is of type {quote(kind, 80)}; expected {MANIFEST_TYPE}.")
    try:
        document = parse_json(raw, source="manifest", limits=_MANIFEST_LIMITS)
        if document["schemaVersion"] != 2 or document.get("mediaType", MANIFEST_TYPE) != MANIFEST_TYPE:
            raise _no_pack("Its manifest says of itself that it is another document.")
        layers: Sequence[Mapping[str, Any]] = document["layers"]
        if len(layers) != 1:
            raise _no_pack(f"It has {len(layers)} layers; a Pack is one archive.")
        layer_kind, layer, size = layers[0]["mediaType"], layers[0]["digest"], layers[0]["size"]
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise _no_pack(f"Its manifest lacks what each has: {quote(str(error), 80)}.") from error
    if layer_kind not in LAYER_TYPES:
        raise _no_pack(f"Its layer is of type {quote(layer_kind, 80)}; taken are {', '.join(LAYER_TYPES)}.")
    if not isinstance(layer, str) or not _DIGEST.match(layer):
        raise _no_pack(f"Its layer has no SHA-256 digest: {quote(layer, 80)}.")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 < size <= LIMITS.archive_bytes:
        raise _no_pack(f"Its layer has {quote(size, 40)} bytes; at most {LIMITS.archive_bytes} are taken.")
    return Manifest(digest, Layer(layer, size))


def mismatch(what: str, expected: str, found: str) -> TrustError:
    """Other bytes than the digest says."""
    return TrustError(
        "The registry sent other bytes than the digest says",
        code="oci_mismatch",
        detail=f"The {what} should have {expected} and has {found}.",
        hint="Nothing was kept. Ask whoever runs the registry, or take the Pack from elsewhere.",
    )


def failed(detail: str) -> HostError:
    """The registry could not be asked, or gave no usable answer."""
    return HostError(
        "The Pack could not be fetched from the registry",
        code="oci_failed",
        detail=detail,
        hint="Check the reference and the connection. Nothing was kept.",
    )


def _place(url: str, from_: Origin, words: str) -> Place:
    shown = quote(url, 120)
    if len(url) > MAX_URL_CHARS or not url.isascii() or not url.isprintable() or " " in url:
        raise failed(f"We were {words} {shown}, which is no address.")
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").rstrip("."), parts.port
    except ValueError:
        raise failed(f"We were {words} {shown}, which is no address.") from None
    plain = parts.scheme == "http"
    stays = plain and from_.plain and (host, port or 80) == (from_.host, from_.port)
    if not (parts.scheme == "https" or stays) or "@" in parts.netloc or port == 0:
        raise failed(f"We were {words} {shown}; only https is followed, without a user's name.")
    if not _HOST.match(host) and ":" not in host:
        raise failed(f"We were {words} {shown}, which names no host.")
    target = percent(parts.path or "/", safe="/%:@!$&'()*+,;=~-._") + (f"?{parts.query}" if parts.query else "")
    return Place(Origin(host, port or (80 if plain else 443), plain), target)


def _url(place: Place) -> str:
    return f"{'http' if place.origin.plain else 'https'}://{place.origin.authority}{place.target}"


def _refused(detail: str) -> RequestError:
    return RequestError(
        "That reference can't be added from",
        code="source_refused",
        detail=detail,
        hint="Name it as oci://HOST/NAME:TAG or oci://HOST/NAME@sha256:…",
    )


def _no_pack(detail: str) -> AuthorError:
    return AuthorError(
        "What the registry has there is no Pack",
        code="oci_refused",
        detail=detail,
        hint="Publish the Pack's archive as the only layer; docs/reference/updates.md says how.",
    )
