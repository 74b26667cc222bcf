"""The files that start a cluster: rendered from settings that are refused line by line, and valid where they are read."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

import jsonschema
import pytest
import ray.autoscaler
import yaml

from sweeps.cluster.connection import ClusterError
from sweeps.cluster.render import FILES, render
from sweeps.cluster.settings import Settings, load

PROJECT = Path(__file__).resolve().parents[2]
SETTINGS = PROJECT / "cluster" / "settings.yaml"
CONTAINER = {
    "type": "object",
    "required": ["name", "image", "resources"],
    "properties": {"name": {"type": "string"}, "image": {"type": "string"}, "resources": {"required": ["requests", "limits"]}},
}
POD = {
    "type": "object",
    "required": ["spec"],
    "properties": {"spec": {"required": ["containers"], "properties": {"containers": {"minItems": 1, "items": CONTAINER}}}},
}
STRINGS = {"type": "object", "additionalProperties": {"type": "string"}}
RAYJOB = {
    "type": "object",
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "properties": {
        "apiVersion": {"const": "ray.io/v1"},
        "kind": {"const": "RayJob"},
        "metadata": {"required": ["name"]},
        "spec": {
            "type": "object",
            "required": ["entrypoint", "rayClusterSpec"],
            "additionalProperties": False,
            "properties": {
                "entrypoint": {"type": "string"},
                "runtimeEnvYAML": {"type": "string"},
                "metadata": STRINGS,
                "submissionMode": {"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
                "backoffLimit": {"type": "integer"},
                "shutdownAfterJobFinishes": {"type": "boolean"},
                "ttlSecondsAfterFinished": {"type": "integer"},
                "rayClusterSpec": {
                    "type": "object",
                    "required": ["headGroupSpec", "rayVersion"],
                    "additionalProperties": False,
                    "properties": {
                        "rayVersion": {"type": "string"},
                        "authOptions": {"properties": {"mode": {"enum": ["disabled", "token"]}}, "required": ["mode"]},
                        "enableInTreeAutoscaling": {"type": "boolean"},
                        "headGroupSpec": {
                            "required": ["rayStartParams", "template"],
                            "properties": {"rayStartParams": STRINGS, "template": POD},
                        },
                        "workerGroupSpecs": {
                            "items": {
                                "required": ["groupName", "minReplicas", "maxReplicas", "rayStartParams", "template"],
                                "properties": {"rayStartParams": STRINGS, "template": POD, "replicas": {"type": "integer"}},
                            }
                        },
                    },
                },
            },
        },
    },
}
"""The fields of KubeRay's ray.io/v1 RayJob that are used here, as its API reference documents them."""


@pytest.fixture
def settings(tmp_path):
    """A function: replacements in the project's settings → what is read."""

    def read(**replaced: str) -> Settings:
        content = yaml.safe_load(SETTINGS.read_text())
        for key, text in replaced.items():
            content[key] = yaml.safe_load(text)
        path = tmp_path / "settings.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return load(path)

    return read


VARIANTS = [
    {},
    {"worker": "{cpus: 16, gpus: 2, memory_gib: 64}", "workers": "{min: 2, max: 3}"},
    {"launcher": "{provider: gcp, region: us-west1, zone: us-west1-a, project: p, head_type: a, worker_type: b, user: u}"},
    {"launcher": "{provider: azure, region: westus2, project: group, head_type: a, worker_type: b, user: u}"},
]


def test_the_files_of_the_project_are_what_its_settings_render_to():
    for name, text in render(load(SETTINGS)).items():
        assert (PROJECT / "cluster" / name).read_text() == text, f"cluster/{name}: run `make cluster`"
    assert {path.name for path in (PROJECT / "cluster").iterdir()} == {"settings.yaml", *FILES}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_file_is_valid_where_it_is_read(settings, variant, tmp_path):
    rendered = render(settings(**variant))
    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    launcher = yaml.safe_load(rendered["ray-cluster.yaml"])
    jsonschema.validate(launcher, schema)
    assert launcher["head_node_type"] in launcher["available_node_types"]
    assert all("RAY_AUTH_MODE=token" in command for command in launcher["worker_start_ray_commands"][1:])
    assert "--dashboard-host=127.0.0.1" in launcher["head_start_ray_commands"][1]
    job = yaml.safe_load(rendered["rayjob.yaml"])
    jsonschema.validate(job, RAYJOB)
    assert yaml.safe_load(job["spec"]["runtimeEnvYAML"]) == {"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "120"}}
    (tmp_path / "slurm.sbatch").write_text(rendered["slurm.sbatch"])
    subprocess.run(["bash", "-n", str(tmp_path / "slurm.sbatch")], check=True)
    if "worker" in variant:
        assert launcher["available_node_types"]["worker"]["resources"] == {"CPU": 16, "GPU": 2}
        workers = job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]
        limits = workers["template"]["spec"]["containers"][0]["resources"]["limits"]
        assert limits == {"cpu": "16", "memory": "64Gi", "nvidia.com/gpu": "2"}
        assert "#SBATCH --gpus-per-task=2\n" in rendered["slurm.sbatch"]
        assert "#SBATCH --nodes=3\n" in rendered["slurm.sbatch"]


