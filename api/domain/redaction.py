"""Remove secrets from log lines: a library's message or a trace may quote a header or an address."""

import re
from collections.abc import Mapping, MutableMapping
from typing import Any

HIDDEN = "[hidden]"

_SECRETS = [
    (re.compile(r"opk_live_[0-9A-Za-z_]+"), f"opk_live_{HIDDEN}"),
    (re.compile(r"whsec_[0-9A-Za-z+/=]+"), f"whsec_{HIDDEN}"),
    (re.compile(r"(?i)\b(bearer|basic)\s+[0-9A-Za-z._~+/=-]{8,}"), rf"\1 {HIDDEN}"),
    (re.compile(r"(?i)(X-Amz-(?:Signature|Credential|Security-Token)=)[^&\s\"']+"), rf"\1{HIDDEN}"),
    (re.compile(r"(\w+://[^\s:/@]*:)[^\s@/]+@"), rf"\1{HIDDEN}@"),
    (re.compile(r"(?i)((?:password|secret_key|secret)[\"']?\s*[=:]\s*[\"']?)[^\s\"',;&)]+"), rf"\1{HIDDEN}"),
]
_PRIVATE_NAMES = {"prompt", "authorization", "cookie", "password", "secret", "secret_key", "key_text", "token"}


def redact(logger: Any, method: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
    """Hide secrets in an event. A structlog processor, the last one before the line is rendered."""
    return {name: HIDDEN if name.lower() in _PRIVATE_NAMES else redacted(value) for name, value in event.items()}


def redacted(value: Any) -> Any:
    """Hide secrets in texts, also inside lists and dicts. Other values are unchanged."""
    if isinstance(value, str):
        for pattern, shown in _SECRETS:
            value = pattern.sub(shown, value)
        return value
    if isinstance(value, Mapping):
        return redact(None, "", dict(value))
    if isinstance(value, list | tuple):
        return [redacted(item) for item in value]
    return value
