"""On sharded arrays, JAX's devices send each other sums and maxima, and never what is as large as an array."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

pytest.importorskip("jax", reason="jax is not installed")

ROWS, CLASSES, DEVICES = 4, 8192, 8

# In a process of its own, because the number of devices is settled when JAX starts. It prints, for each program, what
# its devices send, as [operation, elements], and how far it is from the truth, in units of what is allowed.
PROGRAM = """
import json, math, re, sys
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
import anysoft

ROWS, CLASSES = map(int, sys.argv[1:])
rng = np.random.default_rng(0)
logits = 5 * rng.normal(size=(ROWS, CLASSES)).astype("float32")
targets = rng.random((ROWS, CLASSES)).astype("float32")
targets /= targets.sum(1, keepdims=True)
labels = np.array([0, 1023, 1024, CLASSES - 1], dtype="int32")
weight = rng.normal(size=(ROWS, CLASSES)).astype("float32")

SENT = r"= (\\(.*?\\)|\\S+) (all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)(?:-start)?\\("

def sent(program):
    text = program.as_text()
    assert "num_partitions=8" in text
    found = []
    for shapes, operation in re.findall(SENT, text):
        for shape in re.findall(r"\\w+\\[([\\d,]*)\\]", shapes):
            found.append([operation, math.prod(map(int, filter(None, shape.split(","))))])
    return found

def weighted(function):  # a scalar whose derivative is of the size of the function's
    return lambda x, *more: jnp.sum(function(x, *more) * weight)

lse = lambda x: anysoft.logsumexp(x, axis=-1)
everything = lambda x, y: anysoft.cross_entropy(x, y, label_smoothing=0.1, z_loss=1e-3, ignore_index=1023)
x, w = logits.astype("float64"), weight.astype("float64")
p, one_hot = anysoft.softmax(x), np.arange(CLASSES) == labels[:, None]
# each with what NumPy, or the derivative written out, has in float64
PROGRAMS = {
    "logsumexp": (lse, (), lse(x)),
    "softmax": (anysoft.softmax, (), p),
    "log_softmax": (anysoft.log_softmax, (), anysoft.log_softmax(x)),
    "cross_entropy of labels": (anysoft.cross_entropy, (labels,), anysoft.cross_entropy(x, labels)),
    "cross_entropy of probabilities": (anysoft.cross_entropy, (targets,), anysoft.cross_entropy(x, targets)),
    "cross_entropy with options": (everything, (labels,), everything(x, labels)),
    "gradient of logsumexp": (jax.grad(lambda x: jnp.sum(lse(x))), (), p),
    "gradient of softmax": (jax.grad(weighted(anysoft.softmax)), (), p * (w - (w * p).sum(1, keepdims=True))),
    "gradient of log_softmax": (jax.grad(weighted(anysoft.log_softmax)), (), w - p * w.sum(1, keepdims=True)),
    "gradient of cross_entropy of labels": (jax.grad(anysoft.cross_entropy), (labels,), (p - one_hot) / ROWS),
    "gradient of cross_entropy of probabilities": (jax.grad(anysoft.cross_entropy), (targets,), (p - targets) / ROWS),
}
# what a sum of halves would be, to show that the pattern finds what is sent
halved = lambda x: jnp.sum(x[:, : CLASSES // 2] + x[:, CLASSES // 2 :], axis=1)

auto = jax.make_mesh((8,), ("classes",), axis_types=(AxisType.Auto,))
explicit = jax.make_mesh((2, 4), ("rows", "classes"), axis_types=(AxisType.Explicit,) * 2)
MESHES = {
    "auto": NamedSharding(auto, PartitionSpec(None, "classes")),
    "explicit": NamedSharding(explicit, PartitionSpec("rows", "classes")),
}
whole, shards = PartitionSpec(), PartitionSpec(None, "classes")

def by_hand(function, out):  # the state of each shard, and its two collectives
    def of_shard(x):
        state = anysoft.LogSumExp.from_array(x, axis=1, keepdims=True)
        return function(x, state.all_reduce(lambda a: jax.lax.pmax(a, "classes"), lambda a: jax.lax.psum(a, "classes")))
    return jax.shard_map(of_shard, mesh=auto, in_specs=shards, out_specs=out)

lse_by_hand = by_hand(lambda x, state: state.value()[:, 0], whole)
PROGRAMS["logsumexp by shard_map"] = (lse_by_hand, (), lse(x))
PROGRAMS["softmax by shard_map"] = (by_hand(lambda x, state: state.softmax_weights(x), shards), (), p)
PROGRAMS["gradient of logsumexp by shard_map"] = (jax.grad(lambda x: jnp.sum(lse_by_hand(x))), (), p)
EXPLICIT = ("softmax", "cross_entropy of labels", "gradient of cross_entropy of labels")
programs = [(name, "auto", *program) for name, program in PROGRAMS.items()]
programs += [(name, "explicit", *PROGRAMS[name]) for name in EXPLICIT]
programs += [("halved", "auto", halved, (), logits.sum(1, dtype="float64"))]
found = {}
for name, mesh, function, more, truth in programs:
    sharding = MESHES[mesh]
    x, *more = (jax.device_put(a, sharding) if a.ndim == 2 else a for a in (logits, *more))
    program = jax.jit(function).lower(x, *more).compile()
    value = program(x, *more)
    allowed = 6e-6 * np.abs(truth) + 1e-7 * np.max(np.abs(truth))
    error = np.max(np.abs(np.asarray(value, "float64") - truth) / allowed)
    kept = value.shape != x.shape or value.sharding.is_equivalent_to(sharding, 2)
    found[f"{name}, {mesh}"] = {"sent": sent(program), "error": error, "kept": kept}
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def programs() -> Any:
    """What each program sends and answers on eight devices."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM, str(ROWS), str(CLASSES)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={DEVICES}",
        },
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_sharded_rows_send_sums_and_maxima_only(programs: Any) -> None:
    programs = dict(programs)
    halved = programs.pop("halved, auto")
    assert any(operation == "collective-permute" and size >= CLASSES // 2 for operation, size in halved["sent"])
    assert len(programs) == 17
    for name, program in programs.items():
        assert program["sent"], name
        assert {operation for operation, _ in program["sent"]} == {"all-reduce"}, name
        assert max(size for _, size in program["sent"]) <= 3 * ROWS, name  # a state has three words


def test_sharded_rows_have_the_same_values(programs: Any) -> None:
    for name, program in programs.items():
        assert program["error"] <= 1, name


def test_results_stay_sharded(programs: Any) -> None:
    assert all(program["kept"] for program in programs.values())
