//! Accumulates the scores of taps.

mod reduce;
mod state;
mod tap_accumulator;

pub use state::State;
pub use tap_accumulator::{TapAccumulator, TapScores};
