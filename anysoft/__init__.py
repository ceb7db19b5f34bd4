"""The numerically stable softmax family for every array framework, written once against the array API standard."""

from anysoft.logcumsumexp import logcumsumexp
from anysoft.logspace import (
    log1mexp,
    log1pexp,
    log_sigmoid,
    logaddexp,
    logexpm1,
    logit,
    logsubexp,
    sigmoid,
    softplus,
)
from anysoft.logsumexp import logmeanexp, logsumexp
from anysoft.losses import binary_cross_entropy, categorical_log_prob, cross_entropy
from anysoft.registry import Backend, FastPath, explain, options, register_backend, register_fast_path
from anysoft.softmax import log_softmax, softmax

__version__ = "0.1.0"

__all__ = [
    "Backend",
    "FastPath",
    "binary_cross_entropy",
    "categorical_log_prob",
    "cross_entropy",
    "explain",
    "log1mexp",
    "log1pexp",
    "log_sigmoid",
    "log_softmax",
    "logaddexp",
    "logcumsumexp",
    "logexpm1",
    "logit",
    "logmeanexp",
    "logsubexp",
    "logsumexp",
    "options",
    "register_backend",
    "register_fast_path",
    "sigmoid",
    "softmax",
    "softplus",
]
