"""Dask: nothing is computed before it is asked for, no value depends on the chunks, and a worker may die."""

from __future__ import annotations

import functools
import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from anysoft_conformance import rows, suite

import anysoft

pytest.importorskip("dask.array", reason="dask is not installed")
dask: Any = pytest.importorskip("dask")
da: Any = dask.array

RNG = np.random.default_rng(0)
X = 5.0 * RNG.normal(size=(6, 7, 8))
X[0, 0, :4], X[1, 2, 3], X[2, :, 1] = -np.inf, np.inf, np.nan
MASK = RNG.random((6, 1, 8)) > 0.4
B = RNG.normal(size=(7, 8))
Q = RNG.random((6, 7, 8))
LABELS = RNG.integers(0, 8, size=(6, 7))

CHUNKS = [(6, 7, 8), (2, 3, 5), (1, 7, 1), ((1, 5), (4, 3), (0, 8))]
AXES = [None, -1, 0, (0, 2), (0, 1, 2)]

CALLS: dict[str, Callable[..., Any]] = {
    "logsumexp": anysoft.logsumexp,
    "softmax": anysoft.softmax,
    "log_softmax": anysoft.log_softmax,
}
every_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())


def lazily(call: Callable[..., Any], *arrays: Any, chunks: Any = (2, 3, 5), **options: Any) -> Any:
    """The same on arrays of Dask, with a scheduler that refuses to work until the graph is there."""

    def no_scheduler(*_: Any, **__: Any) -> None:
        raise AssertionError("computed before it was asked for")

    def chunked(a: Any) -> Any:
        if not isinstance(a, np.ndarray):
            return a
        return da.from_array(
            a, chunks=tuple(1 if n == 1 else c for n, c in zip(a.shape, chunks[-a.ndim :], strict=True))
        )

    with dask.config.set(scheduler=no_scheduler):
        return call(*map(chunked, arrays), **{name: chunked(a) for name, a in options.items()})


def close(found: Any, truth: Any) -> None:
    assert isinstance(found, da.Array)
    assert found.dtype == truth.dtype
    value = found.compute(scheduler="synchronous")
    assert value.shape == truth.shape == found.shape
    np.testing.assert_allclose(value, truth, rtol=1e-13, atol=0)


@every_call
@pytest.mark.parametrize("axis", AXES, ids=str)
def test_the_chunks_do_not_show(call: Callable[..., Any], axis: Any) -> None:
    for chunks in CHUNKS:
        close(lazily(call, X, axis=axis, chunks=chunks), np.asarray(call(X, axis=axis)))


def test_options_go_chunk_by_chunk() -> None:
    for axis in (-1, (0, 1)):
        for found, truth in (
            (anysoft.logsumexp, {"where": MASK, "keepdims": True}),
            (anysoft.softmax, {"where": MASK}),
            (anysoft.log_softmax, {"where": MASK}),
        ):
            assert anysoft.explain(found.__name__, da.ones((6, 7, 8)), axis, where=da.ones((6, 1, 8), dtype=bool)).path
            close(lazily(found, X, axis=axis, **truth), found(X, axis=axis, **truth))
        value, sign = lazily(anysoft.logsumexp, X, axis=axis, where=MASK, b=B, return_sign=True)
        whole = anysoft.logsumexp(X, axis=axis, where=MASK, b=B, return_sign=True)
        close(sign, whole[1])
        np.testing.assert_allclose(value.compute(scheduler="synchronous"), whole[0], rtol=1e-12)


def test_the_tree_is_taken_and_says_why_not() -> None:
    x = da.ones((4, 4), chunks=2)
    assert anysoft.explain("logsumexp", x).path == "tree of states"
    assert anysoft.explain("softmax", x, where=x > 0).path == "tree of states"
    assert anysoft.explain("logaddexp", x, x).path == "chunk by chunk"
    told = anysoft.explain("softmax", x, temperature=2.0)
    assert (told.path, told.reasons["tree of states"]) == ("generic", "the tree has no temperature")


def test_near_zero_nothing_is_lost_between_chunks() -> None:
    x = da.from_array(np.array([0.0, -40.0]), chunks=1)
    np.testing.assert_array_equal(anysoft.logsumexp(x).compute(), anysoft.logsumexp([0.0, -40.0]))
    np.testing.assert_array_equal(anysoft.log_softmax(x).compute(), anysoft.log_softmax([0.0, -40.0]))


@every_call
def test_unknown_lengths(call: Callable[..., Any]) -> None:
    kept = np.array([True, False, True, True, False, True])
    for axis in AXES:
        x = da.from_array(X, chunks=(2, 3, 5))[da.from_array(kept, chunks=2)]
        found, truth = call(x, axis=axis), np.asarray(call(X[kept], axis=axis))
        np.testing.assert_allclose(found.compute(scheduler="synchronous"), truth, rtol=1e-13)
    mask = da.from_array(MASK, chunks=(2, 1, 5))[da.from_array(kept, chunks=2)]
    found = call(x, axis=-1, where=mask).compute(scheduler="synchronous")
    np.testing.assert_allclose(found, call(X[kept], axis=-1, where=MASK[kept]), rtol=1e-13)


def test_what_needs_a_length_says_so() -> None:
    x = da.from_array(X, chunks=(2, 3, 5))[da.from_array(np.ones(6, dtype=bool), chunks=2)]
    with pytest.raises(NotImplementedError, match=r"sparsemax is not for .* unknown lengths: .*compute_chunk_sizes"):
        anysoft.sparsemax(x, axis=0)
    with pytest.raises(NotImplementedError, match="random numbers of the unknown lengths"):
        anysoft.categorical(x, rng=0)
    with pytest.raises(TypeError, match="rng must be"):
        anysoft.categorical(x, rng=np.random.default_rng(0))


