//! Tolerances of the methods that count eigenvalues of Gram matrices.

/// Relative width to which power steps enclose the largest eigenvalue of a Gram matrix. The threshold is proportional to its
/// square root, and so is correct to five digits.
pub(crate) const ENCLOSED: f64 = 1e-5;

/// Below this multiple of the largest eigenvalue, the rounding error of a pivot makes the signs of later pivots uncertain.
pub(crate) const DOUBT: f64 = 8192.0 * f64::EPSILON;
