"""The threads that the filter computes on."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any, TypeVar

import threadpoolctl  # type: ignore[import-untyped,unused-ignore]

T = TypeVar("T")
R = TypeVar("R")


@lru_cache(maxsize=1)
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=threads())


def threads() -> int:
    """Cores that the filter uses: ``KITTIWAKE_THREADS``, or all that this process may run on."""
    asked = os.environ.get("KITTIWAKE_THREADS", "")
    return max(1, int(asked)) if asked.isdigit() else len(os.sched_getaffinity(0))


def parallel(work: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """``[work(item) for item in items]`` on the filter's threads; numpy and OpenCV release the interpreter."""
    return list(_pool().map(work, items))


@lru_cache(maxsize=1)
def _blas() -> threadpoolctl.ThreadpoolController:
    return threadpoolctl.ThreadpoolController()


def single_threaded_blas() -> Any:
    """A context in which products use one thread each: the filter's own threads already fill the cores."""
    return _blas().limit(limits=1, user_api="blas")
