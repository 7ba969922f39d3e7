//! Rank of one large map from the inertia of its shifted Gram matrix.
//!
//! With G = transpose(A) A, the singular values of A above t are the square roots of the eigenvalues of G above t^2. By
//! Sylvester's law of inertia, their number is the number of positive pivots of an elimination of G - t^2 I. Here t is relative
//! to the largest singular value, which power steps find with a proven bound. Float64 resolves t^2 with digits to spare. If a
//! pivot or the bound is in doubt, the result is `None`, and the caller computes the singular values.

use pulp::{Simd, WithSimd};

use super::aligned::aligned;
use super::largest_eigenvalue::{enclose, lanczos};
use super::tolerances::DOUBT;
use crate::products::{add_product, panels_at_once, panels_from, subtract_product, zeros, Tile};

/// Relative width to which an elimination proves the largest eigenvalue that Lanczos steps estimate.
const GUESSED: f64 = 2e-4;

/// Memory that is reused from map to map.
#[derive(Default)]
pub(crate) struct Scratch {
    columns: Vec<f64>,
    gram: Vec<f64>,
    copy: Vec<f64>,
    vectors: Vec<f64>,
}

/// Counts the singular values of a matrix above `relative` times the largest; `None` where the count is in doubt.
pub(crate) struct Inertia<'a> {
    /// The matrix \[rows * columns\] in row-major order, not all zero.
    pub pixels: &'a [f32],
    pub rows: usize,
    pub columns: usize,
    pub relative: f64,
    pub scratch: &'a mut Scratch,
}

impl WithSimd for Inertia<'_> {
    type Output = Option<u32>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Option<u32> {
        match S::F64_LANES {
            8 => self.count::<S, 8>(simd),
            4 => self.count::<S, 4>(simd),
            2 => self.count::<S, 2>(simd),
            1 => self.count::<S, 1>(simd),
            _ => None,
        }
    }
}

impl Inertia<'_> {
    /// `M` is the number of lanes of `S`.
    #[inline(always)]
    fn count<S: Simd, const M: usize>(self, simd: S) -> Option<u32> {
        let Scratch { columns, gram, copy, vectors } = self.scratch;
        let (inner, outer) = (self.rows.max(self.columns), self.rows.min(self.columns));
        let panels = outer.div_ceil(M);
        let padded = panels * M;
        let memory = aligned(columns, panels * inner.max(padded) * M);
        let columns = &mut memory[..panels * inner * M];
        load::<M>(self.pixels, self.rows, self.columns, columns);
        let gram = aligned(gram, panels * padded * M);
        gram_of_columns::<S, M>(simd, columns, inner, gram);
        let vectors = aligned(vectors, 5 * padded);
        vectors.fill(0.0);
        // The columns are not needed any more: reuse their memory for the scaled pivot rows.
        let scaled = &mut memory[..panels * padded * M];
        let largest = if let Some(largest) = enclose::<S, M>(simd, gram, padded, vectors) {
            largest
        } else {
            let guess = lanczos::<S, M>(simd, gram, padded, vectors) * (1.0 + GUESSED / 2.0);
            let copy = aligned(copy, gram.len());
            copy.copy_from_slice(gram);
            let above = positive_pivots::<S, M>(simd, copy, scaled, padded, guess, DOUBT * guess)?;
            if above > 0 {
                return None;
            }
            guess
        };
        let shift = largest * self.relative * self.relative;
        positive_pivots::<S, M>(simd, gram, scaled, padded, shift, DOUBT * largest)
    }
}

/// Load the map in float64 with its shorter side along the columns, in panels of M columns. Zeros fill the last panel.
#[inline(always)]
fn load<const M: usize>(pixels: &[f32], rows: usize, columns: usize, target: &mut [f64]) {
    let (inner, outer) = (rows.max(columns), rows.min(columns));
    if !outer.is_multiple_of(M) {
        let last = target.len() - inner * M;
        target[last..].fill(0.0);
    }
    for (panel, target) in target.chunks_exact_mut(inner * M).enumerate() {
        let first = panel * M;
        let count = M.min(outer - first);
        if rows >= columns {
            for (line, target) in pixels.chunks_exact(columns).zip(target.chunks_exact_mut(M)) {
                if let (Some(line), Ok(target)) =
                    (line[first..].first_chunk::<M>(), <&mut [f64; M]>::try_from(&mut *target))
                {
                    *target = line.map(f64::from);
                } else {
                    for (target, &pixel) in target.iter_mut().zip(&line[first..first + count]) {
                        *target = f64::from(pixel);
                    }
                }
            }
        } else {
            for lane in 0..count {
                let line = &pixels[(first + lane) * columns..(first + lane + 1) * columns];
                for (target, &pixel) in target.iter_mut().skip(lane).step_by(M).zip(line) {
                    *target = f64::from(pixel);
                }
            }
        }
    }
}

/// Compute the upper blocks of transpose(X) X, in panels with as many rows as columns.
#[inline(always)]
fn gram_of_columns<S: Simd, const M: usize>(simd: S, columns: &[f64], inner: usize, gram: &mut [f64]) {
    let registers = S::as_simd_f64s(columns).0;
    let count = registers.len() / inner;
    let gram = S::as_mut_simd_f64s(gram).0;
    let mut panel = 0;
    // The panels on the right stay in the first-level cache during the loop over the panels on the left.
    while panel < count {
        let end = count.min(panel + panels_at_once::<S, M>());
        for block in 0..end {
            let left = &columns[block * inner * M..(block + 1) * inner * M];
            let first = panel.max(block);
            match end - first {
                1 => gram_tile::<S, M, 1>(simd, left, registers, inner, gram, block, first),
                2 => gram_tile::<S, M, 2>(simd, left, registers, inner, gram, block, first),
                _ => gram_tile::<S, M, 3>(simd, left, registers, inner, gram, block, first),
            }
        }
        panel = end;
    }
}

