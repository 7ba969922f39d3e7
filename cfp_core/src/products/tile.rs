//! The tile kernel of all products: M rows by N registers of sums stay in registers during the loop over the inner dimension.

use pulp::Simd;

/// M rows by N registers of sums.
pub(crate) type Tile<S, const M: usize, const N: usize> = [[<S as Simd>::f64s; N]; M];

/// A tile of zeros.
#[inline(always)]
pub(crate) fn zeros<S: Simd, const M: usize, const N: usize>(simd: S) -> Tile<S, M, N> {
    [[simd.splat_f64s(0.0); N]; M]
}

/// The kernel: for each row k of the inner dimension, replace sum (m, n) by `add`(sum, `left`\[k\]\[m\], `right`(k)\[n\]).
#[inline(always)]
pub(crate) fn accumulate<S: Simd, L: Copy, const M: usize, const N: usize>(
    mut sums: Tile<S, M, N>,
    left: &[[L; M]],
    right: impl Fn(usize) -> [S::f64s; N],
    add: impl Fn(S::f64s, L, S::f64s) -> S::f64s,
) -> Tile<S, M, N> {
    for (row, left) in left.iter().enumerate() {
        let right = right(row);
        for (sums, &left) in sums.iter_mut().zip(left) {
            for (sum, right) in sums.iter_mut().zip(right) {
                *sum = add(*sum, left, right);
            }
        }
    }
    sums
}

/// `sums` + transpose(`left`) * `right`. `left` is a panel of M columns; `right` are N panels with as many rows.
#[inline(always)]
pub(crate) fn add_product<S: Simd, const M: usize, const N: usize>(
    simd: S,
    sums: Tile<S, M, N>,
    left: &[f64],
    right: [&[S::f64s]; N],
) -> Tile<S, M, N> {
    accumulate_panels::<S, M, N>(sums, left, right, |sum, factor, right| {
        simd.mul_add_f64s(simd.splat_f64s(factor), right, sum)
    })
}

/// `sums` - transpose(`left`) * `right`.
#[inline(always)]
pub(crate) fn subtract_product<S: Simd, const M: usize, const N: usize>(
    simd: S,
    sums: Tile<S, M, N>,
    left: &[f64],
    right: [&[S::f64s]; N],
) -> Tile<S, M, N> {
    accumulate_panels::<S, M, N>(sums, left, right, |sum, factor, right| {
        simd.negate_mul_add_f64s(simd.splat_f64s(factor), right, sum)
    })
}

/// `sums` + the sum over rows of |left - right|.
#[inline(always)]
pub(crate) fn add_differences<S: Simd, const M: usize, const N: usize>(
    simd: S,
    sums: Tile<S, M, N>,
    left: &[f64],
    right: [&[S::f64s]; N],
) -> Tile<S, M, N> {
    accumulate_panels::<S, M, N>(sums, left, right, |sum, value, right| {
        simd.add_f64s(sum, simd.abs_f64s(simd.sub_f64s(simd.splat_f64s(value), right)))
    })
}

#[inline(always)]
fn accumulate_panels<S: Simd, const M: usize, const N: usize>(
    sums: Tile<S, M, N>,
    left: &[f64],
    right: [&[S::f64s]; N],
    add: impl Fn(S::f64s, f64, S::f64s) -> S::f64s,
) -> Tile<S, M, N> {
    let (left, _) = left.as_chunks::<M>();
    // Slices of known length let the compiler drop the bounds checks in the loop.
    let right = right.map(|panel| &panel[..left.len()]);
    accumulate::<S, f64, M, N>(sums, left, |row| right.map(|panel| panel[row]), add)
}

/// The N tiles [M, M] that lie one after another in `memory`, as one tile [M, N * M].
#[inline(always)]
pub(crate) fn load<S: Simd, const M: usize, const N: usize>(simd: S, memory: &[S::f64s]) -> Tile<S, M, N> {
    let mut tile = zeros(simd);
    for (row, values) in tile.iter_mut().enumerate() {
        for (index, value) in values.iter_mut().enumerate() {
            *value = memory[index * M + row];
        }
    }
    tile
}

/// Write a tile back to where `load` read it.
#[inline(always)]
pub(crate) fn store<S: Simd, const M: usize, const N: usize>(tile: &Tile<S, M, N>, memory: &mut [S::f64s]) {
    for (row, values) in tile.iter().enumerate() {
        for (index, &value) in values.iter().enumerate() {
            memory[index * M + row] = value;
        }
    }
}
