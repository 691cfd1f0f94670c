"""The manifests and the image, by what must fit together; no cluster and no network is asked."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
KUBERNETES = ROOT / "launch" / "kubernetes"
DOCKERFILE = (ROOT / "launch" / "Dockerfile").read_text()


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((KUBERNETES / f"{name}.yaml").read_text()))


SERVICE, JOB = documents("indexed_job")
(RUNTIME,), (TRAIN_JOB,) = documents("runtime"), documents("train_job")
(NODE,) = RUNTIME["spec"]["template"]["spec"]["replicatedJobs"]
JOB_SPECS = {"indexed_job": JOB["spec"], "runtime": NODE["template"]["spec"]}


@pytest.fixture(params=JOB_SPECS)
def job(request: pytest.FixtureRequest) -> dict[str, Any]:
    return JOB_SPECS[request.param]


def container(job: dict[str, Any]) -> dict[str, Any]:
    (only,) = job["template"]["spec"]["containers"]
    return only


def environment(container: dict[str, Any]) -> dict[str, str]:
    return {each["name"]: each["value"] for each in container["env"]}


def test_shared_memory_is_a_sized_volume_in_memory_and_every_mount_has_its_volume(
    job: dict[str, Any],
) -> None:
    volumes = {volume["name"]: volume for volume in job["template"]["spec"]["volumes"]}
    mounts = {mount["mountPath"]: mount["name"] for mount in container(job)["volumeMounts"]}
    assert set(mounts.values()) == set(volumes)
    assert volumes[mounts["/dev/shm"]]["emptyDir"] == {"medium": "Memory", "sizeLimit": "1Gi"}
    assert "persistentVolumeClaim" in volumes[mounts["/shared"]]


def test_a_pod_that_dies_is_started_again_and_one_that_was_misused_is_not(job: dict[str, Any]) -> None:
    restarts = job["backoffLimit"] or RUNTIME["spec"]["template"]["spec"]["failurePolicy"]["maxRestarts"]
    assert restarts > 0
    assert job["template"]["spec"]["restartPolicy"] == "Never"  # as a podFailurePolicy asks for
    rule = job["podFailurePolicy"]["rules"][0]
    assert (rule["action"], rule["onExitCodes"]["values"]) == ("FailJob", [2])
    assert rule["onExitCodes"]["containerName"] == container(job)["name"]
    assert environment(container(job))["SHARDTOWER_STOPPED_CODE"] not in ("0", "2")


def test_commands_run_a_script_that_the_image_holds(job: dict[str, Any]) -> None:
    shell, script = container(job)["command"]
    assert shell == "bash"
    assert (ROOT / script).is_file()
    assert f"COPY {script.split('/')[0]} ./{script.split('/')[0]}" in DOCKERFILE
    assert "args" in TRAIN_JOB["spec"]["trainer"]
    assert "command" not in TRAIN_JOB["spec"]["trainer"]  # the runtime's own


def test_nobody_runs_as_root_and_the_image_has_the_user_that_the_pods_have(job: dict[str, Any]) -> None:
    security = job["template"]["spec"]["securityContext"]
    assert security["runAsNonRoot"] is True
    user = re.search(r"^ARG USER_ID=(\d+)$", DOCKERFILE, re.MULTILINE)
    assert user is not None
    assert security["runAsUser"] == security["fsGroup"] == int(user[1])
    stages = re.split(r"^FROM .* AS (\w+)$", DOCKERFILE, flags=re.MULTILINE)
    for target, build in zip(stages[1::2], stages[2::2], strict=True):
        assert ("USER trainer" in build) == (target in ("cpu", "cuda")), target


def test_pods_of_the_plain_job_meet_at_the_first_one_by_its_service() -> None:
    variables, (port,) = environment(container(JOB["spec"])), SERVICE["spec"]["ports"]
    assert SERVICE["spec"]["clusterIP"] == "None"
    assert SERVICE["spec"]["selector"] == {"job-name": JOB["metadata"]["name"]}
    assert JOB["spec"]["template"]["spec"]["subdomain"] == SERVICE["metadata"]["name"]
    first = f"{JOB['metadata']['name']}-0.{SERVICE['metadata']['name']}:{port['port']}"
    assert variables["SHARDTOWER_ENDPOINT"] == first
    assert [each["containerPort"] for each in container(JOB["spec"])["ports"]] == [port["port"]]
    assert SERVICE["spec"]["publishNotReadyAddresses"] is True  # no pod is ready before it has met the others


def test_the_plain_job_has_as_many_pods_as_the_training_waits_for() -> None:
    spec = JOB["spec"]
    nodes = int(environment(container(spec))["SHARDTOWER_NODES"])
    assert (spec["completionMode"], spec["parallelism"], spec["completions"]) == ("Indexed", nodes, nodes)


def test_the_train_job_names_its_runtime_and_patches_what_that_has() -> None:
    reference = TRAIN_JOB["spec"]["runtimeRef"]
    assert (reference["kind"], reference["name"]) == (RUNTIME["kind"], RUNTIME["metadata"]["name"])
    assert RUNTIME["spec"]["mlPolicy"]["torch"] == {}  # numProcPerNode and elasticPolicy are gone
    for patch in TRAIN_JOB["spec"]["runtimePatches"]:
        (job,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
        assert job["name"] == NODE["name"]
    assert NODE["template"]["metadata"]["labels"]["trainer.kubeflow.org/trainjob-ancestor-step"] == "trainer"


def test_the_image_installs_by_the_same_script_as_a_machine_does() -> None:
    assert re.findall(r"^RUN SHARDTOWER_BUILD=(\w+) .*bash launch/setup.sh$", DOCKERFILE, re.MULTILINE) == [
        "cpu",
        "cuda",
    ]
    for source in re.findall(r"^COPY (.+) \./", DOCKERFILE, re.MULTILINE):
        assert all((ROOT / each).exists() for each in source.split())


@pytest.mark.parametrize("name", ["indexed_job", "runtime", "train_job"])
def test_every_manifest_says_at_its_head_what_to_change(name: str) -> None:
    head = (KUBERNETES / f"{name}.yaml").read_text().split("apiVersion")[0]
    assert "# What to change:" in head
    assert f"launch/kubernetes/{name}.yaml" in head
