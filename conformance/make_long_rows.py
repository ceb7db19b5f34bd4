"""Compute the truths of rows so long that it takes minutes: what ``anysoft_conformance/data/long_rows.json`` holds.

Run ``python conformance/make_long_rows.py`` with the conformance extra installed.
"""

from __future__ import annotations

import json
import platform
from pathlib import Path

import numpy as np
from anysoft_conformance import long_rows, oracle

TARGET = Path(__file__).parent / "anysoft_conformance" / "data" / "long_rows.json"
# the first is short enough to be computed again in every run of the tests
LENGTHS = (20_000, 1_000_000, 10_000_000)
DIGITS = 60


def log_rest(row: np.ndarray) -> str:
    """log Σ exp(x − max), to 60 digits; doubling the bits changes none of them."""
    with oracle.precision(2 * oracle.BITS):
        total = oracle.row(row - row.max(), at=())[0]  # exact: float32 numbers less a float32 number
        return format(total, f".{DIGITS}e") if oracle.FAST else str(oracle.library.nstr(total, DIGITS))


def main() -> None:
    """Write the file."""
    rows = {}
    for length in LENGTHS:
        row = long_rows.normal(length)
        rows[long_rows.digest(row)] = {"row": "normal", "length": length, "log_rest": log_rest(row)}
        print(f"{length:,} done")
    provenance = {
        "what": "log Σ exp(x − max x) of the rows of anysoft_conformance.long_rows, by the SHA-256 of their float64",
        "made_by": "conformance/make_long_rows.py",
        "with": f"{oracle.NAME}, {2 * oracle.BITS} bits; NumPy {np.__version__}, Python {platform.python_version()}",
    }
    TARGET.write_text(json.dumps({**provenance, "rows": rows}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
