//! The Python module `cfp_core`: converts, checks, releases the GIL; no mathematics.

mod accumulator;
mod convert;
mod door;
mod functions;

use pyo3::prelude::*;

/// Scores of CNN feature maps, computed in parallel and in place.
#[pymodule]
mod cfp_core {
    #[pymodule_export]
    use super::accumulator::PyTapAccumulator;
    #[pymodule_export]
    use super::functions::{build_info, explained_variance, matrix_rank, norms, pairwise_distance, set_threads};
}
