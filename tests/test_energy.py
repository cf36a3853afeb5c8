import pytest
import torch

from harness import energy, firing, operations


def layer(**counts) -> operations.Layer:
    return operations.Layer(**counts)


def test_arithmetic_is_4_6_picojoules_a_mac_and_0_9_an_accumulate():
    found = energy.of([layer(macs=2000.0), layer(acs=1000.0)], [], 2, spiking=True)
    assert found.nanojoules == pytest.approx((1000 * 4.6 + 500 * 0.9) / 1000)
    assert "Horowitz" in found.source
    assert found.memory_nanojoules is None  # where spikes come from is not known


@pytest.mark.parametrize(("values", "picojoules"), [(2048, 5), (2049, 10), (8192, 10), (8193, 50), (10**7, 50)])
def test_access_costs_more_the_larger_the_memory_that_it_takes(values, picojoules):
    found = energy.of([layer(acs=100.0, weights=values)], [firing.Layer(torch.zeros(0), 1)], 1, spiking=True)
    assert found.memory_nanojoules == pytest.approx(100 * picojoules / 1000)


def test_potentials_are_read_and_written_once_a_neuron_and_step():
    neurons = firing.Layer(torch.zeros(30), steps=4 * 10)  # 4 time steps of 10 samples
    found = energy.of([], [neurons], 10, spiking=True)
    assert found.memory_nanojoules == pytest.approx(2 * 5 * 30 * 4 / 1000)


def test_matched_ann_is_one_dense_pass_whatever_part_of_a_simulation_a_layer_takes_part_in():
    once = layer(dense=10 * 300.0, passes=10, outputs=10 * 30.0, weights=300)
    each_step = layer(dense=4 * 10 * 60.0, passes=4 * 10, outputs=4 * 10 * 2.0, weights=60)
    found = energy.of([once, each_step], [], 10, spiking=True)
    assert found.ann_nanojoules == pytest.approx(360 * 4.6 / 1000)
    assert found.ann_memory_nanojoules == pytest.approx((360 * 5 + 2 * 5 * 32) / 1000)


def test_ordinary_network_without_zeros_is_its_own_match():
    dense = layer(macs=600.0, dense=600.0, passes=2, outputs=40, weights=300)
    found = energy.of([dense], [], 2, spiking=False)
    assert found.nanojoules == pytest.approx(found.ann_nanojoules)
    assert found.memory_nanojoules == pytest.approx(found.ann_memory_nanojoules)
