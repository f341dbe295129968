"""The manifest for KubeRay: its shape, the application in it as Ray and gpuqa read it, and what its pods must agree about."""

from __future__ import annotations

import importlib.util
from typing import Any

import jsonschema
import pytest
import yaml
from conftest import ROOT

from gpuqa import ray_app

MANIFEST: dict[str, Any] = yaml.safe_load((ROOT / "ops" / "rayservice.yaml").read_text(encoding="utf-8"))


def closed(required: str, **properties: Any) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "required": required.split(), "properties": properties}


TEXT, COUNT, FLAG = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "boolean"}
WORDS = {"type": "object", "additionalProperties": TEXT}
PODS = {"rayStartParams": WORDS, "template": closed("spec", metadata={"type": "object"}, spec={"type": "object"})}
WORKERS = dict.fromkeys(("replicas", "minReplicas", "maxReplicas", "numOfHosts", "idleTimeoutSeconds"), COUNT)
# The fields of a ray.io/v1 RayService as KubeRay's ray.io_rayservices.yaml (commit 02a80a6) and its types in
# ray-operator/apis/ray/v1 have them, but for those that are only for other kinds of clusters. The whole schema has a megabyte,
# nearly all of it Kubernetes' own pod templates.
SCHEMA = closed(
    "apiVersion kind metadata spec",
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayService"},
    metadata={"type": "object", "required": ["name"]},
    spec=closed(
        "serveConfigV2 rayClusterConfig",
        serveConfigV2=TEXT,
        deploymentUnhealthySecondThreshold=COUNT,
        excludeHeadPodFromServeSvc=FLAG,
        rayClusterConfig=closed(
            "headGroupSpec",
            rayVersion=TEXT,
            enableInTreeAutoscaling=FLAG,
            authOptions=closed("mode", mode={"enum": ["disabled", "token"]}, secretName=TEXT, enableK8sTokenAuth=FLAG),
            autoscalerOptions=closed(
                "", idleTimeoutSeconds=COUNT, upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]}
            ),
            headGroupSpec=closed("template", serviceType=TEXT, enableIngress=FLAG, **PODS),
            workerGroupSpecs={"type": "array", "items": closed("groupName template", groupName=TEXT, **WORKERS, **PODS)},
        ),
    ),
)
CLUSTER = MANIFEST["spec"]["rayClusterConfig"]
[WORKER] = CLUSTER["workerGroupSpecs"]
TEMPLATES = [CLUSTER["headGroupSpec"]["template"], WORKER["template"]]
SERVED = yaml.safe_load(MANIFEST["spec"]["serveConfigV2"])
[APPLICATION] = SERVED["applications"]


def test_the_manifest_has_kuberays_shape() -> None:
    jsonschema.Draft202012Validator(SCHEMA).validate(MANIFEST)
    misspelt = {**MANIFEST, "spec": {**MANIFEST["spec"], "serveConfigV3": ""}}
    assert not jsonschema.Draft202012Validator(SCHEMA).is_valid(misspelt)


def test_every_mount_has_a_volume_and_all_pods_the_same_image_winner_and_user() -> None:
    specs = [template["spec"] for template in TEMPLATES]
    containers = [container for spec in specs for container in spec["containers"]]
    for spec in specs:
        mounted = {mount["name"] for container in spec["containers"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in spec["volumes"]}
    assert len({container["image"] for container in containers}) == 1
    winners = [volume["configMap"] for spec in specs for volume in spec["volumes"] if volume["name"] == "winner"]
    assert winners == [winners[0]] * 2
    assert [spec["securityContext"] for spec in specs] == [specs[0]["securityContext"]] * 2


def test_the_pods_can_hold_as_many_engines_as_the_application_may_start() -> None:
    scale = ray_app.scaling(APPLICATION["args"])
    limits = WORKER["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert limits["nvidia.com/gpu"] == 1
    assert (scale["min_replicas"], scale["max_replicas"]) == (WORKER["minReplicas"], WORKER["maxReplicas"])
    assert WORKER["replicas"] == WORKER["minReplicas"]
    assert CLUSTER["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_the_application_is_ours_and_its_arguments_are_keys_of_serve() -> None:
    module, name = APPLICATION["import_path"].split(":")
    assert callable(getattr(importlib.import_module(module), name))
    config = ray_app.composed(APPLICATION["args"])
    mounts = {mount["name"]: mount["mountPath"] for mount in TEMPLATES[0]["spec"]["containers"][0]["volumeMounts"]}
    assert config.frozen == f"{mounts['winner']}/frozen.yaml"
    ports = [port["containerPort"] for port in WORKER["template"]["spec"]["containers"][0]["ports"] if port["name"] == "serve"]
    assert ports == [SERVED["http_options"]["port"]]


@pytest.mark.skipif(importlib.util.find_spec("grpc_reflection") is None, reason="ray[serve] is not installed")
def test_ray_accepts_the_configuration_and_it_is_for_the_installed_version() -> None:
    import ray
    from ray.serve.config import AutoscalingConfig
    from ray.serve.schema import ServeDeploySchema

    assert ServeDeploySchema.model_validate(SERVED).applications[0].args == APPLICATION["args"]
    assert AutoscalingConfig(**ray_app.scaling(APPLICATION["args"])).max_replicas == WORKER["maxReplicas"]
    assert CLUSTER["rayVersion"] == ray.__version__