@pytest.mark.parametrize(
    ("replaced", "said"),
    [
        ({"worker": "{cpu: 8, memory_gib: 32}"}, r"worker\.cpu is unknown\. Did you mean cpus\?"),
        (
            {"worker": "{cpus: many, memory_gib: 32}"},
            r"settings\.yaml:\d+: worker\.cpus is 'many': input should be a valid integer",
        ),
        ({"workers": "{min: 5, max: 2}"}, r"settings\.yaml:\d+: min 5 is above max 2"),
        ({"name": "Sweeps!"}, r"name is 'Sweeps!': string should match pattern"),
        ({"runs": "~/runs"}, r"runs is '~/runs'"),
        ({"sweep": "a; rm -rf /"}, r"sweep is 'a; rm -rf /'"),
        ({"ports": "{gcs: 6379, dashboard: 6379, client: 1}"}, r"expected three different ports"),
        (
            {"launcher": "{provider: gcp, region: r, head_type: a, worker_type: b, user: u}"},
            r"gcp needs project: the project",
        ),
    ],
)
def test_settings_that_make_no_cluster_are_refused_by_line(settings, replaced, said):
    with pytest.raises(ClusterError, match=said):
        settings(**replaced)


def test_settings_that_are_missing_are_named(settings, tmp_path):
    (tmp_path / "settings.yaml").write_text("name: sweeps\n")
    with pytest.raises(ClusterError, match=r"image is missing"):
        load(tmp_path / "settings.yaml")
    with pytest.raises(ClusterError, match=r"nowhere\.yaml: there is no such file"):
        load(tmp_path / "nowhere.yaml")


FAKE = """#!/bin/bash
# One program for srun, scontrol, ray and python: it notes its call, and stands for what the real one does.
name=$(basename "$0")
case "$name" in
  scontrol) printf 'node1\\nnode2\\nnode3\\n' ;;
  srun)
    while [[ $1 == --* ]]; do [[ $1 == --nodelist=* ]] && node=${1#--nodelist=}; shift; done
    NODE=$node exec "$@" ;;
  hostname) echo "10.0.0.1 fe80::1" ;;
  ray)
    if [[ $1 == status ]]; then test -e "$STATE/head"; exit; fi
    trap 'echo "$NODE ended" >> "$STATE/calls"; exit 0' TERM
    echo "$NODE ray $*" >> "$STATE/calls"
    test -s "$RAY_AUTH_TOKEN_PATH" && [[ $RAY_AUTH_MODE == token ]] || echo "no token" >> "$STATE/calls"
    [[ $* == *--head* ]] && touch "$STATE/head"
    while true; do sleep 0.05; done ;;
  python)
    if [[ $1 == -c ]]; then printf token; exit; fi
    until [[ $(grep -c start "$STATE/calls") == 3 ]]; do sleep 0.05; done
    echo "python $* at $RAY_ADDRESS" >> "$STATE/calls"
    trap 'echo "driver stopped" >> "$STATE/calls"; exit 130' TERM
    if [[ $STATE == *waits ]]; then touch "$STATE/runs"; while true; do sleep 0.05; done; fi
    exit 7 ;;
esac
"""


@pytest.mark.parametrize("waits", [False, True])
def test_the_slurm_script_starts_head_and_workers_in_order_and_ends_them(settings, tmp_path, waits):
    bin_directory, state = tmp_path / "bin", tmp_path / ("waits" if waits else "ends")
    bin_directory.mkdir()
    state.mkdir()
    for name in ("srun", "scontrol", "ray", "python", "hostname"):
        (bin_directory / name).write_text(FAKE)
        (bin_directory / name).chmod(0o755)
    (tmp_path / "slurm.sbatch").write_text(render(settings())["slurm.sbatch"])
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "activate").write_text("")
    environment = {
        "PATH": f"{bin_directory}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "STATE": str(state),
        "SLURM_JOB_NODELIST": "node[1-3]",
    }
    command = ["bash", "slurm.sbatch", "digits"]
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE) as job:
        if waits:
            while not (state / "runs").exists():
                assert job.poll() is None
                time.sleep(0.05)
            job.terminate()  # as SLURM does before the time is up
        status = job.wait(240)
        assert job.stderr.read() == b""
    assert status == (130 if waits else 7), "the driver's exit status"
    calls = (state / "calls").read_text().splitlines()
    assert calls[0].startswith(
        "node1 ray start --head --block --node-ip-address=10.0.0.1 --port=6379 --dashboard-host=127.0.0.1"
    )
    assert sorted(line.split(" --num")[0] for line in calls[1:3]) == [
        f"node{number} ray start --block --address=10.0.0.1:6379" for number in (2, 3)
    ]
    assert calls[3] == "python -m sweeps.cluster.job run digits --runs /sweeps/runs at 10.0.0.1:6379"
    assert calls[4:] == [*(["driver stopped"] if waits else []), "node3 ended", "node2 ended", "node1 ended"]
    assert not list(tmp_path.glob(".ray-token-*")), "the token goes with the job"
