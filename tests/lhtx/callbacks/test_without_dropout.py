"""Without dropout a network in training gives the same outputs twice."""

import pytest
import torch

from lhtx.callbacks.without_dropout import switch_off
from lhtx.compose import CONFIGS, build_task, compose, configure
from lhtx.config_errors import options


@pytest.mark.parametrize("model", [name for name in options(CONFIGS)["model"] if name.startswith("vimh_")])
def test_every_kind_of_network_stops_dropping(small_data, model):
    features = "data.auxiliary_features=[decay_time]"
    task = build_task(configure(compose([*small_data, f"model={model}", features]))).train()
    batch = {"image": torch.randn(4, 1, 32, 32), "auxiliary": torch.randn(4, task.net.auxiliary_input_size)}
    torch.manual_seed(0)
    switch_off(task)
    first, second = task(batch), task(batch)
    assert all(torch.equal(first[head], second[head]) for head in first)


def test_torch_s_own_modules_are_switched_off_too():
    network = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.MultiheadAttention(4, 2, dropout=0.5))
    switch_off(network)
    assert network[0].p == 0.0
    assert network[1].dropout == 0.0
