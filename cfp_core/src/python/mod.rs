//! The Python module `cfp_core`: converts, checks and releases the GIL. It does not compute scores.

#![allow(clippy::doc_markdown, rustdoc::broken_intra_doc_links)]

mod accumulator;
mod convert;
mod covariance;
mod enter;
mod functions;

use pyo3::prelude::*;

/// Scores of the feature maps of a convolutional network, computed in parallel without copying the maps.
///
/// Maps are float32 arrays [N, C, H, W] of N images and C channels, in any memory order with positive strides. The array
/// `tensor.numpy()` of a contiguous or channels-last torch tensor is read without a copy. A map F[n, c] is a matrix of
/// H x W pixels. Every function releases the GIL while it computes. Its result is the same, bit for bit, for any number of
/// threads.
///
/// Source of the paper's scores: Wang et al., Collaborative Filter Pruning for Efficient Automatic Surface Defect
/// Detection, IEEE Transactions on Industrial Informatics 2023, doi 10.1109/TII.2023.3288208.
#[pymodule]
mod cfp_core {
    #[pymodule_export]
    use super::accumulator::PyTapAccumulator;
    #[pymodule_export]
    use super::covariance::PyCovarianceAccumulator;
    #[pymodule_export]
    use super::functions::{build_info, explained_variance, matrix_rank, norms, pairwise_distance, set_threads};
}
