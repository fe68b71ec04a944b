"""The Kubernetes manifests, checked against their schemas and our rules."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import kubernetes_validate
import psycopg
import pytest
from jsonschema import Draft202012Validator

from api.domain.settings import Settings
from api.domain.tables import JobState
from tests.deploy.kustomize import containers, pod_template, render

K8S = Path(__file__).parents[2] / "docker" / "k8s"
OVERLAYS = sorted(path.parent for path in (K8S / "overlays").glob("*/kustomization.yaml"))
VERSIONS = ["1.30", "1.37"]

# KEDA's kinds, for which no package has a schema: only the fields of its API reference that we use.
_TRIGGER = {
    "type": "object",
    "required": ["type", "metadata"],
    "additionalProperties": False,
    "properties": {
        "type": {"const": "postgresql"},
        "metadata": {"type": "object", "additionalProperties": {"type": "string"}, "required": ["query"]},
        "authenticationRef": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}},
    },
}
KEDA = {
    "ScaledJob": {
        "type": "object",
        "required": ["jobTargetRef", "triggers"],
        "additionalProperties": False,
        "properties": {
            "jobTargetRef": {"type": "object"},  # checked as a Job
            "pollingInterval": {"type": "integer"},
            "maxReplicaCount": {"type": "integer"},
            "successfulJobsHistoryLimit": {"type": "integer"},
            "failedJobsHistoryLimit": {"type": "integer"},
            "rollout": {"type": "object", "properties": {"strategy": {"enum": ["default", "immediate", "gradual"]}}},
            "scalingStrategy": {
                "type": "object",
                "properties": {"strategy": {"enum": ["default", "custom", "accurate", "eager"]}},
            },
            "triggers": {"type": "array", "minItems": 1, "items": _TRIGGER},
        },
    },
    "TriggerAuthentication": {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "secretTargetRef": {
                "type": "array",
                "items": {
                    "type": "object",
                    "additionalProperties": False,
                    "required": ["parameter", "name", "key"],
                    "properties": {name: {"type": "string"} for name in ("parameter", "name", "key")},
                },
            }
        },
    },
}


@pytest.fixture(params=OVERLAYS, ids=lambda path: path.name)
def manifests(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    return render(request.param)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_manifest_matches_its_schema(manifests: list[dict[str, Any]], version: str) -> None:
    for manifest in manifests:
        if manifest["apiVersion"].startswith("keda.sh/"):
            Draft202012Validator(KEDA[manifest["kind"]]).validate(manifest["spec"])
            if "jobTargetRef" not in manifest["spec"]:
                continue
            manifest = {
                "apiVersion": "batch/v1",
                "kind": "Job",
                "metadata": manifest["metadata"],
                "spec": manifest["spec"]["jobTargetRef"],
            }
        kubernetes_validate.validate(manifest, version, strict=True)


def test_references_between_manifests_resolve(manifests: list[dict[str, Any]]) -> None:
    there = {(m["kind"], m["metadata"]["name"]) for m in manifests}
    assert len(there) == len(manifests)
    labels = [template["metadata"]["labels"] for m in manifests if (template := pod_template(m))]
    for manifest in manifests:
        spec, kind = manifest.get("spec", {}), manifest["kind"]
        if kind == "HorizontalPodAutoscaler":
            assert (spec["scaleTargetRef"]["kind"], spec["scaleTargetRef"]["name"]) in there
        if kind in ("Service", "PodDisruptionBudget"):
            wanted = spec["selector"] if kind == "Service" else spec["selector"]["matchLabels"]
            assert any(wanted.items() <= found.items() for found in labels), manifest["metadata"]
        for container in containers(manifest):
            for source in container.get("envFrom", []):
                if "configMapRef" in source:
                    assert ("ConfigMap", source["configMapRef"]["name"]) in there
            volumes = {volume["name"] for volume in pod_template(manifest)["spec"].get("volumes", [])}
            volumes |= {claim["metadata"]["name"] for claim in spec.get("volumeClaimTemplates", [])}
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes


def test_no_container_is_root_or_writes_outside_volumes(manifests: list[dict[str, Any]]) -> None:
    for manifest in manifests:
        for container in containers(manifest):
            pod = pod_template(manifest)["spec"]
            assert pod["securityContext"]["runAsNonRoot"] is True
            assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
            assert pod["automountServiceAccountToken"] is False
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert {"requests", "limits"} <= container["resources"].keys()
            assert ":" in container["image"]  # without a tag it would be `latest`, fetched at every start


def test_no_manifest_contains_a_secret(manifests: list[dict[str, Any]]) -> None:
    assert "Secret" not in {manifest["kind"] for manifest in manifests}
    for manifest in manifests:
        for container in containers(manifest):
            for variable in container.get("env", []):
                if any(word in variable["name"] for word in ("PASSWORD", "SECRET", "DATABASE_URL")):
                    assert "secretKeyRef" in variable["valueFrom"], variable


def test_network_traffic_is_denied_by_default(manifests: list[dict[str, Any]]) -> None:
    policies = {m["metadata"]["name"]: m["spec"] for m in manifests if m["kind"] == "NetworkPolicy"}
    assert policies["nothing-else"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    into_engine = policies["api-to-engine"]["ingress"][0]["from"][0]
    assert into_engine == {"podSelector": {"matchLabels": {"app": "api"}}}


def test_trainers_are_counted_by_a_query_that_finds_the_waiting_jobs(
    manifests: list[dict[str, Any]], settings: Settings, make_job: Callable[..., UUID]
) -> None:
    (trainer,) = (m for m in manifests if m["kind"] == "ScaledJob")
    query = trainer["spec"]["triggers"][0]["metadata"]["query"]
    with psycopg.connect(settings.database_url or "", autocommit=True) as connection:
        assert connection.execute(query).fetchone() == (0,)
        make_job()
        make_job(state=JobState.running)
        assert connection.execute(query).fetchone() == (1,)


def test_the_gpu_overlay_gives_a_gpu_only_to_trainers_and_engines() -> None:
    with_gpu = {
        manifest["metadata"]["name"]
        for manifest in render(K8S / "overlays" / "gpu")
        for container in containers(manifest)
        if "nvidia.com/gpu" in container["resources"]["limits"]
    }
    assert with_gpu == {"engine", "trainer"}


def test_engines_with_a_gpu_keep_compiled_networks_in_a_claim() -> None:
    """The engine must be able to write beside the claim too: its mount point's parent is a volume of its own."""
    (engine,) = (
        m for m in render(K8S / "overlays" / "gpu") if (m["kind"], m["metadata"]["name"]) == ("Deployment", "engine")
    )
    volumes = {volume["name"]: volume for volume in pod_template(engine)["spec"]["volumes"]}
    (container,) = containers(engine)
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    compiled = mounts["/var/lib/opad/cache/compiled"]
    assert "readOnly" not in compiled
    assert volumes[compiled["name"]]["persistentVolumeClaim"] == {"claimName": "compiled"}
    assert "emptyDir" in volumes[mounts["/var/lib/opad/cache"]["name"]]


def test_every_claim_that_a_pod_names_exists(manifests: list[dict[str, Any]]) -> None:
    claims = {m["metadata"]["name"] for m in manifests if m["kind"] == "PersistentVolumeClaim"}
    pods = [template["spec"] for m in manifests if (template := pod_template(m))]
    named = {
        volume["persistentVolumeClaim"]["claimName"]
        for pod in pods
        for volume in pod.get("volumes", [])
        if "persistentVolumeClaim" in volume
    }
    assert named == claims


def test_only_engines_mount_the_key_that_signs_images(manifests: list[dict[str, Any]]) -> None:
    files = {}
    for manifest in manifests:
        template = pod_template(manifest)
        for volume in template["spec"].get("volumes", []) if template else []:
            if volume.get("secret", {}).get("secretName") == "opad-signing":
                items = volume["secret"].get("items")
                files[manifest["metadata"]["name"]] = [item["key"] for item in items] if items else "all"
    assert files == {"api": ["certificate.pem"], "engine": "all"}
