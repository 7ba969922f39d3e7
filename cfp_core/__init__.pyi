"""Scores of the feature maps of a convolutional network, computed in parallel and read in place.

Maps are float32 arrays [N, C, H, W] of N images and C channels, in any order of memory with positive strides: what
`tensor.numpy()` gives for a contiguous or channels-last torch tensor is read without a copy. A map F[n, c] is a
matrix of H x W pixels. Every function releases the GIL while it computes and gives the same bits for any number of
threads.

Source of the paper's scores: Wang et al., Collaborative Filter Pruning for Efficient Automatic Surface Defect
Detection, IEEE Transactions on Industrial Informatics 2023, doi 10.1109/TII.2023.3288208.
"""

from collections.abc import Sequence
from typing import Literal, Self, TypedDict, final, type_check_only

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "TapAccumulator",
    "build_info",
    "explained_variance",
    "matrix_rank",
    "norms",
    "pairwise_distance",
    "set_threads",
]

@type_check_only
class BuildInfo(TypedDict):
    """Facts about the installed module; a plain dict at run time, and further keys may stand beside these."""

    version: str
    """Version of the crate, the same as that of the package."""
    profile: Literal["debug", "release"]
    """Cargo profile that it was built with."""
    simd: str
    """SIMD instruction set that the kernels use on this machine, found when the module is first used."""
    threads: int
    """Number of threads in use."""

@type_check_only
class TapScores(TypedDict):
    """Scores of one tap over all its images; a plain dict at run time."""

    norms: NDArray[np.float64]
    """Frobenius norm of every map [N, C], rows in the order of image indices, of the maps before rounding."""
    distance: NDArray[np.float64]
    """Distances between channels [C (C - 1) / 2], in SciPy's condensed order (0,1), (0,2), ..., (1,2), ..."""
    richness: NDArray[np.float64]
    """Richness of every channel [C]: the mean over the images, or what `explained_variance` gives."""
    covariance: NDArray[np.float64] | None
    """Covariances of the channels over the pixels of all images [C, C]; only with `explained-variance`."""
    images: int
    """Number of images N."""
    height: int
    """Height H of a map in pixels."""
    width: int
    """Width W of a map in pixels."""
    saturated_similarity: bool
    """Whether all pairs of channels are equally far apart, or two only channels are at distance 0."""
    saturated_richness: bool
    """Whether all of several channels have one and the same richness."""

@type_check_only
class TapState(TypedDict):
    """All that an accumulator holds, as plain data; a plain dict at run time."""

    channels: int
    """Number of channels C."""
    similarity: str
    """Distance between channels."""
    richness: str
    """Detail of a channel."""
    decimals: int | None
    """Decimals that maps are rounded to before their rank is taken."""
    name: str
    """The tap's name, for messages."""
    size: tuple[int, int] | None
    """Height and width of a map in pixels, once one was seen."""
    images: list[int]
    """Indices of the images N in the whole run, ascending."""
    norms: NDArray[np.float64]
    """Frobenius norms, N rows of C numbers one after another [N * C]."""
    rich: NDArray[np.float64]
    """Richness [N * C]."""
    sums: NDArray[np.float64]
    """Sums over the images of the condensed distances [C (C - 1) / 2]; empty for `norm`, which needs the norms only."""
    totals: NDArray[np.float64]
    """Sums over the counted pixels of every channel [C]; empty but for `explained-variance`, as is the next."""
    products: NDArray[np.float64]
    """Sums over the counted pixels of products of channels, of each with itself and later ones, zeros elsewhere
    [C * C]."""

