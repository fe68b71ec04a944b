"""Bundles that were made to harm whoever reads them. Each is a change of a good one."""

import json
from collections.abc import Callable
from typing import Any


def _packed(header: bytes, tensors: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header + tensors


def _with_header(change: Callable[[dict[str, Any]], object]) -> Callable[[bytes], bytes]:
    """Return a function that changes the header of a bundle, or replaces it if `change` returns bytes."""

    def damage(good: bytes) -> bytes:
        end = 8 + int.from_bytes(good[:8], "little")
        header = json.loads(good[8:end])
        changed = change(header)
        return _packed(changed if isinstance(changed, bytes) else json.dumps(header).encode(), good[end:])

    return damage


def _entry(**changes: object) -> Callable[[bytes], bytes]:
    """Change what the header says of V*."""
    return _with_header(lambda header: header["token_row"].update(changes))


def _manifest(text: object) -> Callable[[bytes], bytes]:
    return _with_header(lambda header: header.update(__metadata__={"manifest": text}))


def _in_manifest(**changes: object) -> Callable[[bytes], bytes]:
    def change(header: dict[str, Any]) -> None:
        manifest = json.loads(header["__metadata__"]["manifest"])
        header["__metadata__"]["manifest"] = json.dumps(manifest | changes)

    return _with_header(change)


def _overlap(header: dict[str, Any]) -> None:
    first, second = sorted(name for name in header if name != "__metadata__")[:2]
    header[first]["data_offsets"] = header[second]["data_offsets"]


HOSTILE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda good: b"", "missing or too large"),
    "cut off": (lambda good: good[: len(good) // 2], "Error while deserializing"),
    "another format": (lambda good: b"PK\x03\x04" + good[4:], "missing or too large"),
    "header longer than the file": (lambda good: (2 * len(good)).to_bytes(8, "little") + good[8:], "too large"),
    "header of 16 exabytes": (lambda good: b"\xff" * 8 + good[8:], "too large"),
    "header that is no JSON": (_with_header(lambda header: b"\xff\xfe"), "not a concept bundle"),
    "header nested deeply": (_with_header(lambda header: b"[" * 100_000), "not a concept bundle"),
    "header that is a list": (_with_header(lambda header: b"[]"), "not a JSON object"),
    "bytes after the tensors": (lambda good: good + b"more", "not fully covered"),
    "giant shape": (_entry(shape=[2**40, 2**40]), "overflow"),
    "negative shape": (_entry(shape=[-1]), "invalid value"),
    "fractional shape": (_entry(shape=[1.5]), "invalid type"),
    "overlapping tensors": (_with_header(_overlap), "offset"),
    "offsets beyond the file": (_entry(data_offsets=[0, 2**50]), "offset"),
    "offsets the wrong way round": (_entry(data_offsets=[64, 0]), "offset"),
    "unknown dtype": (_entry(dtype="F7"), "unknown variant"),
    "dtype of another size": (_entry(dtype="F64"), "invalid shape, data type, or offset"),
    "integers": (_entry(dtype="I32"), "token_row must hold finite numbers in half or single precision"),
    "not a number": (lambda good: good[:-4] + b"\x00\x00\xc0\x7f", "must hold finite numbers"),
    "another tensor": (
        _with_header(lambda header: header.update(more={"dtype": "F16", "shape": [0], "data_offsets": [0, 0]})),
        "it holds other tensors",
    ),
    "no metadata": (_with_header(lambda header: header.pop("__metadata__") and None), "not a concept bundle"),
    "metadata that is a list": (_with_header(lambda header: header.update(__metadata__=[])), "not a concept bundle"),
    "manifest that is a number": (_manifest(7), "not a concept bundle"),
    "manifest that is no JSON": (_manifest("no"), "not a concept bundle"),
    "manifest nested deeply": (_manifest("[" * 100_000), "not a concept bundle"),
    "manifest that is a list": (_manifest("[]"), "its manifest lacks one of"),
    "class noun that is a number": (_in_manifest(class_noun=7), "its class_noun is not text"),
    "class noun of half a character": (_in_manifest(class_noun="\ud800"), "its class_noun is not text"),
    "base that is nothing": (_in_manifest(base=None), "its base is not text"),
    "hash that is a list": (_in_manifest(base_sha256=[]), "its base_sha256 is not text"),
    "another version": (_in_manifest(format=2), "format 2; this version reads format 1"),
    "adapter that is a list": (_in_manifest(adapter=[]), r"adapter is \[\]"),
    "adapter of other tensors": (_in_manifest(adapter="residual"), "it holds other tensors"),
    "network that is a list": (_in_manifest(network=[]), r"of the network \[\]"),
}
"""What is done to a good bundle, and words of the sentence that refuses it."""
