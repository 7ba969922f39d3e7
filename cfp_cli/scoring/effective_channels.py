"""How many channels of a set vary independently."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray


def effective_channels(norms: NDArray[np.float64]) -> float:
    """Effective rank of a table of standardised norms: how many channels vary independently over the images.

    It is exp of the Shannon entropy of the squared singular values divided by their sum (Roy and Vetterli 2007).
    Constant channels do not contribute.

    Args:
        norms: float64 [N, C].

    Returns:
        A number between 1 and C.
    """
    table = norms - norms.mean(axis=0)
    deviation = table.std(axis=0)
    varying = deviation > 1e-9 * max(float(norms.max()), 1e-300)
    if not varying.any():
        return 1.0
    table /= np.where(varying, deviation, np.inf)
    # The squared singular values are the eigenvalues of the smaller Gram matrix, which are cheaper to compute. Torch
    # uses the chosen number of threads, and NumPy all cores.
    columns = torch.from_numpy(table)
    gram = columns @ columns.T if table.shape[0] < table.shape[1] else columns.T @ columns
    eigenvalues = torch.linalg.eigvalsh(gram).numpy()
    shares = eigenvalues[eigenvalues > 0] / eigenvalues.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))
