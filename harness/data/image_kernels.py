"""What is done to images when they are read, compiled: whole batches, image by image in as many threads as numba has.

Compiled once and then kept on disk. The C functions are FFCV's and those of the library that it reads JPEG with; they
are called by name, which needs `ffcv_compat.load()` before.
"""

import numba
import numpy as np
from numba import types

RGB, ACCURATE_DCT = 0, 4096
"""Of libjpeg-turbo: the order of colours, and the cosine transform that Pillow and OpenCV decode with, too."""

pointer = types.intp
tj_open = types.ExternalFunction("tjInitDecompress", pointer())
tj_close = types.ExternalFunction("tjDestroy", types.int32(pointer))
tj_decompress = types.ExternalFunction(
    "tjDecompress2",
    types.int32(
        pointer, pointer, types.uint64, pointer, types.int32, types.int32, types.int32, types.int32, types.int32
    ),
)
area_resize = types.ExternalFunction("resize", types.void(*[types.int64] * 11))


@numba.njit(cache=True, nogil=True, parallel=True)
def copy(data: np.ndarray, starts: np.ndarray, out: np.ndarray) -> None:
    """Copy the bytes from each of `starts` (B,) on into the rows of `out` (B, N)."""
    size = out.shape[1]
    for b in numba.prange(len(starts)):
        out[b] = data[starts[b] : starts[b] + size]


@numba.njit(cache=True, nogil=True)
def _cut(data, start, size, is_jpeg, height, width, part, decoded, out) -> bool:
    """Decode one image if need be and resize `part` of it, as OpenCV's INTER_AREA does, into out (H, W, 3)."""
    pixels = data.ctypes.data + start
    if is_jpeg:
        reader = tj_open()
        failed = tj_decompress(
            reader, pixels, np.uint64(size), decoded.ctypes.data, np.int32(width), np.int32(0), np.int32(height),
            np.int32(RGB), np.int32(ACCURATE_DCT),
        )  # fmt: skip
        tj_close(reader)
        if failed:
            return False
        pixels = decoded.ctypes.data
    top, left = part[0], part[1]
    area_resize(
        0, pixels, height, width, top, top + part[2], left, left + part[3], out.ctypes.data, out.shape[0], out.shape[1]
    )
    return True


@numba.njit(cache=True, nogil=True, parallel=True)
def cut(data, starts, sizes, jpeg, shapes, parts, decoded, out, good) -> None:
    """Parts of whole images (B,) as uint8 into out (B, H, W, 3); good (B,) is set where an image could be decoded.

    `jpeg` (B,) says how an image is stored, `shapes` (B, 2) how large it is, `parts` (B, 4) which part of it is looked
    at (see `crops`). `decoded` (threads, N) has room for the largest image.
    """
    for b in numba.prange(len(starts)):
        room = decoded[numba.get_thread_id()]
        good[b] = _cut(data, starts[b], sizes[b], jpeg[b], shapes[b, 0], shapes[b, 1], parts[b], room, out[b])


@numba.njit(cache=True, nogil=True, parallel=True)
def cut_and_finish(
    data, starts, sizes, jpeg, shapes, parts, decoded, flips, holes, side, scale, shift, small, out, good
) -> None:
    """As `cut`, then mirrored, normalised into float32 out (B, H, W, 3), and with a square set to zero.

    `flips` (B,) says which are mirrored; `holes` (B, 2) are row and column at the centres of squares of `side` pixels,
    0: none. `scale` and `shift` are for the numbers of a row of pixels (W * 3,); `small` (threads, H + 1, W, 3) has
    room for what `cut` makes, and a row.
    """
    height, width = out.shape[1:3]
    for b in numba.prange(len(starts)):
        me = numba.get_thread_id()
        made, row = small[me, :height], small[me, height]
        good[b] = _cut(data, starts[b], sizes[b], jpeg[b], shapes[b, 0], shapes[b, 1], parts[b], decoded[me], made)
        for r in range(height):
            if flips[b]:
                for c in range(width):
                    row[c] = made[r, width - 1 - c]
                _normalise(row.reshape(-1), scale, shift, out[b, r].reshape(-1))
            else:
                _normalise(made[r].reshape(-1), scale, shift, out[b, r].reshape(-1))
        top, left = holes[b, 0] - side // 2, holes[b, 1] - side // 2
        out[b, max(top, 0) : max(top + side, 0), max(left, 0) : max(left + side, 0)] = 0


@numba.njit(cache=True, nogil=True)
def _normalise(row, scale, shift, out) -> None:
    for i in range(len(row)):
        out[i] = np.float32(row[i]) * scale[i] + shift[i]
