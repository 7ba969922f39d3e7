"""Scores of the feature maps of a convolutional network, computed in parallel without copying the maps.

Maps are float32 arrays [N, C, H, W] of N images and C channels, in any memory order with positive strides. The array
`tensor.numpy()` of a contiguous or channels-last torch tensor is read without a copy. A map F[n, c] is a matrix of
H x W pixels. Every function releases the GIL while it computes. Its result is the same, bit for bit, for any number of
threads.

Source of the paper's scores: Wang et al., Collaborative Filter Pruning for Efficient Automatic Surface Defect
Detection, IEEE Transactions on Industrial Informatics 2023, doi 10.1109/TII.2023.3288208.
"""

from collections.abc import Sequence
from typing import Literal, Self, TypedDict, final, type_check_only

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "CovarianceAccumulator",
    "TapAccumulator",
    "build_info",
    "explained_variance",
    "matrix_rank",
    "norms",
    "pairwise_distance",
    "set_threads",
]

_Similarity = Literal["norm", "ssim", "cosine"]
_Richness = Literal["rank", "entropy", "effective-rank", "nuclear"]

@type_check_only
class BuildInfo(TypedDict):
    """Facts about the installed module. At run time it is a plain dict, which may contain more keys."""

    version: str
    """Version of the crate and of the package."""
    profile: Literal["debug", "release"]
    """Cargo profile of the build."""
    simd: str
    """SIMD instruction set that the kernels use on this machine: avx512, avx2, neon or baseline."""
    threads: int
    """Number of threads in use."""

@type_check_only
class TapScores(TypedDict):
    """Scores of one tap over all its images. At run time it is a plain dict."""

    norms: NDArray[np.float64]
    """Frobenius norm of every map [N, C], before rounding. Rows are in the order of image indices."""
    distance: NDArray[np.float64]
    """Distances between channels [C (C - 1) / 2], in SciPy's condensed order (0,1), (0,2), ..., (1,2), ..."""
    richness: NDArray[np.float64] | None
    """Richness of every channel [C]: the mean over the images. None if it was not asked for."""
    images: int
    """Number of images N."""
    height: int
    """Height H of a map in pixels."""
    width: int
    """Width W of a map in pixels."""
    saturated_similarity: bool
    """Whether the distances of all pairs are equal. A single pair is saturated at distance 0."""
    saturated_richness: bool
    """Whether the richness of all channels is equal and there are several."""

@type_check_only
class TapState(TypedDict):
    """Everything that an accumulator contains, as plain data. At run time it is a plain dict."""

    channels: int
    """Number of channels C."""
    similarity: str
    """Distance between channels."""
    richness: str | None
    """Richness of a channel."""
    decimals: int | None
    """Maps are rounded to this number of decimals before their rank is computed. None: they are not rounded."""
    name: str
    """Name of the tap, for messages."""
    size: tuple[int, int] | None
    """Height and width of a map in pixels. None before the first image."""
    images: list[int]
    """Indices of the N images in the run, ascending."""
    norms: NDArray[np.float64]
    """Frobenius norms, N rows of C numbers one after another [N * C]."""
    rich: NDArray[np.float64]
    """Richness [N * C]. Empty without richness."""
    sums: NDArray[np.float64]
    """Sums over the images of the condensed distances [C (C - 1) / 2]. Empty for `norm`, which needs only the norms."""

@type_check_only
class CovarianceState(TypedDict):
    """Everything that a `CovarianceAccumulator` contains, as plain data. At run time it is a plain dict."""

    channels: int
    """Number of channels C."""
    added: int
    """Number of samples in the sums."""
    totals: NDArray[np.float64]
    """Sums of each channel [C]."""
    products: NDArray[np.float64]
    """Sums of products of channels [C (C + 1) / 2]: the upper triangle with the diagonal, row by row."""
    waiting: NDArray[np.float32]
    """Samples that are not yet in the sums, one after another [rows * C]."""

