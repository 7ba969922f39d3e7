//! Rank of one large map without its singular values: the inertia of its shifted Gram matrix.
//!
//! With G = transpose(A) A, the singular values of A above t are the eigenvalues of G above t^2, and by Sylvester's law of
//! inertia their number is the number of positive pivots of an elimination of G - t^2 I. t follows from the largest
//! singular value, which power steps find with a proven bound. All in float64, which resolves t^2 with digits to spare.
//! Where a pivot or the bound is too close to call there is no answer, and the caller takes the singular values.

use pulp::{Simd, WithSimd};

use super::aligned::aligned;
use super::{DOUBT, ENCLOSED};
use crate::panels::{at_once, panels_from};
use crate::tile::{add_product, subtract_product, zeros, Tile};

const POWER_STEPS: usize = 16;
/// Where power steps do not enclose it, Lanczos steps guess it and an elimination proves the guess to this width.
const LANCZOS_STEPS: usize = 40;
const GUESSED: f64 = 2e-4;

/// Memory that is used again from map to map.
#[derive(Default)]
pub(crate) struct Scratch {
    columns: Vec<f64>,
    gram: Vec<f64>,
    copy: Vec<f64>,
    vectors: Vec<f64>,
}

/// The number of singular values of a matrix above `relative` times the largest; `None` where it is too close to call.
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
        // The columns are not needed any more: their memory takes the scaled pivot rows.
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

/// The shorter side's vectors as float64 columns in panels of M, the last filled up with zeros.
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

