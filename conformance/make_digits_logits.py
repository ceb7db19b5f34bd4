"""Make the real logits that ship with the package: what a classifier says about the digits of scikit-learn.

Run ``python conformance/make_digits_logits.py`` with NumPy and scikit-learn installed. It writes
``digits_logits.npy`` and ``digits_logits.md`` beside the modules that read them.
"""

from __future__ import annotations

import platform
from pathlib import Path

import numpy as np
import sklearn
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

DATA = Path(__file__).parent / "anysoft_conformance" / "data"

PROVENANCE = """\
# digits_logits.npy

The decision values (logits) of a multinomial logistic regression on the handwritten digits of scikit-learn.

- **Shape and dtype**: {shape}, {dtype}. One row an image, one column a class (0 to 9), in the order of the data set.
- **Model**: `StandardScaler` and `LogisticRegression(C=1.0, max_iter=5000)`. Each image's logits come from a model that
  has not seen it (10 folds, shuffled with seed 0). {accuracy:.1%} of the largest logits are at the right digit.
- **Range**: {low:.1f} to {high:.1f}.
- **Made by** `conformance/make_digits_logits.py` with scikit-learn {sklearn}, NumPy {numpy}, Python {python}. Another
  version, or another linear-algebra library, moves the last digits; nothing depends on them.
- **Data set**: E. Alpaydin and C. Kaynak, *Optical Recognition of Handwritten Digits*, UCI Machine Learning Repository,
  1998, doi:10.24432/C50P49 (CC BY 4.0), of which scikit-learn ships the 1797 images of the test part.
"""


def digits_logits() -> tuple[np.ndarray, float]:
    """The logits, and the share of images at whose digit the largest logit stands."""
    images, digits = load_digits(return_X_y=True)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=5000))
    folds = KFold(n_splits=10, shuffle=True, random_state=0)
    logits = cross_val_predict(model, images, digits, cv=folds, method="decision_function")
    return logits, float(np.mean(np.argmax(logits, axis=-1) == digits))


def main() -> None:
    logits, accuracy = digits_logits()
    DATA.mkdir(exist_ok=True)
    np.save(DATA / "digits_logits.npy", logits)
    text = PROVENANCE.format(
        shape=" × ".join(map(str, logits.shape)),
        dtype=logits.dtype,
        accuracy=accuracy,
        low=logits.min(),
        high=logits.max(),
        sklearn=sklearn.__version__,
        numpy=np.__version__,
        python=platform.python_version(),
    )
    (DATA / "digits_logits.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
