"""3x3 convolutions with 2.25 times fewer multiplications: F(2x2, 3x3) of Lavin & Gray, CVPR 2016 (arXiv:1509.09308).

Along one dimension, two neighbouring outputs y of a filter g over four inputs d cost four products instead of six:

    m = (G g) * (B^T d),   y = A^T m

         | 1   0   0 |           | 1  0 -1  0 |
    G  = |.5  .5  .5 |     B^T = | 0  1  1  0 |     A^T = | 1  1  1  0 |
         |.5 -.5  .5 |           | 0 -1  1  0 |           | 0  1 -1 -1 |
         | 0   0   1 |           | 0  1  0 -1 |

Over an image that is done in both dimensions, and the sum over input channels is a matrix product for each of the 16
places. Spikes of one size go through B^T without rounding. Faster than a direct convolution on CPUs where channels are
many; the transforms are paid for each pixel and channel, so not where they are few.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

FEWEST_CHANNELS, FEWEST_PIXELS = 256, 1024
"""Below, the transforms of images or that of the filters cost more than the products that they save."""


def pays(weight: Tensor, shape: torch.Size, num_rows: int) -> bool:
    """Whether so many rows (C, H, W) of `shape` (B, C, H, W), padded by 1, are convolved faster this way; on CPUs."""
    if _get_current_dispatch_mode() is not None:
        return False  # somebody counts operations, which are those of a convolution however it is computed
    if weight.device.type != "cpu" or weight.shape[2:] != (3, 3) or torch.is_autocast_enabled("cpu"):
        return False
    height, width = shape[2:]
    many = min(weight.shape[:2]) >= FEWEST_CHANNELS and num_rows * height * width >= FEWEST_PIXELS
    return many and height % 2 == 0 and width % 2 == 0


def convolution(weight: Tensor, bias: Tensor | None) -> Callable[[Tensor], Tensor]:
    """The convolution of rows (B, C, H, W) by weight (D, C, 3, 3), padded by 1, for even H and W."""
    g = weight.new_tensor([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
    filters = torch.einsum("ai,bj,dcij->abcd", g, g, weight).flatten(0, 1).contiguous()  # 16 C D

    def convolve(rows: Tensor) -> Tensor:
        size, channels, height, width = rows.shape
        tiles = (size, height // 2, width // 2)
        padded = F.pad(rows, (1, 1, 1, 1)).permute(0, 2, 3, 1)
        inputs = rows.new_empty(4, 4, *tiles, channels)
        for i, (combine, a, b) in enumerate(_combinations(padded, 1)):
            for j, (combine_again, c, d) in enumerate(_combinations(combine(a, b), 2)):
                combine_again(c, d, out=inputs[i, j])
        products = torch.bmm(inputs.view(16, -1, channels), filters).view(4, 4, *tiles, -1)
        out = rows.new_empty(size, height, width, len(weight))
        rows_of_two = (products[0] + products[1]).add_(products[2]), (products[1] - products[2]).sub_(products[3])
        for i, m in enumerate(rows_of_two):
            torch.add(m[0], m[1], out=out[:, i::2, 0::2]).add_(m[2])
            torch.sub(m[1], m[2], out=out[:, i::2, 1::2]).sub_(m[3])
        if bias is not None:
            out += bias
        return out.permute(0, 3, 1, 2)

    return convolve


def _combinations(x: Tensor, dim: int) -> list[tuple[Callable[..., Tensor], Tensor, Tensor]]:
    """B^T along a dimension, for four inputs from every second place on: the function of two of them in each row."""
    outputs = x.shape[dim] - 2
    first, second, third, fourth = (x[(slice(None),) * dim + (slice(k, k + outputs, 2),)] for k in range(4))
    return [
        (torch.sub, first, third),
        (torch.add, second, third),
        (torch.sub, third, second),
        (torch.sub, second, fourth),
    ]
