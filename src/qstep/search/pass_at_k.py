"""pass@k: the chance that at least one of k samples is right."""

from __future__ import annotations


def pass_at_k(n_samples: int, n_correct: int, k: int) -> float:
    """The unbiased estimate `1 - C(n-c, k) / C(n, k)` from n samples of which c are right.

    See "Evaluating Large Language Models Trained on Code" (arXiv 2107.03374, Eq. 1). The ratio is computed as the
    product of `1 - k/i` for i in n-c+1..n, so no binomial overflows. Raises ValueError unless 0 <= c <= n and
    1 <= k <= n.
    """
    import numpy as np  # not above, because the help of `qstep search` imports this package

    if not 0 <= n_correct <= n_samples:
        raise ValueError(f"n_correct must be within 0..{n_samples}, got {n_correct}")
    if not 1 <= k <= n_samples:
        raise ValueError(f"pass@{k} needs 1 <= k <= n_samples, and n_samples is {n_samples}")
    n_wrong = n_samples - n_correct
    if n_wrong < k:
        return 1.0
    return float(1 - np.prod(1 - k / np.arange(n_wrong + 1, n_samples + 1)))
