//! Numerical rank of maps.

mod aligned;
mod bidiagonal;
mod gram;
mod inertia;
mod largest_eigenvalue;
mod layout;
mod map_in_each_lane;
mod matrix_ranks;
mod ranker;
#[cfg(test)]
mod tests;
mod tolerances;

pub use matrix_ranks::matrix_ranks;
pub use ranker::rank;
pub(crate) use ranker::ranks;
