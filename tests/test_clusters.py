"""Every file of clusters/ against its consumer's own schema; Slurm's script with commands that act like Slurm's."""

import json
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import psutil
import pytest
import yaml

from tests.ray_head import ROOT, clean, end, wait_for

CLUSTERS = ROOT / "clusters"
CLOUDS = sorted(file.name for file in CLUSTERS.glob("*-*.yaml"))
LAUNCHED = [*CLOUDS, "local.yaml", "onprem.yaml"]
MANIFESTS = ["kuberay/raycluster.yaml", "kuberay/rayjob.yaml"]
GPUS = {"p5.48xlarge": (192, 8), "p4d.24xlarge": (96, 8), "c7i.8xlarge": (32, 0),
        "a3-highgpu-8g": (208, 8), "a2-highgpu-8g": (96, 8), "n2-standard-32": (32, 0)}  # fmt: skip
"""vCPUs and GPUs of a machine, from the clouds' own lists."""


def text(name: str) -> str:
    return (CLUSTERS / name).read_text()


def launcher(name: str) -> dict[str, Any]:
    """A file as `ray up` sees it: with the provider's defaults."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(yaml.safe_load(text(name)))
    validate_config(config)
    return config


@pytest.mark.parametrize("name", LAUNCHED)
def test_rays_launcher_takes_the_file_and_asks_for_tokens_on_every_node(name):
    config = launcher(name)
    raw = yaml.safe_load(text(name))
    head = " ".join(config["head_start_ray_commands"])
    assert "--dashboard-host=127.0.0.1" in head
    started = " ".join([head, *config["docker"].get("run_options", [])])
    assert "RAY_AUTH_MODE=token" in started
    assert "HARNESS_RESULTS=" in started
    if name != "local.yaml":
        assert raw["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
        assert config["idle_timeout_minutes"]
    assert f"ray up -y clusters/{name}" in text(name)
    assert (f"ray down -y clusters/{name}" if name != "local.yaml" else "ray stop\n") in text(name)


@pytest.mark.parametrize("name", CLOUDS)
def test_clouds_scale_from_none_on_spot_behind_a_head_on_demand(name):
    config = launcher(name)
    types = config["available_node_types"]
    head, worker = types.pop(config["head_node_type"]), types["worker"]
    assert list(types) == ["worker"]
    assert head["resources"] == {"CPU": 0, "GPU": 0}
    assert (worker["min_workers"], worker["max_workers"]) == (0, config["max_workers"])
    machine = worker["node_config"].get("InstanceType") or worker["node_config"]["machineType"]
    assert (worker["resources"]["CPU"], worker["resources"]["GPU"]) == GPUS[machine]
    assert "spot" in json.dumps(worker["node_config"]).lower()
    assert "spot" not in json.dumps(head["node_config"]).lower()
    # Ray's defaults would install another Ray.
    assert config["setup_commands"] == config["head_setup_commands"] == config["worker_setup_commands"] == []
    images = {config["docker"].get(key) for key in ("image", "head_image", "worker_image")} - {None}
    assert images == {
        f"registry.example.com/snn-harness:{v}" for v in (("cpu", "cuda") if "cpu" not in name else ("cpu",))
    }


@pytest.mark.parametrize("name", [name for name in CLOUDS if name.startswith("aws")])
def test_amazons_own_schema_takes_the_machines(name):
    import botocore.session
    from botocore.validate import ParamValidator

    shape = botocore.session.get_session().get_service_model("ec2").operation_model("RunInstances").input_shape
    for node in launcher(name)["available_node_types"].values():
        report = ParamValidator().validate({"MinCount": 1, "MaxCount": 1, **node["node_config"]}, shape)
        assert not report.has_errors(), report.generate_report()
    assert set(launcher(name)["provider"]["security_group"]) == {"GroupName"}


SECURE = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
RAY_CLUSTER = {
    "rayVersion",
    "authOptions",
    "enableInTreeAutoscaling",
    "autoscalerOptions",
    "headGroupSpec",
    "workerGroupSpecs",
    "gcsFaultToleranceOptions",
    "headServiceAnnotations",
    "suspend",
    "managedBy",
}
HEAD_GROUP = {"serviceType", "headService", "enableIngress", "rayStartParams", "template", "resources", "labels"}
WORKER_GROUP = {
    "groupName",
    "replicas",
    "minReplicas",
    "maxReplicas",
    "numOfHosts",
    "idleTimeoutSeconds",
    "suspend",
    "rayStartParams",
    "template",
    "scaleStrategy",
    "resources",
    "labels",
}
AUTOSCALER = {
    "resources",
    "image",
    "imagePullPolicy",
    "env",
    "envFrom",
    "volumeMounts",
    "securityContext",
    "idleTimeoutSeconds",
    "upscalingMode",
    "version",
}
RAY_JOB = {
    "activeDeadlineSeconds",
    "backoffLimit",
    "rayClusterSpec",
    "submitterPodTemplate",
    "metadata",
    "clusterSelector",
    "submitterConfig",
    "managedBy",
    "deletionStrategy",
    "entrypoint",
    "runtimeEnvYAML",
    "jobId",
    "submissionMode",
    "entrypointResources",
    "entrypointNumCpus",
    "entrypointNumGpus",
    "ttlSecondsAfterFinished",
    "shutdownAfterJobFinishes",
    "suspend",
    "preRunningDeadlineSeconds",
}
"""Fields of KubeRay's v1 kinds, from its API reference (ray-operator/apis/ray/v1/*_types.go, release 1.5); no package
has their schemas. `ray start` itself knows the keys of rayStartParams."""


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(text(name)))


def container_name(pod: dict[str, Any]) -> str:
    return pod["containers"][0]["name"]


def ray_cluster(name: str) -> dict[str, Any]:
    last = documents(name)[-1]
    assert last["apiVersion"] == "ray.io/v1"
    return last["spec"] if last["kind"] == "RayCluster" else last["spec"]["rayClusterSpec"]


def groups(name: str) -> list[dict[str, Any]]:
    spec = ray_cluster(name)
    return [spec["headGroupSpec"], *spec["workerGroupSpecs"]]


@pytest.mark.parametrize("name", MANIFESTS)
def test_kubernetes_own_schemas_take_the_manifests(name):
    version = kubernetes_validate.latest_version()
    for document in documents(name):
        if not document["apiVersion"].startswith("ray.io/"):
            kubernetes_validate.validate(document, version, strict=True)
    for group in groups(name):
        template = group["template"]
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", **template.get("metadata", {})}}
        kubernetes_validate.validate({**pod, "spec": template["spec"]}, version, strict=True)


@pytest.mark.parametrize("name", MANIFESTS)
def test_kuberays_fields_are_known_and_those_that_it_needs_are_there(name):
    from ray.scripts.scripts import start

    spec = ray_cluster(name)
    assert set(spec) <= RAY_CLUSTER
    assert set(spec["autoscalerOptions"]) <= AUTOSCALER
    assert {"rayStartParams", "template"} <= set(spec["headGroupSpec"]) <= HEAD_GROUP
    for group in spec["workerGroupSpecs"]:
        assert {"groupName", "minReplicas", "maxReplicas", "rayStartParams", "template"} <= set(group) <= WORKER_GROUP
        assert group["minReplicas"] == 0
    known = {option.lstrip("-") for parameter in start.params for option in parameter.opts}
    for group in groups(name):
        assert set(group["rayStartParams"]) <= known
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
    if name.endswith("rayjob.yaml"):
        job = documents(name)[-1]["spec"]
        assert {"entrypoint", "rayClusterSpec"} <= set(job) <= RAY_JOB
        assert job["shutdownAfterJobFinishes"]
        config = re.search(r"/opt/src/(\S+)", job["entrypoint"]).group(1)
        assert (ROOT / config).is_file()


@pytest.mark.parametrize("name", MANIFESTS)
def test_pods_have_tokens_no_root_and_a_policy_that_closes_them(name):
    import ray

    spec = ray_cluster(name)
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["rayVersion"] == ray.__version__ == pinned("ray")
    (policy,) = (document for document in documents(name) if document["kind"] == "NetworkPolicy")
    assert policy["spec"]["policyTypes"] == ["Ingress"]
    assert all(rule["from"] for rule in policy["spec"]["ingress"])
    for group in groups(name):
        pod = group["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"]
        # Only the autoscaler, beside the head, has to ask Kubernetes for something.
        assert pod["automountServiceAccountToken"] == (container_name(pod) == "ray-head")
        (container,) = pod["containers"]
        assert container["securityContext"] == SECURE
        assert {"requests", "limits"} <= set(container["resources"])
        assert {"name": "HARNESS_RESULTS", "value": "/shared"} in container["env"]
    assert spec["headGroupSpec"]["serviceType"] == "ClusterIP"


@pytest.mark.parametrize("name", [*LAUNCHED, *MANIFESTS, "slurm.sh", "Dockerfile"])
def test_every_file_opens_with_what_it_is_and_its_commands_and_holds_no_secret(name):
    comment = re.match(r"(#.*\n)+", text(name)).group(0)
    assert "docker build" in comment if name == "Dockerfile" else {"Start", "Stop"} <= set(comment.split())
    assert f"({name})" in text("README.md")
    assert not re.search(
        r"(?i)(AKIA[0-9A-Z]{16}|BEGIN [A-Z ]*PRIVATE KEY|auth_token\s*[:=]\s*[0-9a-f]{16})", text(name)
    )


def pinned(package: str) -> str:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return next(line.split("==")[1] for line in lines if line.startswith(f"{package}=="))


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions with their arguments, comments and line breaks taken out."""
    lines = [line for line in text("Dockerfile").splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line)]


