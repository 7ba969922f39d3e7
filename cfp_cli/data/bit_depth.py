"""Choose the bit depth of a dataset from a sample of its images."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from cfp_cli.data.choices import BitDepth
from cfp_cli.data.deep_pixels import BIT_DEPTHS, deep_values, is_deep
from cfp_cli.foundation.failures import exhausted
