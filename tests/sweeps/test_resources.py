"""What a trial is allotted: read, asked of Ray, counted node by node, and refused with what there is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeps import resources
from sweeps.errors import ResourceError, SpaceError
from sweeps.schema import Resources
from sweeps.sizes import parse_size, size_text
from sweeps.space import dump, load_space
from sweeps.validation import validate

GIB = 2**30


def test_resources_become_the_overrides_that_hold_a_trial_to_them():
    assert resources.overrides(Resources(cpu=2)) == ["threads=2", "trainer.accelerator=cpu", "trainer.devices=1"]
    assert resources.overrides(Resources(gpu=0.25)) == ["threads=1", "trainer.accelerator=gpu", "trainer.devices=1"]
    assert resources.overrides(Resources(mps=0.5)) == ["threads=1", "trainer.accelerator=mps", "trainer.devices=1"]


def test_what_ray_is_asked_for():
    assert resources.request(Resources(cpu=2)) == {"cpu": 2, "gpu": 0.0}
    assert resources.request(Resources(mps=0.5, memory="4 GiB")) == {"cpu": 1, "gpu": 0.5, "memory": 4 * GIB}
    assert resources.told(Resources(cpu=2)) == "2 CPU"
    assert resources.told(Resources(gpu=0.5, memory="4 GB")) == "1 CPU, 0.5 GPU and 3.7 GiB of memory"


def test_as_many_trials_at_a_time_as_fit():
    def fit(nodes, **wanted):
        return resources.concurrency(Resources(**wanted), nodes, has_mps=lambda: True)

    assert fit([{"CPU": 2.0}], cpu=1) == 2
    assert fit([{"CPU": 8.0}], cpu=3) == 2
    assert fit([{"CPU": 2.0}, {"CPU": 5.0}, {"CPU": 1.0}], cpu=2) == 3
    assert fit([{"CPU": 16.0, "GPU": 1.0}, {"CPU": 1.0, "GPU": 1.0}, {"CPU": 64.0}], gpu=0.25) == 5
    assert [fit([{"CPU": 64.0, "GPU": 1.0}], gpu=share) for share in (0.05, 0.1, 0.2, 1.0)] == [20, 10, 5, 1]
    assert fit([{"CPU": 64.0, "GPU": 2.0}], gpu=0.4) == 4  # two on each GPU; a fifth would need a part of both
    assert fit([{"CPU": 8.0, "GPU": 1.0}], mps=0.5) == 2
    assert fit([{"CPU": 64.0, "memory": 10.0 * GIB}, {"CPU": 64.0, "memory": 3.9 * GIB}], memory="4 GiB") == 2


@pytest.mark.parametrize(
    ("wanted", "nodes", "message"),
    [
        ({"cpu": 64}, [{"CPU": 2.0}], "a trial asks for 64 CPU, and this machine has 2 CPU. Ask for less"),
        ({"cpu": 3}, [{"CPU": 2.0}, {"CPU": 2.0}], "asks for 3 CPU, and the largest of 2 nodes has 2 CPU"),
        ({"gpu": 1.0}, [{"CPU": 2.0}], "asks for 1 GPU, and this machine has 0 GPU"),
        ({"memory": "4 GiB"}, [{"CPU": 2.0, "memory": 1.5 * GIB}], "4 GiB of memory, and this machine has 1.5 GiB of memory"),
        ({"cpu": 9, "gpu": 0.5}, [{"CPU": 2.0}], "9 CPU, and this machine has 2 CPU; for 0.5 GPU, and this machine has 0 GPU"),
        (
            {"cpu": 4, "gpu": 1.0},
            [{"CPU": 8.0}, {"CPU": 2.0, "GPU": 1.0}],
            "4 CPU and 1 GPU, and the largest of 2 nodes has each of these, but no node has all of them",
        ),
    ],
)
def test_what_no_node_can_hold_is_refused_with_what_there_is(wanted, nodes, message):
    with pytest.raises(ResourceError) as refused:
        resources.concurrency(Resources(**wanted), nodes)
    assert message in str(refused.value)


def test_an_apple_gpu_is_refused_where_torch_has_none():
    with pytest.raises(
        ResourceError, match=r"asks for 0.5 of an Apple GPU \(mps\), and torch can use none .* has 2 CPU, 8 GiB"
    ):
        resources.concurrency(Resources(mps=0.5), [{"CPU": 2.0, "memory": 8.0 * GIB}], has_mps=lambda: False)
    with pytest.raises(ResourceError, match="asks for 1 GPU, and this machine has 0"):  # torch has it, Ray does not see it
        resources.concurrency(Resources(mps=1.0), [{"CPU": 2.0}], has_mps=lambda: True)


@given(
    st.integers(1, 8), st.floats(0.05, 1), st.lists(st.tuples(st.integers(0, 16), st.integers(0, 4)), min_size=1, max_size=4)
)
def test_a_cluster_holds_what_its_nodes_hold(cpu, gpu, nodes):
    """Law: the sum over nodes; no node is given away twice; and one more trial would not fit on any."""
    wanted = Resources(cpu=cpu, gpu=gpu)
    each = [resources._fitting(wanted, {"CPU": float(cpus), "GPU": float(gpus)}) for cpus, gpus in nodes]
    for count, (cpus, gpus) in zip(each, nodes, strict=True):
        per_gpu = int(1 / gpu + 1e-9)
        assert count * cpu <= cpus
        assert count <= gpus * per_gpu
        assert (count + 1) * cpu > cpus or count + 1 > gpus * per_gpu
    if sum(each):
        assert resources.concurrency(wanted, [{"CPU": float(c), "GPU": float(g)} for c, g in nodes]) == sum(each)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("memory: 4", "6: resources.memory: found 4: a number with its unit is expected, as 4 GiB or 500 MB; units: kB, MB"),
        ("memory: 4 GiBB", "6: resources.memory: found '4 GiBB': a number with its unit is expected"),
        ("memory: 100 MB", "6: resources.memory: a trial holds some 300 MiB before it has read any data: at least 512 MiB"),
        ("mps: 2", "6: resources.mps: found 2: input should be less than or equal to 1"),
        ("mps: 0.5, gpu: 0.5", "6: resources: gpu and mps are both given, and a trial runs on one device"),
        ("on_oom: again", "6: resources.on_oom: found 'again'. Accepted: retry, fail."),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_line(make_space, text, message):
    with pytest.raises(SpaceError) as refused:
        make_space(f"resources: {{{text}}}\n", name="odd")
    (problem,) = str(refused.value).splitlines()
    assert f"odd.yaml:{message.replace('6:', '7:', 1)}" in problem


def test_resources_are_kept_as_they_were_written(make_space, tmp_path):
    space = make_space("resources: {cpu: 2, mps: 0.5, memory: 4 GiB, on_oom: fail}\n")
    assert (space.resources.memory_bytes, space.resources.on_oom) == (4 * GIB, "fail")
    (tmp_path / "again.yaml").write_text(dump(space))
    assert load_space(tmp_path / "again.yaml") == space


@given(st.integers(1, 4096), st.sampled_from(["MiB", "GiB", "kB", "MB", "GB"]))
def test_sizes_are_read_with_or_without_a_space_in_any_case(number, unit):
    assert parse_size(f"{number} {unit}") == parse_size(f"{number}{unit.lower()}")
    assert parse_size(f"{number} MiB") == number * 2**20


def test_sizes_are_told_in_the_largest_unit_that_they_fill():
    assert [size_text(size) for size in (512 * 2**20, 4.3 * GIB, 2048 * GIB, 5 * 2**10)] == [
        "512 MiB",
        "4.3 GiB",
        "2 TiB",
        "5 KiB",
    ]


def test_validation_says_what_this_machine_cannot_hold(make_space, vimh_dataset):
    trial = f"trial: [experiment=vimh, data.data_dir='{vimh_dataset}', data.generate=null, data.num_workers=3]\n"
    space = make_space(
        f"description: Too much.\n{trial}objective: {{metric: val/avg_acc, mode: max}}\n"
        "space: {model.optimizer.lr: {log_uniform: [1.0e-4, 1.0e-1]}}\nresources: {cpu: 2000}\n",
        base=False,
    )
    (note,) = (note for note in validate(space, samples=1).notes if "machine" in note)
    assert note.startswith("not on this machine: a trial asks for 2000 CPU, and this machine has")
    assert resources.notes(Resources(cpu=1), workers=3) == [
        "data.num_workers is 3, and a trial has 1 CPU: its loaders take what others were allotted"
    ]
