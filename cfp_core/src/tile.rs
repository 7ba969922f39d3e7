//! The kernel behind Gram matrices, eliminations and covariances: products of panels in SIMD registers.
//!
//! A matrix lies in *panels*: as many neighbouring columns as a register has float64 lanes, each row of a panel being one
//! register. A tile is M rows by N panels of sums that stay in registers while the inner dimension goes by.

use pulp::Simd;

/// M rows by N registers of sums.
pub(crate) type Tile<S, const M: usize, const N: usize> = [[<S as Simd>::f64s; N]; M];

/// A tile of zeros.
#[inline(always)]
pub(crate) fn zeros<S: Simd, const M: usize, const N: usize>(simd: S) -> Tile<S, M, N> {
    [[simd.splat_f64s(0.0); N]; M]
}

/// `sums` + transpose(`left`) * `right`: `left` is a panel of M columns as scalars, `right` are N panels, all of equal rows.
#[inline(always)]
pub(crate) fn add_product<S: Simd, const M: usize, const N: usize>(
    simd: S,
    mut sums: Tile<S, M, N>,
    left: &[f64],
    right: [&[S::f64s]; N],
) -> Tile<S, M, N> {
    let (left, _) = left.as_chunks::<M>();
    let right = right.map(|panel| &panel[..left.len()]);
    for (row, left) in left.iter().enumerate() {
        let right = right.map(|panel| panel[row]);
        for (sums, &factor) in sums.iter_mut().zip(left) {
            let factor = simd.splat_f64s(factor);
            for (sum, right) in sums.iter_mut().zip(right) {
                *sum = simd.mul_add_f64s(factor, right, *sum);
            }
        }
    }
    sums
}

/// `sums` - transpose(`left`) * `right`.
#[inline(always)]
pub(crate) fn subtract_product<S: Simd, const M: usize, const N: usize>(
    simd: S,
    mut sums: Tile<S, M, N>,
    left: &[f64],
    right: [&[S::f64s]; N],
) -> Tile<S, M, N> {
    let (left, _) = left.as_chunks::<M>();
    let right = right.map(|panel| &panel[..left.len()]);
    for (row, left) in left.iter().enumerate() {
        let right = right.map(|panel| panel[row]);
        for (sums, &factor) in sums.iter_mut().zip(left) {
            let factor = simd.splat_f64s(factor);
            for (sum, right) in sums.iter_mut().zip(right) {
                *sum = simd.negate_mul_add_f64s(factor, right, *sum);
            }
        }
    }
    sums
}

/// `sums` + the sum over rows of |left - right|.
#[inline(always)]
pub(crate) fn add_differences<S: Simd, const M: usize, const N: usize>(
    simd: S,
    mut sums: Tile<S, M, N>,
    left: &[f64],
    right: [&[S::f64s]; N],
) -> Tile<S, M, N> {
    let (left, _) = left.as_chunks::<M>();
    let right = right.map(|panel| &panel[..left.len()]);
    for (row, left) in left.iter().enumerate() {
        let right = right.map(|panel| panel[row]);
        for (sums, &value) in sums.iter_mut().zip(left) {
            let value = simd.splat_f64s(value);
            for (sum, right) in sums.iter_mut().zip(right) {
                *sum = simd.add_f64s(*sum, simd.abs_f64s(simd.sub_f64s(value, right)));
            }
        }
    }
    sums
}
