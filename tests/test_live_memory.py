import torch
from torch import nn

from harness.live_memory import LiveMemory

KIB = 1024


def kib() -> torch.Tensor:
    return torch.zeros(KIB // 4)


def test_tensors_count_until_their_last_view_is_gone():
    with LiveMemory() as memory:
        whole = kib()
        part = whole[:10]
        del whole
        assert memory.live_bytes == KIB
        del part
        assert memory.live_bytes == 0
    assert memory.peak_bytes == KIB


def test_what_was_there_before_does_not_count_however_it_is_used():
    old, other = kib(), kib()
    with LiveMemory() as memory:
        old.mul_(2)
        assert memory.live_bytes == 0
        new = other[:10] + old[:10]
        assert memory.live_bytes == 4 * new.numel()


def test_peak_is_of_tensors_that_live_at_once():
    with LiveMemory() as memory:
        for _ in range(5):
            kib()
        assert memory.peak_bytes == KIB
        _both = kib(), kib()
        assert memory.peak_bytes == 2 * KIB


def test_what_an_operation_writes_into_counts_in_its_new_size():
    with LiveMemory() as memory:
        out = torch.empty(0)
        torch.add(kib(), 1, out=out)
        assert memory.live_bytes == KIB


def test_graph_keeps_what_backward_needs_and_gradients_count():
    weight = torch.randn(16, 16, requires_grad=True)  # 1 KiB
    with LiveMemory() as memory:
        x = torch.ones(16, 16)
        loss = (x @ weight).exp().sum()
        # x for the weight's gradient, the result of exp for its own; not the product, which neither needs.
        assert memory.live_bytes == 2 * KIB + 4
        loss.backward()
        del loss, x
        assert memory.live_bytes == KIB
        weight.grad = None
        assert memory.live_bytes == 0


def test_training_step_that_keeps_all_time_steps_grows_with_them():
    net = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 1))

    def peak(time_steps: int) -> int:
        x = torch.randn(time_steps, 32, 8)
        with LiveMemory() as memory:
            net(x).sum().backward()
            net.zero_grad()
        return memory.peak_bytes

    assert 3 < peak(40) / peak(10) < 4.2
