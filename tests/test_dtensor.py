"""On a DTensor, ranks send each other sums and maxima, and never what is as large as a shard."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
if not torch.distributed.is_available():
    pytest.skip("this PyTorch is built without torch.distributed", allow_module_level=True)

ROWS, CLASSES, RANKS = 4, 1000, 2

# Started once for each rank. The first prints, for each call, what it sends, as [operation, elements], and how far
# value and gradient are from those of plain tensors.
PROGRAM = """
import json, math, sys
import torch
import torch.distributed as dist
from torch.distributed.tensor import Replicate, Shard, distribute_tensor, init_device_mesh
from torch.utils._python_dispatch import TorchDispatchMode
import anysoft

rank, store, ROWS, CLASSES = int(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:])
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
mesh = init_device_mesh("cpu", (2,))


class Sent(TorchDispatchMode):
    # what CommDebugMode counts, with sizes
    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if any(kind.__name__ == "DTensor" for kind in types):
            return NotImplemented  # until it is taken apart
        name = str(function)
        if "c10d" in name and not any(each in name for each in ("wait_tensor", "_wrap_tensor_autograd")):
            sizes = [each.numel() for each in args if isinstance(each, torch.Tensor)]
            self.found.append([name.split(".")[1], max(sizes, default=math.inf)])
        return function(*args, **(kwargs or {}))


torch.manual_seed(0)
logits = 5 * torch.randn(ROWS, CLASSES)
labels = torch.tensor([0, CLASSES // 2 - 1, CLASSES // 2, CLASSES - 1])
targets, weight = torch.softmax(torch.randn(ROWS, CLASSES), -1), torch.randn(ROWS, CLASSES)
kept, weights = torch.rand(CLASSES) > 0.3, torch.rand(CLASSES)
CALLS = {
    "logsumexp": (lambda x: anysoft.logsumexp(x, axis=-1), ()),
    "logsumexp of all": (anysoft.logsumexp, ()),
    "logsumexp with options": (lambda x, b: anysoft.logsumexp(x, axis=-1, where=kept, b=b.abs()), (weight,)),
    "softmax": (anysoft.softmax, ()),
    "log_softmax": (anysoft.log_softmax, ()),
    "log_softmax with options": (lambda x: anysoft.log_softmax(x, where=kept, temperature=0.7), ()),
    "cross_entropy of labels": (lambda x: anysoft.cross_entropy(x, labels), ()),
    "cross_entropy of probabilities": (anysoft.cross_entropy, (targets,)),
    "cross_entropy with options": (
        lambda x: anysoft.cross_entropy(x, labels, weights=weights, label_smoothing=0.1, z_loss=1e-3, ignore_index=0),
        (),
    ),
    "entropy": (anysoft.entropy, ()),
}


def distance(found, truth):
    found = found.full_tensor()
    if not torch.equal(torch.isfinite(found), finite := torch.isfinite(truth)):
        return math.inf
    found, truth = found[finite], truth[finite]
    return float(((found - truth).abs() / (6e-6 * truth.abs() + 1e-7 * truth.abs().max())).max())


def asked(name, function, more, shard=1, x=logits):
    plain = x.clone().requires_grad_()
    with anysoft.options(path="generic"):
        truth = function(plain, *more)
    reduced = truth.shape != x.shape
    above = torch.ones_like(truth) if reduced else weight
    (slope,) = torch.autograd.grad(truth, plain, above)
    truth = truth.detach()
    x, *more = (distribute_tensor(each, mesh, [Shard(shard)]) for each in (x, *more))
    above = distribute_tensor(above, mesh, [Replicate() if reduced else Shard(shard)])
    x.requires_grad_()
    with Sent() as sent:
        value = function(x, *more)
        (gradient,) = torch.autograd.grad(value, x, above)
    return {
        "sent": sent.found,
        "errors": [distance(value, truth), distance(gradient, slope)],
        "kept": gradient.placements == x.placements and (value.shape != x.shape or value.placements == x.placements),
    }


found = {name: asked(name, *call) for name, call in CALLS.items()}
uneven = logits[:, : CLASSES - 1].contiguous()
found["logsumexp, uneven"] = asked("logsumexp", *CALLS["logsumexp"], x=uneven)
found["softmax, batch"] = asked("softmax", *CALLS["softmax"], shard=0)

# the state of each shard, by the collectives of torch.distributed
def reduced(operation):
    def collective(a):
        a = a.clone()
        dist.all_reduce(a, operation)
        return a
    return collective


shard = logits.chunk(2, dim=1)[rank]
state = anysoft.LogSumExp.from_array(shard, axis=1, keepdims=True)
state = state.all_reduce(reduced(dist.ReduceOp.MAX), reduced(dist.ReduceOp.SUM))
whole = anysoft.LogSumExp.from_array(logits, axis=1, keepdims=True)
errors = [
    (state.value() - whole.value()).abs().max(),
    (state.softmax_weights(shard) - whole.softmax_weights(shard)).abs().max(),
]

# torch's own, to show that the trace sees a gather
with Sent() as sent:
    torch.logsumexp(distribute_tensor(logits, mesh, [Shard(1)]), -1)
native = sent.found
if rank == 0:
    print(json.dumps({"calls": found, "native": native, "state": max(map(float, errors))}))
dist.barrier()
dist.destroy_process_group()
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What each call sends and answers on two ranks."""
    arguments = [str(tmp_path_factory.mktemp("ranks") / "store"), str(ROWS), str(CLASSES)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(rank), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for rank in range(RANKS)
    ]
    try:
        said = [rank.communicate(timeout=120) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0] * RANKS, said
    return json.loads(said[0][0])


def test_a_sharded_axis_sends_sums_and_maxima_only(found: Any) -> None:
    assert any("gather" in operation and size >= ROWS * CLASSES // RANKS for operation, size in found["native"])
    assert len(found["calls"]) == 12
    for name, call in found["calls"].items():
        assert {operation for operation, _ in call["sent"]} == (set() if "batch" in name else {"all_reduce"}), name
        assert all(size <= ROWS for _, size in call["sent"]), name


def test_values_and_gradients_are_those_of_plain_tensors(found: Any) -> None:
    for name, call in found["calls"].items():
        assert max(call["errors"]) <= 1, name


def test_a_state_of_each_shard_by_torchs_collectives(found: Any) -> None:
    assert found["state"] <= 2e-6


def test_results_and_gradients_stay_sharded(found: Any) -> None:
    assert all(call["kept"] for call in found["calls"].values())
