from typing import Any

Operand = Any  # an object with a buffer, or an address; 0 is an array that is not there
Shape = tuple[int, ...]

INSTRUCTION_SETS: tuple[str, ...]

def use(instruction_set: str, /) -> None: ...
def logsumexp(
    itemsize: int, x: Operand, g: Operand, out: Operand, rows: Operand, shape: Shape, axis: int | None, threads: int, /
) -> None: ...
def softmax(
    itemsize: int, x: Operand, g: Operand, out: Operand, rows: Operand, shape: Shape, axis: int | None, threads: int, /
) -> None: ...
def log_softmax(
    itemsize: int, x: Operand, g: Operand, out: Operand, rows: Operand, shape: Shape, axis: int | None, threads: int, /
) -> None: ...
def logsumexp_derivative(
    itemsize: int, x: Operand, g: Operand, out: Operand, rows: Operand, shape: Shape, axis: int | None, threads: int, /
) -> None: ...
def softmax_derivative(
    itemsize: int, x: Operand, g: Operand, out: Operand, rows: Operand, shape: Shape, axis: int | None, threads: int, /
) -> None: ...
def log_softmax_derivative(
    itemsize: int, x: Operand, g: Operand, out: Operand, rows: Operand, shape: Shape, axis: int | None, threads: int, /
) -> None: ...