/// The upper blocks of transpose(X) X, in panels with as many rows as there are columns.
#[inline(always)]
fn gram_of_columns<S: Simd, const M: usize>(simd: S, columns: &[f64], inner: usize, gram: &mut [f64]) {
    let registers = S::as_simd_f64s(columns).0;
    let count = registers.len() / inner;
    let gram = S::as_mut_simd_f64s(gram).0;
    let mut panel = 0;
    // The panels on the right stay in the first cache while those on the left go by.
    while panel < count {
        let end = count.min(panel + at_once::<S, M>());
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

/// G v for a symmetric G of which the upper blocks are kept; `sums` is memory for one register a row.
#[inline(always)]
fn multiply<S: Simd, const M: usize>(simd: S, gram: &[f64], v: &[f64], product: &mut [f64], sums: &mut Vec<S::f64s>) {
    let rows = v.len();
    let gram = S::as_simd_f64s(gram).0;
    let zero = simd.splat_f64s(0.0);
    sums.clear();
    sums.resize(rows, zero);
    let lanes = S::as_simd_f64s(v).0;
    let target = S::as_mut_simd_f64s(product).0;
    for (panel, ((column, &right), target)) in gram.chunks_exact(rows).zip(lanes).zip(target.iter_mut()).enumerate() {
        let above = panel * M;
        let mut partial = [zero; 4];
        // Four sums at a time stay in registers and do not wait for one another.
        let (entries, entries_rest) = column[..above].as_chunks::<4>();
        let (factors, factors_rest) = v[..above].as_chunks::<4>();
        let (targets, targets_rest) = sums[..above].as_chunks_mut::<4>();
        for ((entries, factors), targets) in entries.iter().zip(factors).zip(targets) {
            for index in 0..4 {
                let entry = entries[index];
                partial[index] = simd.mul_add_f64s(simd.splat_f64s(factors[index]), entry, partial[index]);
                targets[index] = simd.mul_add_f64s(entry, right, targets[index]);
            }
        }
        for ((&entry, &factor), target) in entries_rest.iter().zip(factors_rest).zip(targets_rest) {
            partial[0] = simd.mul_add_f64s(simd.splat_f64s(factor), entry, partial[0]);
            *target = simd.mul_add_f64s(entry, right, *target);
        }
        for (&entry, &factor) in column[above..above + M].iter().zip(&v[above..above + M]) {
            partial[0] = simd.mul_add_f64s(simd.splat_f64s(factor), entry, partial[0]);
        }
        let [a, b, c, d] = partial;
        *target = simd.add_f64s(simd.add_f64s(a, b), simd.add_f64s(c, d));
    }
    for (target, &sum) in product.iter_mut().zip(sums.iter()) {
        *target += simd.reduce_sum_f64s(sum);
    }
}

#[inline(always)]
fn dot<S: Simd>(simd: S, one: &[f64], other: &[f64]) -> f64 {
    let mut sum = simd.splat_f64s(0.0);
    for (&a, &b) in S::as_simd_f64s(one).0.iter().zip(S::as_simd_f64s(other).0) {
        sum = simd.mul_add_f64s(a, b, sum);
    }
    simd.reduce_sum_f64s(sum)
}

/// Square of the Frobenius norm of the whole symmetric matrix of which the upper blocks are kept.
#[inline(always)]
fn square_norm<S: Simd, const M: usize>(simd: S, gram: &[f64], rows: usize) -> f64 {
    let mut total = 0.0;
    for (panel, column) in S::as_simd_f64s(gram).0.chunks_exact(rows).enumerate() {
        let (above, diagonal) = column[..(panel + 1) * M].split_at(panel * M);
        let mut sums = [simd.splat_f64s(0.0); 2];
        let (pairs, rest) = above.as_chunks::<2>();
        for [one, other] in pairs {
            sums[0] = simd.mul_add_f64s(*one, *one, sums[0]);
            sums[1] = simd.mul_add_f64s(*other, *other, sums[1]);
        }
        for &entry in rest {
            sums[0] = simd.mul_add_f64s(entry, entry, sums[0]);
        }
        let mut sum = simd.splat_f64s(0.0);
        for &entry in diagonal {
            sum = simd.mul_add_f64s(entry, entry, sum);
        }
        total += 2.0 * simd.reduce_sum_f64s(simd.add_f64s(sums[0], sums[1])) + simd.reduce_sum_f64s(sum);
    }
    total
}

/// The largest eigenvalue, by power steps, where a bound proves it to a relative width of `ENCLOSED`.
///
/// The Rayleigh quotient q of a unit vector v is a lower bound. All others are at most m = sqrt(|G|_F^2 - q^2); where m < q,
/// the largest is at most q + |G v - q v|^2 / (q - m) (Temple and Kato; Parlett, The Symmetric Eigenvalue Problem, 10.5).
/// Maps after a `ReLU` have one dominant direction, their mean, so that a few steps do.
#[inline(always)]
fn enclose<S: Simd, const M: usize>(simd: S, gram: &[f64], rows: usize, vectors: &mut [f64]) -> Option<f64> {
    let square = square_norm::<S, M>(simd, gram, rows);
    let (v, rest) = vectors.split_at_mut(rows);
    let product = &mut rest[..rows];
    let mut sums = Vec::new();
    v.fill(1.0);
    multiply::<S, M>(simd, gram, v, product, &mut sums);
    for step in 0..POWER_STEPS {
        let length = dot(simd, product, product).sqrt();
        if length <= 0.0 {
            return None;
        }
        let scale = 1.0 / length;
        for (v, &value) in v.iter_mut().zip(product.iter()) {
            *v = value * scale;
        }
        multiply::<S, M>(simd, gram, v, product, &mut sums);
        let quotient = dot(simd, v, product);
        let others = (square - quotient * quotient).max(0.0).sqrt();
        let gap = quotient - others;
        if gap > 0.0 {
            let residual: f64 =
                v.iter().zip(product.iter()).map(|(v, p)| (p - quotient * v) * (p - quotient * v)).sum();
            if residual <= gap * quotient * ENCLOSED {
                return Some(quotient + residual / gap);
            }
        } else if step >= 3 {
            // No dominant direction: power steps will not do.
            return None;
        }
    }
    None
}

/// A lower bound of the largest eigenvalue that is close to it as a rule, by Lanczos steps without reorthogonalisation.
#[inline(always)]
fn lanczos<S: Simd, const M: usize>(simd: S, gram: &[f64], rows: usize, vectors: &mut [f64]) -> f64 {
    let (previous, rest) = vectors.split_at_mut(rows);
    let (v, rest) = rest.split_at_mut(rows);
    let (product, _) = rest.split_at_mut(rows);
    let mut sums = Vec::new();
    previous.fill(0.0);
    // Any start does that no symmetry makes orthogonal to the sought vector.
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    for value in v.iter_mut() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        *value = (state >> 11) as f64 / (1u64 << 53) as f64 + 0.25;
    }
    let (mut diagonal, mut off) = (Vec::with_capacity(LANCZOS_STEPS), Vec::with_capacity(LANCZOS_STEPS));
    let mut length = dot(simd, v, v).sqrt();
    for value in v.iter_mut() {
        *value /= length;
    }
    length = 0.0;
    for _ in 0..LANCZOS_STEPS.min(rows) {
        multiply::<S, M>(simd, gram, v, product, &mut sums);
        let quotient = dot(simd, v, product);
        diagonal.push(quotient);
        for ((product, &v), &previous) in product.iter_mut().zip(v.iter()).zip(previous.iter()) {
            *product -= quotient * v + length * previous;
        }
        length = dot(simd, product, product).sqrt();
        if length <= 1e-14 * diagonal[0].abs() {
            break;
        }
        off.push(length);
        for ((previous, v), &product) in previous.iter_mut().zip(v.iter_mut()).zip(product.iter()) {
            *previous = *v;
            *v = product / length;
        }
    }
    largest_of_tridiagonal(&diagonal, &off)
}

/// The largest eigenvalue of a symmetric tridiagonal matrix by bisection, to 1e-9 relative.
#[inline(always)]
fn largest_of_tridiagonal(diagonal: &[f64], off: &[f64]) -> f64 {
    let beside = |index: usize| off.get(index).copied().unwrap_or(0.0);
    let mut low = diagonal.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mut high = (0..diagonal.len())
        .map(|index| diagonal[index] + beside(index) + if index > 0 { beside(index - 1) } else { 0.0 })
        .fold(low, f64::max);
    while high - low > 1e-9 * high {
        let middle = 0.5 * (low + high);
        let mut pivot = f64::INFINITY;
        let below = diagonal.iter().enumerate().all(|(index, &value)| {
            let square = if index > 0 { beside(index - 1) * beside(index - 1) } else { 0.0 };
            pivot = middle - value - square / pivot;
            pivot > 0.0
        });
        if below {
            high = middle;
        } else {
            low = middle;
        }
    }
    high
}

/// The number of positive pivots of G - `shift` I, by a left-looking block elimination of the upper blocks, in place.
///
/// `None` as soon as a pivot is not larger than `doubt`. `scaled` takes the pivot rows divided by their pivots, and on its
/// diagonal the inverse pivots.
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
    // As for the Gram matrix, the panels that are worked on stay in the first cache.
    while panel < count {
        let end = count.min(panel + at_once::<S, M>());
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

/// The pivots of one block: the number of positive ones. Its rows in its own columns go to `scaled`.
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

/// The rows of `block` in N panels from `panel` on: subtract what earlier rows give, then eliminate among themselves.
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
            let place = (panel + index) * rows + done + row;
            gram[place] = value;
            scaled[place - (block + 1) * rows] = simd.mul_f64s(value, inverse);
        }
    }
}
