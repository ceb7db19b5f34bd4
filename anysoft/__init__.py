"""The numerically stable softmax family for every array framework, written once against the array API standard."""

from anysoft import decoding
from anysoft.attention import attention
from anysoft.boltzmann import (
    boltzmann,
    free_energy,
    gibbs_entropy,
    heat_capacity,
    log_partition,
    mean_energy,
)
from anysoft.conditioning import condition_number, error_bound
from anysoft.entropy import entropy, js_divergence, kl_divergence
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
from anysoft.online import LogSumExp
from anysoft.registry import Backend, FastPath, explain, options, register_backend, register_fast_path
from anysoft.sampling import categorical, gumbel, gumbel_softmax, gumbel_top_k
from anysoft.softmax import log_softmax, softmax, softmin
from anysoft.sparse import entmax, sparsemax

__version__ = "0.1.0"

__all__ = [
    "Backend",
    "FastPath",
    "LogSumExp",
    "attention",
    "binary_cross_entropy",
    "boltzmann",
    "categorical",
    "categorical_log_prob",
    "condition_number",
    "cross_entropy",
    "decoding",
    "entmax",
    "entropy",
    "error_bound",
    "explain",
    "free_energy",
    "gibbs_entropy",
    "gumbel",
    "gumbel_softmax",
    "gumbel_top_k",
    "heat_capacity",
    "js_divergence",
    "kl_divergence",
    "log1mexp",
    "log1pexp",
    "log_partition",
    "log_sigmoid",
    "log_softmax",
    "logaddexp",
    "logcumsumexp",
    "logexpm1",
    "logit",
    "logmeanexp",
    "logsubexp",
    "logsumexp",
    "mean_energy",
    "options",
    "register_backend",
    "register_fast_path",
    "sigmoid",
    "softmax",
    "softmin",
    "softplus",
    "sparsemax",
]