def copied() -> list[str]:
    return [source for word, rest in instructions() if word == "COPY" for source in rest.split()[:-1]]


def test_the_image_is_set_up_as_a_machine_is_and_runs_as_nobody_special():
    setup = (ROOT / "scripts/setup.sh").read_text()
    packages = re.search(r"^packages=\((.*)\)", setup, re.MULTILINE).group(1).split()
    runs = [rest for word, rest in instructions() if word == "RUN"]
    assert all(package in runs[0].split() for package in packages)
    assert any("install_ffcv.sh" in run for run in runs)
    assert "setuptools hatchling editables" in setup
    assert any("setuptools hatchling editables" in run for run in runs)
    assert any("PIP_CONSTRAINT=/opt/constraints.txt" in rest for word, rest in instructions() if word == "ENV")
    assert [rest for word, rest in instructions() if word == "USER"] == ["1000:1000"]
    assert not [rest for word, rest in instructions() if word == "EXPOSE"]


@pytest.mark.slow
def test_what_the_image_copies_is_enough_to_install_the_harness(tmp_path):
    for source in copied():
        assert (ROOT / source).exists(), source
        target = tmp_path / "src" / source
        target.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if (ROOT / source).is_dir() else shutil.copy)(ROOT / source, target)
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(tmp_path)]
    subprocess.run([*pip, str(tmp_path / "src")], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert {"harness/methods/dsr.py", "harness/configs/digits.yaml"} <= set(zipfile.ZipFile(wheel).namelist())


SRUN = """#!/usr/bin/env python3
# Acts like srun: runs a command as often as there are tasks, passes signals on, ends with the worst exit code.
import signal, subprocess, sys
tasks, rest = 1, sys.argv[1:]
while rest and rest[0].startswith("--"):
    name, _, value = rest.pop(0).partition("=")
    assert name in {"--nodes", "--ntasks", "--cpus-per-task", "--nodelist", "--exclude"}, name
    tasks = int(value) if name == "--ntasks" else tasks
started = [subprocess.Popen(rest) for _ in range(tasks)]
signal.signal(signal.SIGTERM, lambda number, frame: [each.send_signal(number) for each in started])
sys.exit(max(abs(each.wait()) for each in started))
"""
SCONTROL = """#!/usr/bin/env bash
case "$1" in
    show) printf 'node1\\nnode2\\n' ;;
    requeue) echo "$2" >> "$REQUEUED" ;;
esac
"""


@pytest.fixture
def slurm(tmp_path) -> Iterator[dict[str, str]]:
    """The environment of a job on two nodes, both of which are this machine; afterwards nothing of it runs any more."""
    binaries = tmp_path / "bin"
    binaries.mkdir()
    for name, content in {"srun": SRUN, "scontrol": SCONTROL}.items():
        (binaries / name).write_text(content)
        (binaries / name).chmod(0o755)
    environment = clean(
        SLURM_JOB_ID="4711", SLURM_JOB_NODELIST="node[1-2]", SLURM_CPUS_PER_TASK="1", SLURM_SUBMIT_DIR=str(ROOT),
        PYTHON=sys.executable, HOME=str(tmp_path / "home"), REQUEUED=str(tmp_path / "requeued"),
        RAY_TEMP=f"/tmp/rs{tmp_path.stat().st_ino}", HEAD_IP="127.0.0.1",
    )  # fmt: skip
    yield {**environment, "PATH": f"{binaries}:{environment['PATH']}"}
    left = [p for p in psutil.process_iter(["cmdline"]) if environment["RAY_TEMP"] in " ".join(p.info["cmdline"] or [])]
    for process in left:
        process.kill()
    shutil.rmtree(environment["RAY_TEMP"], ignore_errors=True)


def slurm_script(*arguments: object) -> list[str]:
    return ["bash", str(CLUSTERS / "slurm.sh"), *map(str, arguments)]


def test_slurms_script_says_how_it_is_used(slurm):
    assert subprocess.run(["bash", "-n", CLUSTERS / "slurm.sh"]).returncode == 0
    done = subprocess.run(slurm_script(), env=slurm, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    del slurm["SLURM_JOB_ID"]
    done = subprocess.run(slurm_script("sweep", "x.yaml"), env=slurm, capture_output=True, text=True)
    assert done.returncode == 2
    assert "submit it with sbatch" in done.stderr


def test_shellcheck_has_nothing_to_say():
    if not (found := shutil.which("shellcheck", path=clean()["PATH"])):
        pytest.skip("shellcheck is not installed")
    done = subprocess.run([found, CLUSTERS / "slurm.sh"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_slurms_script_runs_a_sweep_on_all_nodes_and_a_preempted_one_goes_back_into_the_queue(slurm, tmp_path):
    from tests.experiments import EXPERIMENT

    file = tmp_path / "long.yaml"
    long = {"methods": ["bptt"], "seeds": [0, 1], "train": {"epochs": 3000}, "results": str(tmp_path / "results")}
    file.write_text(yaml.safe_dump(EXPERIMENT | long))
    log = (tmp_path / "log").open("w+")
    script = subprocess.Popen(slurm_script("sweep", file), env=slurm, stdout=log, stderr=subprocess.STDOUT)
    try:
        token = tmp_path / "home/.snn-ray/4711/token"
        wait_for(lambda: (token.exists() and token.stat().st_size == 64) or script.poll() is not None)
        assert token.stat().st_mode & 0o777 == 0o600
        assert token.parent.stat().st_mode & 0o777 == 0o700
        # One CPU on each node: that both train at the same time means that both nodes are there.
        wait_for(lambda: len(list((tmp_path / "results").rglob("last.pt"))) == 2 or script.poll() is not None)
        script.send_signal(signal.SIGTERM)
        code = script.wait(60)
    finally:
        end(script)
    said = Path(log.name).read_text()
    assert code == 143, said
    assert "what was done is saved" in said
    assert Path(slurm["REQUEUED"]).read_text() == "4711\n"
    assert not token.parent.exists()
    assert len(list((tmp_path / "results").rglob("last.pt"))) == 2
