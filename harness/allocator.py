"""Lets a process that trains on the CPU keep the memory that it frees, instead of returning it to the system.

torch frees an activation as soon as it can, and glibc returns blocks of that size to the system at once. The next step
is then given pages that the system has to clear and map anew, which costs more than the arithmetic done on them.
"""

import ctypes

# Parameters of mallopt(3), from glibc's malloc.h; -1 is "never" for the threshold.
TRIM_THRESHOLD, MMAP_MAX, ARENA_MAX = -1, -4, -8


def keep_memory() -> bool:
    """Keep freed memory for what comes next; False where the C library is another than glibc and nothing changes.

    All threads share one arena, because only the first can grow to any size.
    """
    library = _glibc()
    return library is not None and all(
        library.mallopt(parameter, value) for parameter, value in ((ARENA_MAX, 1), (MMAP_MAX, 0), (TRIM_THRESHOLD, -1))
    )


def give_back() -> None:
    """Return all memory that is free now, so that what the process holds is what it needs."""
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") else None
