//! Scores of the feature maps of a convolutional network: Frobenius norms, distances between channels, matrix ranks.
//!
//! Plain Rust that knows nothing of Python; `python` (feature `python`, on by default) only converts and checks.
//! Source of the scores: Wang et al., Collaborative Filter Pruning for Efficient Automatic Surface Defect Detection,
//! IEEE TII 2023, doi 10.1109/TII.2023.3288208.

mod accumulator;
mod distance;
mod error;
mod maps;
mod norms;
#[cfg(feature = "python")]
mod python;
mod rank;
mod threads;

pub use accumulator::{Richness, Similarity, TapAccumulator, TapScores};
pub use distance::pairwise_distance;
pub use error::CoreError;
pub use maps::Maps;
pub use norms::norms;
pub use rank::{matrix_ranks, rank};
pub use threads::{set_threads, threads};