@final
class TapAccumulator:
    """Reduces the feature maps of one tap to scores, batch by batch; no map is kept past `update`.

    The result depends on the images and their indices only: not on how they were cut into batches, on the number of
    threads, on the order of memory, or on which accumulators saw which images before they were merged. Norms, the
    distance `norm` and a richness of single maps are equal bit for bit; the distances `ssim` and `cosine` and the
    covariances, which are sums over images, to 1e-12 relative, so that a near tie of explained variance may fall either
    way. Memory is two numbers for each image and channel, for `ssim` and `cosine` one for each pair of channels, and
    for `explained-variance` two. An accumulator can be pickled.

    With F[n, c] the map of image n and channel c, `similarity` is the distance of channels i and j:

    - `norm` (the paper's structural distance): mean over n of abs(|F[n, i]| - |F[n, j]|) / H, with Frobenius norms.
    - `ssim`: 1 - mean over n of the mean structural similarity (Wang, Bovik, Sheikh, Simoncelli 2004; K1 = 0.01,
      K2 = 0.03) over uniform 8 x 8 windows at stride 4, the last flush with the border; one window where a side is
      shorter. L is the range of the tap's values on the image; variances are over the window's pixels.
    - `cosine`: mean over n of 1 - <F[n, i], F[n, j]> / (|F[n, i]| |F[n, j]|); two all-zero maps are at distance 0, an
      all-zero map and another at distance 1.

    `richness` is the detail of channel c. `explained-variance` is one figure over the pixels of all images, see
    `explained_variance`; of maps of more than 1,024 pixels so many count, spread over the map and the same in every
    image. The others are a mean over n of:

    - `rank` (the paper's detail richness): `matrix_rank` of the map rounded to `decimals`.
    - `entropy`: Shannon entropy in bits of the 256-bin histogram of the map over the range of the tap's values on the
      image.
    - `effective-rank`: exp of the Shannon entropy of the singular values divided by their sum (Roy and Vetterli 2007);
      0 for an all-zero map.
    - `nuclear`: sum of the singular values / (sqrt(min(H, W)) |F|), between 0 and 1; 0 for an all-zero map.
    """

    def __new__(
        cls,
        channels: int,
        similarity: Literal["norm", "ssim", "cosine"] | str = "norm",
        richness: Literal["rank", "entropy", "effective-rank", "nuclear", "explained-variance"] | str = "rank",
        decimals: int | None = 4,
        name: str = "",
    ) -> Self:
        """An accumulator that has seen no images.

        Args:
            channels: number of channels C of the tap.
            similarity: distance between channels: `norm`, `ssim` or `cosine`.
            richness: detail of a channel: `rank`, `entropy`, `effective-rank`, `nuclear` or `explained-variance`.
            decimals: before a rank is taken, pixels are rounded to so many decimals, half to even, in float32 as
                `numpy.round` does; None does not round.
            name: the tap's name, for messages.

        Raises:
            ValueError: there are no channels, or no such similarity or richness.
            OverflowError: `channels` or `decimals` is negative.
        """

    def update(
        self,
        maps: NDArray[np.float32],
        first_image: int | None = None,
        *,
        images: Sequence[int] | None = None,
    ) -> None:
        """Reduce the maps of further images.

        Args:
            maps: float32 [N, C, H, W], or [N, C] for maps of one pixel. H and W stay the same from call to call.
            first_image: index in the whole run of the first of these images; the others follow it. None: the image
                after the last one seen. Shards of one run must give it, since they may be merged only where no image
                was seen by both.
            images: in place of `first_image`, the index of each of these images, in any order.

        Raises:
            ValueError: not a float32 array, not the shape that is due, a pixel is NaN or infinite (the message names
                tap, image and channel), an image was given before, or both `first_image` and `images` are given. The
                accumulator is left as it was.
        """

    def merge(self, other: TapAccumulator) -> None:
        """Take over the images of another accumulator of the same tap, which stays as it is.

        Args:
            other: of the same channels, criteria, decimals and size of maps, and of other images.

        Raises:
            ValueError: the two measure different things, or have seen the same image.
        """

    def finish(self) -> TapScores:
        """The scores over all images so far; more may follow.

        Raises:
            ValueError: no image was seen.
        """

    def state(self) -> TapState:
        """A copy of all that is held, as plain data to be stored or sent to another process."""

    @classmethod
    def from_state(cls, state: TapState) -> Self:
        """The accumulator that gave this state.

        Raises:
            ValueError: a part is missing, or the parts do not fit together.
            TypeError: a part is of another type.
        """

def norms(maps: NDArray[np.float32]) -> NDArray[np.float64]:
    """Frobenius norm of every map, summed in float64.

    Args:
        maps: float32 [N, C, H, W], or [N, C] for maps of one pixel.

    Returns:
        float64 [N, C].

    Raises:
        ValueError: not a float32 array of such a shape, or a pixel is NaN or infinite; the message names image and
            channel.
    """

def matrix_rank(maps: NDArray[np.float32]) -> NDArray[np.int32]:
    """Rank of every map: the number of singular values above max(H, W) * 2^-23 times the largest; 0 for all zeros.

    The threshold is the default of `torch.linalg.matrix_rank` and `numpy.linalg.matrix_rank` for float32; the decision
    is made in float64. The maps are not rounded.

    Args:
        maps: float32 [..., H, W].

    Returns:
        int32 [...].

    Raises:
        ValueError: not a float32 array of such a shape, or a pixel is NaN or infinite.
    """

def pairwise_distance(norms: NDArray[np.float64], height: int) -> NDArray[np.float64]:
    """The paper's structural distance of all pairs of channels: mean over n of abs(norms[n, i] - norms[n, j]) / height.

    Args:
        norms: float64 [N, C], from `norms`.
        height: height H of the maps in pixels, at least 1.

    Returns:
        float64 [C (C - 1) / 2], in SciPy's condensed order.

    Raises:
        ValueError: not a float64 array [N, C] with N and C at least 1, a norm is NaN or infinite, or the height is 0.
        OverflowError: the height is negative.
    """

def explained_variance(covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    """How much of all channels' variance the channels that are chosen before each one leave unexplained.

    Channels are chosen one after another: each time the one with which the linear regression of all channels on those
    chosen so far explains most. Every channel counts alike, whatever its variance.

    Source: greedy column subset selection, Farahat, Ghodsi and Kamel, Efficient greedy feature selection for
    unsupervised learning, Knowledge and Information Systems 2013.

    Args:
        covariance: float64 [C, C], symmetric.

    Returns:
        float64 [C], a share of the sum of the variances: 1 for the channel that is chosen first, less for later ones, 0
        for those that follow when less than a millionth is left, or that do not vary.

    Raises:
        ValueError: not a square float64 array, or a covariance is NaN or infinite.
    """

def set_threads(count: int) -> None:
    """Compute with so many threads from now on; by default with one for each core that the process may use.

    Raises:
        ValueError: `count` is 0, or the threads cannot be started.
        OverflowError: `count` is negative.
    """

def build_info() -> BuildInfo:
    """Version, build profile, SIMD instruction set and number of threads of the installed module."""
