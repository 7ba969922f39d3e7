//! Scores of the feature maps of a convolutional network: Frobenius norms, distances between channels, matrix ranks.
//!
//! Plain Rust that knows nothing of Python; `python` (feature `python`, on by default) only converts and checks.
//! Source of the scores: Wang et al., Collaborative Filter Pruning for Efficient Automatic Surface Defect Detection,
//! IEEE TII 2023, doi 10.1109/TII.2023.3288208.

#![forbid(unsafe_code)]
// Kernels are compiled once for each instruction set; they only reach it if they are inlined whatever their size.
#![allow(clippy::inline_always)]

mod accumulator;
mod condensed;
mod covariance;
mod criteria;
mod distance;
mod entropy;
mod error;
mod explained;
mod maps;
mod norms;
mod panels;
mod prepare;
#[cfg(feature = "python")]
mod python;
mod range;
mod rank;
mod ranks;
mod shares;
mod similarity;
mod spectrum;
mod threads;
mod tile;

pub use accumulator::{State, TapAccumulator, TapScores};
pub use criteria::{Richness, Similarity};
pub use distance::pairwise_distance;
pub use error::CoreError;
pub use explained::explained_variance;
pub use maps::Maps;
pub use norms::norms;
pub use panels::simd_level;
pub use rank::rank;
pub use ranks::matrix_ranks;
pub use threads::{set_threads, threads};
