"""An affine layer in autograd's graph of rates, where nobody needs its values: what `Streams.links` is made of."""

from typing import Any

import torch
from torch import Tensor

from harness.models.linear_maps import LinearMap


class Link(torch.autograd.Function):
    """An affine layer on rates with its gradients, but without its values.

    The gradient of the weighted output goes on to the weighted input, that of the plain output into weight and bias.
    """

    @staticmethod
    def forward(
        ctx: Any, weighted: Tensor, plain: Tensor | None, weight: Tensor, bias: Tensor | None, op: LinearMap,
        shape: torch.Size,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        ctx.save_for_backward(weighted if plain is None else plain, weight)
        ctx.op, ctx.biased = op, bias is not None
        ctx.two = plain is not None
        kind = weight.device.type
        ctx.dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
        blank = weight.new_zeros(())
        return blank.expand(shape), blank.clone().expand(shape) if ctx.two else None

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        rate, weight = ctx.saved_tensors
        g_w, g_u = (None if g is None else g.to(ctx.dtype) for g in gradients)
        g_u = g_u if ctx.two else g_w
        cast = weight.to(ctx.dtype)

        def below(wanted: bool, gradient: Tensor | None) -> Tensor | None:
            if not wanted or gradient is None:
                return None
            return ctx.op.rows_gradient(rate.shape, cast, gradient).to(rate.dtype)

        d_weighted, d_plain = below(ctx.needs_input_grad[0], g_w), below(ctx.needs_input_grad[1], g_u)
        if g_u is None:
            return d_weighted, d_plain, None, None, None, None
        d_weight = ctx.op.weight_gradient(rate.to(ctx.dtype), cast, g_u).to(weight.dtype)
        d_bias = g_u.sum([0, *range(2, g_u.dim())]).to(weight.dtype) if ctx.biased else None
        return d_weighted, d_plain, d_weight, d_bias, None, None
