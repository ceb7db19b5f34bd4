"""The numerically stable softmax family for every array framework, written once against the array API standard."""

from anysoft.logsumexp import logsumexp
from anysoft.registry import Backend, FastPath, explain, options, register_backend, register_fast_path
from anysoft.softmax import log_softmax, softmax

__version__ = "0.1.0"

__all__ = [
    "Backend",
    "FastPath",
    "explain",
    "log_softmax",
    "logsumexp",
    "options",
    "register_backend",
    "register_fast_path",
    "softmax",
]