def test_split_every_is_dasks_own_setting() -> None:
    x = da.from_array(RNG.normal(size=4096), chunks=64)
    tasks = {}
    for n in (2, 8):
        with dask.config.set(split_every=n):
            result = anysoft.logsumexp(x)
        tasks[n] = len(result.__dask_graph__())
        np.testing.assert_allclose(result.compute(), anysoft.logsumexp(x.compute()), rtol=1e-15)
    assert tasks[2] > tasks[8]


FAMILY: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    **{name: (getattr(anysoft, name), (-Q,)) for name in ("log1mexp", "log1pexp", "log_sigmoid", "sigmoid", "softmin")},
    **{name: (getattr(anysoft, name), (Q,)) for name in ("logexpm1", "logit", "entropy", "logcumsumexp", "sparsemax")},
    **{
        name: (getattr(anysoft, name), (Q,))
        for name in ("boltzmann", "log_partition", "free_energy", "mean_energy", "gibbs_entropy", "heat_capacity")
    },
    **{name: (getattr(anysoft, name), (Q, B)) for name in ("logaddexp", "kl_divergence", "js_divergence")},
    "logsubexp": (anysoft.logsubexp, (Q + 1.0, Q)),
    "logmeanexp": (lambda x: anysoft.logmeanexp(x, axis=0), (Q,)),
    "entmax": (lambda x: anysoft.entmax(x, 1.3), (Q,)),
    "condition_number": (anysoft.condition_number, (Q,)),
    "error_bound": (anysoft.error_bound, (Q,)),
    "categorical_log_prob": (anysoft.categorical_log_prob, (Q, LABELS)),
    "cross_entropy": (anysoft.cross_entropy, (Q, LABELS)),
    "cross_entropy of probabilities": (lambda x, y: anysoft.cross_entropy(x, y, reduction="none"), (Q, Q)),
    "binary_cross_entropy": (anysoft.binary_cross_entropy, (B, Q[0])),
    "attention": (anysoft.attention, (Q[0, :3], Q[0], Q[0])),
    "top_k": (lambda x: anysoft.decoding.top_k(x, 3), (Q,)),
    "top_p": (lambda x: anysoft.decoding.top_p(x, 0.5), (Q,)),
    "min_p": (lambda x: anysoft.decoding.min_p(x, 0.5), (Q,)),
    "typical": (lambda x: anysoft.decoding.typical(x, 0.5), (Q,)),
    "temperature": (lambda x: anysoft.softmax(x, temperature=0.5), (Q,)),
    "complex": (lambda x: anysoft.logsumexp(x * 1j, axis=0), (Q,)),
}


@pytest.mark.parametrize("name", FAMILY)
def test_the_rest_of_the_family_is_lazy_too(name: str) -> None:
    call, arrays = FAMILY[name]
    close(lazily(call, *arrays), np.asarray(call(*arrays)))


def test_draws_are_lazy_and_from_dasks_generator() -> None:
    x = da.zeros((2000, 4), chunks=(500, 2))
    for rng in (0, da.random.default_rng(0)):
        drawn = lazily(functools.partial(anysoft.categorical, x, rng=rng))
        counts = np.bincount(drawn.compute(scheduler="synchronous"), minlength=4)
        assert abs(counts - 500).max() < 6 * math.sqrt(2000 * 0.25 * 0.75)
    _, index = lazily(lambda: anysoft.gumbel_top_k(x, 2, rng=0))
    index = index.compute(scheduler="synchronous")
    assert index.shape == (2000, 2)
    assert (index[:, 0] != index[:, 1]).all()


def test_the_suite_of_logsumexp() -> None:
    """Dask's rows run by name only (`--backend dask`): this much of them here, where it costs little."""
    here, _ = rows.find(["dask"], dtypes=["float32"])
    verdicts = [check.run() for check in suite.checks(here, ("auto",)) if check.subject.name == "logsumexp"]
    assert len(verdicts) > 100
    assert not [str(verdict) for verdict in verdicts if verdict.outcome == "broken"]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    distributed: Any = pytest.importorskip("distributed", reason="distributed is not installed")
    with (
        dask.config.set({"distributed.admin.log-format": "", "distributed.worker.daemon": True}),
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, memory_limit="500MB", dashboard_address=None, silence_logs=50
        ) as local,
        distributed.Client(local) as client,
    ):
        yield client


def test_two_workers(cluster: Any) -> None:
    x = da.random.default_rng(0).standard_normal((4000, 1000), chunks=(500, 400)).astype("float32")
    value, p, log_p = anysoft.logsumexp(x, axis=-1), anysoft.softmax(x), anysoft.log_softmax(x)
    value, sums, whole = dask.compute(value, p.sum(axis=-1), anysoft.logsumexp(log_p, axis=None))
    assert value.dtype == np.float32
    np.testing.assert_allclose(value, anysoft.logsumexp(x.compute(), axis=-1), rtol=1e-6)
    np.testing.assert_allclose(sums, 1.0, rtol=1e-6)
    assert whole == pytest.approx(math.log(4000), rel=1e-6)


def test_a_worker_that_dies_is_replaced(cluster: Any) -> None:
    def slowly(x: Any) -> Any:
        time.sleep(0.1)
        return x

    x = da.ones(40_000, chunks=1000).map_blocks(slowly, dtype=float)
    future = cluster.compute(anysoft.logsumexp(x))
    while not any(done for done in cluster.run(lambda dask_worker: len(dask_worker.data)).values()):
        time.sleep(0.05)
    os.kill(next(iter(cluster.run(os.getpid).values())), signal.SIGKILL)
    assert not future.done()
    assert future.result(timeout=60) == pytest.approx(1.0 + math.log(40_000), rel=1e-15)
