"""One billion logits on two workers of Dask: logsumexp beside a single max and the plain two-pass form.

pip install 'dask[array,distributed]'
python benchmarks/dask_scale.py --elements 1e9

Each line is the best of some runs taken in turn: seconds, and those of the workers' processors, which other work on the
machine disturbs less, each as a multiple of max too; and the most memory that both workers together held.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import dask.array
import distributed
import psutil

import anysoft

# half of both has no types
da: Any = dask.array
Client: Any = distributed.Client
LocalCluster: Any = distributed.LocalCluster


def plain(x: Any) -> Any:
    """The textbook's, in one graph: its second pass wants the chunks of the first again."""
    m = x.max()
    return da.log(da.exp(x - m).sum(dtype="float64")) + m


def plain_twice(x: Any) -> Any:
    """The textbook's, in two graphs: the chunks are made twice."""
    m = x.max().compute()
    return da.log(da.exp(x - m).sum(dtype="float64")) + m


FORMS: dict[str, Callable[[Any], Any]] = {
    "max": lambda x: x.max(),
    "anysoft.logsumexp": anysoft.logsumexp,
    "plain, one graph": plain,
    "plain, two graphs": plain_twice,
}


def processor_time(pids: list[int]) -> float:
    """What the processes have computed so far, in seconds."""
    return float(sum(sum(psutil.Process(pid).cpu_times()[:2]) for pid in pids))


@contextmanager
def peak_memory(pids: list[int]) -> Iterator[list[int]]:
    """The most that the processes hold at once, in bytes."""
    processes, peak, done = [psutil.Process(pid) for pid in pids], [0], threading.Event()

    def look() -> None:
        while not done.wait(0.02):
            peak[0] = max(peak[0], sum(each.memory_info().rss for each in processes))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


def main() -> None:
    """Run, and print the table."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--elements", type=float, default=1e9)
    options.add_argument("--chunk", type=float, default=2e6)
    options.add_argument("--rounds", type=int, default=2)
    given = options.parse_args()
    n, chunk = int(given.elements), int(given.chunk)
    best: dict[str, list[float]] = {}
    with (
        dask.config.set({"distributed.worker.memory.spill": False, "distributed.worker.memory.target": False}),
        LocalCluster(n_workers=2, threads_per_worker=1, memory_limit="8GB", dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        client.run(importlib.import_module, "anysoft_backends._dask")
        pids = [each.process.pid for each in cluster.workers.values()]
        with peak_memory(pids) as idle:
            time.sleep(0.5)
        print(f"{n:.0e} float32 in chunks of {chunk:.0e}; both workers idle: {idle[0] / 1e6:.0f} MB")
        for _ in range(given.rounds):
            for name, form in FORMS.items():
                x = da.random.default_rng(0).standard_normal(n, chunks=chunk).astype("float32")
                client.run(gc.collect)
                with peak_memory(pids) as peak:
                    start, busy = time.perf_counter(), processor_time(pids)
                    value = float(form(x).compute())
                    found = [time.perf_counter() - start, processor_time(pids) - busy, peak[0] / 1e6]
                wall, cpu, memory = best.setdefault(name, found)
                best[name] = [min(wall, found[0]), min(cpu, found[1]), max(memory, found[2])]
                print(f"  {name}: {value:.9g} in {found[0]:.2f} s", flush=True)
    whole = best["max"]
    for name, (wall, cpu, memory) in best.items():
        times = f"{wall:7.2f} s {wall / whole[0]:5.2f} × max; of processors {cpu:7.2f} s {cpu / whole[1]:5.2f} × max"
        print(f"{name:18} {times}; {memory:6.0f} MB")


if __name__ == "__main__":
    main()
