"""The text formats that schemas refer to by name: for each, a check and the sentence that says what was expected."""

from __future__ import annotations

import base64
import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from services.manifests import quantities


@dataclass(frozen=True, slots=True, kw_only=True)
class TextFormat:
    """A named format of a string field."""

    check: Callable[[str], bool]
    expected: str
    """Completes "must be …"."""


def _matches(pattern: str, longest: int) -> Callable[[str], bool]:
    compiled = re.compile(pattern)
    return lambda text: len(text) <= longest and compiled.fullmatch(text) is not None


def _reads(reader: Callable[[str], object]) -> Callable[[str], bool]:
    def check(text: str) -> bool:
        try:
            reader(text)
        except ValueError:
            return False
        return True

    return check


_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN = rf"{_LABEL}(\.{_LABEL})*"
_NAME = r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?"
_IMAGE_PART = r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*"
_IMAGE_HOST = r"([A-Za-z0-9]([-A-Za-z0-9]*[A-Za-z0-9])?)(\.[A-Za-z0-9]([-A-Za-z0-9]*[A-Za-z0-9])?)*(:[0-9]{1,5})?"
_IMAGE = (
    rf"({_IMAGE_HOST}/)?{_IMAGE_PART}(/{_IMAGE_PART})*"
    r"(:[A-Za-z0-9_][-A-Za-z0-9_.]{0,127})?(@sha256:[0-9a-f]{64}|@sha512:[0-9a-f]{128})?"
)
_NATIVE_RESOURCES = re.compile(r"cpu|memory|storage|ephemeral-storage|hugepages-[0-9]+[KMG]i")

is_dns_label = _matches(_LABEL, 63)
is_dns_subdomain = _matches(_SUBDOMAIN, 253)
_is_qualified = _matches(_NAME, 63)


def _is_qualified_name(text: str) -> bool:
    prefix, slash, name = text.rpartition("/")
    return _is_qualified(name) and (not slash or is_dns_subdomain(prefix))


def _is_resource_name(text: str) -> bool:
    return _NATIVE_RESOURCES.fullmatch(text) is not None or ("/" in text and _is_qualified_name(text))


def _is_base64(text: str) -> bool:
    """As Go reads it: line breaks are skipped, anything else outside the alphabet is refused."""
    return _reads(lambda value: base64.b64decode(value, validate=True))(text.replace("\n", "").replace("\r", ""))


def _is_inner_path(text: str) -> bool:
    return not text.startswith("/") and ".." not in text.split("/")


def _is_port_name(text: str) -> bool:
    well_formed = len(text) <= 15 and re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", text) is not None
    return well_formed and not text.replace("-", "").isdigit()


DNS_LABEL = TextFormat(
    check=is_dns_label,
    expected="a DNS-1123 label: at most 63 lower-case letters, digits or -, beginning and ending with a letter or "
    "digit",
)

FORMATS: Mapping[str, TextFormat] = {
    "dns-label": DNS_LABEL,
    "dns-subdomain": TextFormat(
        check=is_dns_subdomain,
        expected="a DNS-1123 subdomain: at most 253 lower-case letters, digits, - or ., beginning and ending with a "
        "letter or digit",
    ),
    "qualified-name": TextFormat(
        check=_is_qualified_name,
        expected="a name of letters, digits, -, _ or ., at most 63 long, with an optional DNS prefix and /",
    ),
    "label-value": TextFormat(
        check=lambda text: text == "" or _is_qualified(text),
        expected="a label value: at most 63 letters, digits, -, _ or ., beginning and ending with a letter or digit",
    ),
    "data-key": TextFormat(
        check=_matches(r"(?!\.\.)[-._A-Za-z0-9]+(?<!^\.)", 253),
        expected="a key of letters, digits, -, _ or ., at most 253 long",
    ),
    "environment-name": TextFormat(
        check=_matches(r"[ -<>-~]+", 1024), expected="the name of an environment variable: printable ASCII without ="
    ),
    "port-name": TextFormat(
        check=_is_port_name,
        expected="a port's name: at most 15 lower-case letters, digits or single -, with at least one letter",
    ),
    "image-reference": TextFormat(
        check=_matches(_IMAGE, 512),
        expected="an image reference such as nginx:1.27 or registry.example/team/app@sha256:…",
    ),
    "mount-path": TextFormat(check=lambda text: ":" not in text, expected="a path without a colon"),
    "inner-path": TextFormat(check=_is_inner_path, expected="a relative path without .."),
    "resource-name": TextFormat(
        check=_is_resource_name,
        expected="cpu, memory, storage, ephemeral-storage, hugepages-<size> or an extended resource with a DNS prefix",
    ),
    "quantity": TextFormat(
        check=lambda text: _reads(quantities.quantity)(text) and not text.startswith("-"),
        expected="a quantity that is not negative, such as 2, 500m, 64Mi or 4Gi",
    ),
    "memory": TextFormat(
        check=_reads(quantities.memory), expected="an amount of memory or disk such as 512Mi, 4Gi or 4GB"
    ),
    "duration": TextFormat(check=_reads(quantities.duration), expected="a duration such as 30s, 1m30s or 250ms"),
    "base64": TextFormat(check=_is_base64, expected="base64"),
    "ip-address": TextFormat(check=_reads(ipaddress.ip_address), expected="an IPv4 or IPv6 address"),
    "sha256": TextFormat(
        check=_matches(r"[0-9a-f]{64}", 64), expected="the 64 hexadecimal digits of a SHA-256 checksum"
    ),
    "url": TextFormat(check=_matches(r"https?://[^\s/]+(/\S*)?", 2048), expected="an http or https URL"),
    "regex": TextFormat(check=lambda text: _compiles(text), expected="a regular expression"),
    "runtime": TextFormat(
        check=_matches(r"[a-z][a-z0-9_.-]*(:[A-Za-z0-9][A-Za-z0-9_.-]*)?", 64),
        expected="a runtime and an optional version, such as python:3.9",
    ),
    "http-path": TextFormat(check=_matches(r"/[!-~]*", 1024), expected="a path that begins with /"),
}


def _compiles(text: str) -> bool:
    try:
        re.compile(text)
    except (re.error, RecursionError, OverflowError):
        return False
    return True