@final
class TapAccumulator:
    """Accumulates the scores of one tap batch by batch. It does not keep any map.

    The result depends only on the images and their indices. It does not depend on the batches, the number of threads,
    the memory order, or the order of merging. Norms, the distance `norm` and the richness of single maps are equal bit
    for bit. The distances `ssim` and `cosine` are sums over images, equal to 1e-12 relative. Memory is two numbers for
    each image and channel; `ssim` and `cosine` add one number for each pair of channels. An accumulator can be pickled.

    F[n, c] is the map of image n and channel c. `similarity` selects the distance of channels i and j:

    - `norm` (the paper's): mean over n of abs(|F[n, i]| - |F[n, j]|) / H, with Frobenius norms.
    - `ssim`: 1 - mean over n of the mean structural similarity (Wang, Bovik, Sheikh, Simoncelli 2004; K1 = 0.01,
      K2 = 0.03) over uniform 8 x 8 windows at stride 4. The last window ends at the border; a side below 8 pixels has
      one window. L is the range of the tap's values on the image. Variances divide by the number of pixels.
    - `cosine`: mean over n of 1 - <F[n, i], F[n, j]> / (|F[n, i]| |F[n, j]|). The distance between two all-zero maps
      is 0, between an all-zero map and another one 1.

    `richness` selects the score of channel c, a mean over n of:

    - `rank` (the paper's): `matrix_rank` of the map rounded to `decimals`.
    - `entropy`: Shannon entropy in bits of the 256-bin histogram of the map over the range of the tap's values on the
      image.
    - `effective-rank`: exp of the Shannon entropy of the singular values divided by their sum (Roy and Vetterli 2007).
      It is 0 for an all-zero map.
    - `nuclear`: sum of the singular values / (sqrt(min(H, W)) |F|), between 0 and 1. It is 0 for an all-zero map.

    Args:
        channels: number of channels C of the tap.
        similarity: distance between channels: `norm`, `ssim` or `cosine`.
        richness: score of a channel: `rank`, `entropy`, `effective-rank` or `nuclear`. None: only norms and distances.
        decimals: before their rank is computed, maps are rounded to this number of decimals, half to even, in float32
            as `numpy.round` does. None: they are not rounded.
        name: name of the tap, for messages.

    Raises:
        ValueError: the number of channels is 0 or above 32,768, or the similarity or richness is unknown.
        OverflowError: `channels` or `decimals` is negative.
    """

    def __new__(
        cls,
        channels: int,
        similarity: _Similarity | str = "norm",
        richness: _Richness | str | None = "rank",
        decimals: int | None = 4,
        name: str = "",
    ) -> Self:
        """Create an accumulator without images. See the class for arguments and errors."""

    def update(
        self,
        maps: NDArray[np.float32],
        first_image: int | None = None,
        *,
        images: Sequence[int] | None = None,
    ) -> None:
        """Add the maps of further images.

        Args:
            maps: float32 [N, C, H, W], or [N, C] for maps of one pixel. H and W are the same in every call.
            first_image: index in the run of the first of these images; the others follow it. None: the index after the
                last image. Processes that share a run must give it, since accumulators that contain the same image
                cannot be merged.
            images: instead of `first_image`, the index of each of these images, in any order.

        Raises:
            ValueError: the array is not float32 or has a wrong shape, a pixel is NaN or infinite (the message names
                tap, image and channel), an image was added before, or both `first_image` and `images` are given. The
                accumulator is then unchanged.
        """

    def update_norms(self, norms: NDArray[np.float64], size: tuple[int, int], first_image: int) -> None:
        """Add the norms of further images whose maps were reduced elsewhere, such as on a GPU.

        Args:
            norms: Frobenius norms of the maps, float64 [N, C].
            size: height and width of a map in pixels.
            first_image: index in the run of the first of these images; the others follow it.

        Raises:
            ValueError: the accumulator computes richness or another similarity than `norm`, the array is not float64 or
                has a wrong shape, a norm is NaN or infinite (the message names tap, image and channel), or an image was
                added before. The accumulator is then unchanged.
        """

    def merge(self, other: TapAccumulator) -> None:
        """Add the images of another accumulator of the same tap, which does not change.

        Args:
            other: an accumulator with the same channels, criteria, decimals and map size, and other images.

        Raises:
            ValueError: the two differ in one of these, or contain the same image.
        """

    def finish(self) -> TapScores:
        """Compute the scores over all images so far. More images can follow.

        Returns:
            a dict of norms float64 [N, C], distance float64 [C (C - 1) / 2], richness float64 [C] or None, images N,
            height H and width W in pixels, saturated_similarity and saturated_richness.

        Raises:
            ValueError: there are no images.
        """

    def state(self) -> TapState:
        """Copy everything that the accumulator contains as plain data, to store it or send it to another process."""

    @classmethod
    def from_state(cls, state: TapState) -> Self:
        """Create the accumulator with this state.

        Raises:
            ValueError: a part is missing, or the parts do not fit together.
            TypeError: a part has another type.
        """