#[inline(always)]
fn gram_tile<S: Simd, const M: usize, const N: usize>(
    simd: S,
    left: &[f64],
    registers: &[S::f64s],
    inner: usize,
    gram: &mut [S::f64s],
    block: usize,
    panel: usize,
) {
    let tile: Tile<S, M, N> = add_product(simd, zeros(simd), left, panels_from(registers, inner, panel));
    let rows = registers.len() / inner * M;
    for (row, values) in tile.iter().enumerate() {
        for (index, &value) in values.iter().enumerate() {
            gram[(panel + index) * rows + block * M + row] = value;
        }
    }
}

/// The number of positive pivots of G - `shift` I; `None` as soon as the magnitude of a pivot is at most `doubt`.
///
/// Eliminates the upper blocks in place, left-looking. Writes to `scaled` the pivot rows divided by their pivots, with the
/// inverse pivots on the diagonal.
#[inline(always)]
fn positive_pivots<S: Simd, const M: usize>(
    simd: S,
    gram: &mut [f64],
    scaled: &mut [f64],
    rows: usize,
    shift: f64,
    doubt: f64,
) -> Option<u32> {
    let count = rows / M;
    let mut positive = 0;
    let mut panel = 0;
    // As for the Gram matrix, the panels on the right stay in the first-level cache.
    while panel < count {
        let end = count.min(panel + panels_at_once::<S, M>());
        for block in 0..end {
            if block >= panel {
                positive += eliminate_corner::<S, M>(simd, gram, scaled, rows, block, shift, doubt)?;
            }
            let first = panel.max(block + 1);
            match end - first {
                0 => (),
                1 => eliminate_right::<S, M, 1>(simd, gram, scaled, rows, block, first),
                2 => eliminate_right::<S, M, 2>(simd, gram, scaled, rows, block, first),
                _ => eliminate_right::<S, M, 3>(simd, gram, scaled, rows, block, first),
            }
        }
        panel = end;
    }
    Some(positive)
}

/// Eliminate one diagonal block: returns its number of positive pivots and writes its scaled rows to `scaled`.
#[inline(always)]
fn eliminate_corner<S: Simd, const M: usize>(
    simd: S,
    gram: &[f64],
    scaled: &mut [f64],
    rows: usize,
    block: usize,
    shift: f64,
    doubt: f64,
) -> Option<u32> {
    let done = block * M;
    let (left, target) = scaled[block * rows * M..(block * rows + done + M) * M].split_at_mut(done * M);
    let panel = &S::as_simd_f64s(gram).0[block * rows..(block + 1) * rows];
    let mut tile: Tile<S, M, 1> = zeros(simd);
    for (tile, &value) in tile.iter_mut().zip(&panel[done..done + M]) {
        tile[0] = value;
    }
    let tile = subtract_product(simd, tile, left, [&panel[..done]]);
    let mut corner = [[0.0; M]; M];
    for (index, (corner, tile)) in corner.iter_mut().zip(tile).enumerate() {
        S::as_mut_simd_f64s(corner).0[0] = tile[0];
        corner[index] -= shift;
    }
    let mut positive = 0;
    for (row, target) in target.as_chunks_mut::<M>().0.iter_mut().enumerate() {
        let source = corner[row];
        let pivot = source[row];
        if pivot.is_nan() || pivot.abs() <= doubt {
            return None;
        }
        positive += u32::from(pivot > 0.0);
        let inverse = 1.0 / pivot;
        *target = source.map(|value| value * inverse);
        target[row] = inverse;
        for below in row + 1..M {
            for (value, source) in corner[below].iter_mut().zip(source) {
                *value -= target[below] * source;
            }
        }
    }
    Some(positive)
}

/// Eliminate the rows of `block` in N panels from `panel` on: subtract the contribution of earlier rows, then of one another.
#[inline(always)]
fn eliminate_right<S: Simd, const M: usize, const N: usize>(
    simd: S,
    gram: &mut [f64],
    scaled: &mut [f64],
    rows: usize,
    block: usize,
    panel: usize,
) {
    let done = block * M;
    let (left, scaled) = scaled.split_at_mut((block + 1) * rows * M);
    let (left, factors) = left[block * rows * M..(block * rows + done + M) * M].split_at(done * M);
    let factors = factors.as_chunks::<M>().0;
    let gram = S::as_mut_simd_f64s(gram).0;
    let right: [&[S::f64s]; N] = panels_from(gram, rows, panel);
    let mut tile: Tile<S, M, N> = zeros(simd);
    for (row, tile) in tile.iter_mut().enumerate() {
        for (value, right) in tile.iter_mut().zip(right) {
            *value = right[done + row];
        }
    }
    let mut tile = subtract_product(simd, tile, left, right.map(|panel| &panel[..done]));
    for row in 1..M {
        for above in 0..row {
            let factor = simd.splat_f64s(factors[above][row]);
            let source = tile[above];
            for (target, source) in tile[row].iter_mut().zip(source) {
                *target = simd.negate_mul_add_f64s(factor, source, *target);
            }
        }
    }
    let scaled = S::as_mut_simd_f64s(scaled).0;
    for (row, tile) in tile.iter().enumerate() {
        let inverse = simd.splat_f64s(factors[row][row]);
        for (index, &value) in tile.iter().enumerate() {
            let target = (panel + index) * rows + done + row;
            gram[target] = value;
            scaled[target - (block + 1) * rows] = simd.mul_f64s(value, inverse);
        }
    }
}
