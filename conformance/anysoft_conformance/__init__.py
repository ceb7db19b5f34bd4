"""The conformance suite of anysoft: the oracle, the corpus, the judgement, and the command line.

``from anysoft_conformance import judge`` holds any implementation of the family to anysoft's contract.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anysoft_conformance.judgement import Judgement, Verdict, judge

__all__ = ["Judgement", "Verdict", "judge"]


def __getattr__(name: str) -> Any:
    # read when asked for: pytest imports this package in every run of an environment that has it
    if name in __all__:
        from anysoft_conformance import judgement

        return getattr(judgement, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