@final
class CovarianceAccumulator:
    """Accumulates the covariances of channels over samples, for `explained_variance`.

    Products of float32 numbers are exact in float64, and only their sums are rounded. The division of the samples into
    calls does not change a bit; the order of merging changes the last bits. Memory is one number for each pair of
    channels. An accumulator can be pickled.

    Args:
        channels: number of channels C.

    Raises:
        ValueError: the number of channels is 0 or above 32,768.
        OverflowError: it is negative.
    """

    def __new__(cls, channels: int) -> Self:
        """Create an accumulator without samples. See the class for arguments and errors."""

    def update(self, samples: NDArray[np.float32]) -> None:
        """Add samples.

        Args:
            samples: float32 [S, C]: in each row the values of all channels at one position of one image.

        Raises:
            ValueError: the array is not float32 [S, C], or a value is NaN or infinite. The accumulator is then
                unchanged.
        """

    def merge(self, other: CovarianceAccumulator) -> None:
        """Add the samples of another accumulator, which does not change.

        Raises:
            ValueError: the numbers of channels differ.
        """

    def covariance(self) -> NDArray[np.float64]:
        """Compute the covariances [C, C] over all samples so far. More samples can follow.

        Raises:
            ValueError: there are no samples.
        """

    def state(self) -> CovarianceState:
        """Copy everything that the accumulator contains as plain data, to store it or send it to another process."""

    @classmethod
    def from_state(cls, state: CovarianceState) -> Self:
        """Create the accumulator with this state.

        Raises:
            ValueError: a part is missing, or the parts do not fit together.
            TypeError: a part has another type.
        """

def norms(maps: NDArray[np.float32]) -> NDArray[np.float64]:
    """Frobenius norm of every map, summed in float64.

    Args:
        maps: float32 [N, C, H, W], or [N, C] for maps of one pixel.

    Returns:
        float64 [N, C].

    Raises:
        ValueError: the array is not float32 or has another shape, or a pixel is NaN or infinite; the message names
            image and channel.
    """

def matrix_rank(maps: NDArray[np.float32]) -> NDArray[np.int32]:
    """Rank of every map: the number of singular values above max(H, W) * 2^-23 times the largest; 0 for all zeros.

    The threshold is the default of `torch.linalg.matrix_rank` and `numpy.linalg.matrix_rank` for float32. The singular
    values are compared with it in float64. The maps are not rounded.

    Args:
        maps: float32 [..., H, W].

    Returns:
        int32 [...].

    Raises:
        ValueError: the array is not float32 or has another shape, or a pixel is NaN or infinite.
    """

def pairwise_distance(norms: NDArray[np.float64], height: int) -> NDArray[np.float64]:
    """The paper's distance of all pairs of channels: mean over n of abs(norms[n, i] - norms[n, j]) / height.

    Source: Wang et al. 2023 (doi 10.1109/TII.2023.3288208), structural similarity of feature maps.

    Args:
        norms: float64 [N, C], as `norms` returns them.
        height: height H of the maps in pixels, at least 1.

    Returns:
        float64 [C (C - 1) / 2], in SciPy's condensed order.

    Raises:
        ValueError: the array is not float64 [N, C] with N and C at least 1, a norm is NaN or infinite, or the height
            is 0.
        OverflowError: the height is negative.
    """

def explained_variance(covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    """For each channel, the fraction of the variance of all channels that the channels selected before it leave.

    Channels are selected one after another. The next channel is the one that lets the linear regression of all channels
    on the selected channels explain most. A channel that hardly varies counts as little as it varies.

    Source: greedy column subset selection, Farahat, Ghodsi and Kamel, Efficient greedy feature selection for
    unsupervised learning, Knowledge and Information Systems 2013.

    Args:
        covariance: float64 [C, C], symmetric.

    Returns:
        float64 [C]: 1 for the channel selected first, less for later ones; 0 for constant channels and for channels
        that are left when less than a millionth of the variance is unexplained.

    Raises:
        ValueError: the array is not float64 or not square, or a covariance is NaN or infinite.
    """

def set_threads(count: int) -> None:
    """Set the number of threads. The default is one for each core that the process may use.

    Raises:
        ValueError: `count` is 0 or above 1,024, or the threads cannot be started.
        OverflowError: `count` is negative.
    """

def build_info() -> BuildInfo:
    """Version, build profile, SIMD instruction set and number of threads of the installed module.

    Returns:
        a dict of version, profile (release or debug), simd (avx512, avx2, neon or baseline) and threads.
    """
