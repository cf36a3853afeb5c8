from typing import get_args

import psutil
import pytest
from ray.train import ScalingConfig
from ray.util.placement_group import VALID_PLACEMENT_GROUP_STRATEGIES

from harness import ranks
from harness.config import Scale

SCALE = Scale(workers=2).model_dump() | {"gpus_per_worker": 0}


def test_interface_is_the_one_that_has_the_address():
    for name, addresses in psutil.net_if_addrs().items():
        for found in addresses:
            if found.family.name in ("AF_INET", "AF_INET6"):
                assert ranks.interface(found.address.partition("%")[0]) == name
    assert ranks.interface("127.0.0.1") == "lo"
    assert ranks.interface("198.51.100.7") is None


def test_workers_use_rays_network_unless_told_otherwise(monkeypatch):
    monkeypatch.setattr("ray.util.get_node_ip_address", lambda: "127.0.0.1")
    for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        monkeypatch.delenv(variable, raising=False)
    with monkeypatch.context() as patch:
        patch.setenv("GLOO_SOCKET_IFNAME", "mine")
        ranks.use_rays_network()
        assert ranks.os.environ["GLOO_SOCKET_IFNAME"] == "mine"
        assert ranks.os.environ["NCCL_SOCKET_IFNAME"] == "=lo"
        patch.delenv("NCCL_SOCKET_IFNAME")


def test_group_is_made_behind_the_choice_of_the_network(monkeypatch):
    config = ranks.process_group(SCALE | {"timeout_seconds": 7}, 0)
    assert (config.backend, config.timeout_s) == ("gloo", 7)
    assert ranks.process_group(SCALE, 1).backend == "nccl"
    done = []
    monkeypatch.setattr(config.backend_cls.__base__, "on_start", lambda *_: done.append("group"))

    class Workers:
        def execute(self, function):
            done.append(function)

    config.backend_cls().on_start(Workers(), config)
    assert done == [ranks.use_rays_network, "group"]


@pytest.mark.parametrize("placement", get_args(Scale.model_fields["placement"].annotation))
def test_placements_are_rays(placement):
    found = ranks.scaling(SCALE | {"placement": placement}, 0)
    assert isinstance(found, ScalingConfig)
    assert found.placement_strategy in VALID_PLACEMENT_GROUP_STRATEGIES
