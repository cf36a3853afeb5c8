"""Batch norm over the samples of all workers that train a network together, as if their shares were one batch.

Statistics are those of all workers' samples. Each worker's gradient is that of its own mean loss, and gradients of
weights are averaged over workers afterwards; so what goes back through the statistics is summed over workers here, and
what goes into the norm's own weights is not. That is batch norm's gradient on the whole batch (as in
torch.nn.SyncBatchNorm, which needs GPUs).
"""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm as TorchNorm

from harness.models.neurons import at_least_float32


def norms(net: nn.Module) -> list[Any]:
    """The norms of a network that can count all workers' samples: they have the attribute `synced`.

    Raises ValueError for one of torch's own, which would go on counting its worker's only.
    """
    for name, module in net.named_modules():
        if isinstance(module, TorchNorm):
            raise ValueError(f"{name} is torch's {type(module).__name__}; only norms of harness.models see all workers")
    return [module for module in net.modules() if hasattr(module, "synced")]


def summed(own: Tensor) -> Tensor:
    """The sum of all workers' tensors, the same to the bit on every worker."""
    total = own.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total


def pooled(mean: Tensor, variance: Tensor, count: int) -> tuple[Tensor, Tensor, int]:
    """Mean, biased variance (C,) and number of all workers' values, given those of this worker's `count` values."""
    own = torch.cat([mean.double(), variance.double(), mean.new_tensor([count], dtype=torch.float64)])
    rows = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(rows, own)
    found = torch.stack(rows)
    counts = found[:, -1:]
    shares, means, variances = counts / counts.sum(), *found[:, :-1].chunk(2, 1)
    center = (shares * means).sum(0)
    spread = (shares * (variances + (means - center).square())).sum(0)
    return center.to(mean.dtype), spread.to(variance.dtype), round(counts.sum().item())


def moments(rows: Tensor) -> tuple[Tensor, Tensor, int]:
    """Mean, biased variance and number of all workers' values in each channel of rows (B, C, ...); no gradient."""
    with torch.no_grad():
        variance, mean = torch.var_mean(at_least_float32(rows), [0, *range(2, rows.dim())], correction=0)
        return pooled(mean, variance, rows.numel() // rows.shape[1])


def batch_norm(
    rows: Tensor, running_mean: Tensor, running_var: Tensor, weight: Tensor, bias: Tensor, *, momentum: float,
    eps: float,
) -> Tensor:  # fmt: skip
    """torch.nn.functional.batch_norm in training, over all workers' rows (B, C, ...); moves the running statistics."""
    mean, variance, count = moments(rows)
    with torch.no_grad():
        running_mean.lerp_(mean.to(running_mean.dtype), momentum)
        running_var.lerp_((variance * (count / max(count - 1, 1))).to(running_var.dtype), momentum)
    return _BatchNorm.apply(rows, weight, bias, mean, variance, count, eps)


class _BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, count: int, eps: float
    ) -> Tensor:
        inverse_std = (variance + eps).rsqrt()
        ctx.save_for_backward(rows, weight, mean, inverse_std)
        ctx.count = count
        return F.batch_norm(rows, mean, variance, weight, bias, training=False, eps=eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, mean, inverse_std = ctx.saved_tensors
        aligned, over = (1, -1) + (1,) * (rows.dim() - 2), [0, *range(2, rows.dim())]
        g = at_least_float32(gradient)
        x = (at_least_float32(rows) - mean.view(aligned)).mul_(inverse_std.view(aligned))
        d_bias, d_weight = g.sum(over), (g * x).sum(over)
        if not ctx.needs_input_grad[0]:
            return None, d_weight, d_bias, None, None, None, None
        constant, along = (summed(torch.cat([d_bias, d_weight])) / ctx.count).chunk(2)
        d_rows = (g - constant.view(aligned)).addcmul_(x, along.view(aligned), value=-1)
        d_rows.mul_((weight * inverse_std).view(aligned))
        return d_rows.to(rows.dtype), d_weight, d_bias, None, None, None, None


def of_first(own: Tensor) -> Tensor:
    """The first worker's tensor on every worker; where there is one worker, its own."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return own
    shared = own.clone() if dist.get_backend() != "nccl" else own.cuda(non_blocking=False).clone()
    dist.broadcast(shared, 0)
    return shared.to(own.device)
