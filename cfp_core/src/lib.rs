//! Scores of the feature maps of a convolutional network: Frobenius norms, distances between channels, matrix ranks.
//!
//! `python` (feature `python`, on by default) only converts and checks; the other modules do not depend on Python.
//!
//! Source of the scores: Wang et al., Collaborative Filter Pruning for Efficient Automatic Surface Defect Detection,
//! IEEE TII 2023, doi 10.1109/TII.2023.3288208.

#![forbid(unsafe_code)]
// Each kernel is compiled for every instruction set. Only what is inlined into it uses that set, so that size must not decide.
#![allow(clippy::inline_always)]

mod accumulator;
mod criteria;
mod error;
mod maps;
mod products;
#[cfg(feature = "python")]
mod python;
mod scores;
mod shares;
mod threads;

pub use accumulator::{State, TapAccumulator, TapScores};
pub use criteria::{Richness, Similarity};
pub use error::CoreError;
pub use maps::Maps;
pub use products::simd_level;
pub use scores::covariance::{CovarianceAccumulator, CovarianceState};
pub use scores::distance::pairwise_distance;
pub use scores::explained_variance::explained_variance;
pub use scores::norms::norms;
pub use scores::rank::{matrix_ranks, rank};
pub use threads::{set_threads, threads};
