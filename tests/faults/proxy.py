"""A TCP proxy in front of a server. A test can cut it, freeze it, or change its bytes."""

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path

Hook = Callable[["Wire", bytes], bytes | None]
"""Returns the bytes to pass on, or None to cut the connection."""


class Wire:
    """One connection through the proxy. A hook can store state in `seen`."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client, self.server = client, server
        self.seen = b""


class Proxy:
    """Listens on `port` of 127.0.0.1 and relays to `target`, a port of this machine or a unix socket."""

    def __init__(self, target: int | Path) -> None:
        self._target = target
        self._flows = threading.Event()
        self._flows.set()
        self._is_cut = False
        self._wires: list[Wire] = []
        self.on_request: Hook = lambda wire, data: data
        self.on_answer: Hook = lambda wire, data: data
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def freeze(self) -> None:
        """Accept bytes and drop them, like a switch that loses packets."""
        self._flows.clear()

    def cut(self) -> None:
        """Reset all connections, including new ones."""
        self._is_cut = True
        for wire in self._wires:
            _reset(wire)
        self._wires.clear()

    def heal(self) -> None:
        self._is_cut = False
        self._flows.set()

    def close(self) -> None:
        self.cut()
        self._listener.close()
        self._flows.set()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # the listener was closed
            while True:
                client, _ = self._listener.accept()
                try:
                    server = _connect(self._target)
                except OSError:
                    client.close()
                    continue
                wire = Wire(client, server)
                if self._is_cut:
                    _reset(wire)
                    continue
                self._wires.append(wire)
                for source, sink, hook in ((client, server, "on_request"), (server, client, "on_answer")):
                    threading.Thread(target=self._pump, args=(wire, source, sink, hook), daemon=True).start()

    def _pump(self, wire: Wire, source: socket.socket, sink: socket.socket, hook: str) -> None:
        with contextlib.suppress(OSError):  # cut by one side, or by `cut`
            while data := source.recv(1 << 16):
                self._flows.wait()
                passed = getattr(self, hook)(wire, data)
                self._flows.wait()  # the hook may have frozen the proxy
                if passed is None:
                    break
                sink.sendall(passed)
        for end in (wire.client, wire.server):
            with contextlib.suppress(OSError):  # already closed
                end.shutdown(socket.SHUT_RDWR)


def _connect(target: int | Path) -> socket.socket:
    if isinstance(target, int):
        return socket.create_connection(("127.0.0.1", target))
    server = socket.socket(socket.AF_UNIX)
    server.connect(str(target))
    return server


def _reset(wire: Wire) -> None:
    for end in (wire.client, wire.server):
        with contextlib.suppress(OSError):  # already closed
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            end.shutdown(socket.SHUT_RDWR)
            end.close()
