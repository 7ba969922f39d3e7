//! Ranks of small maps from bidiagonal forms, with one map in each SIMD lane.
//!
//! Householder reflections bring each map to bidiagonal form (Golub and Kahan 1965). Laguerre steps from above find the largest
//! singular value. A Sturm sequence of the Golub-Kahan tridiagonal matrix counts the singular values above the threshold
//! (Demmel and Kahan 1990). The computation is in float64 on the map itself, so that its rounding error is far below the
//! float32 threshold.

use pulp::Simd;

use super::aligned::aligned;
use super::layout::lanes_of;
use super::map_in_each_lane::Method;

/// The largest height or width: eight such maps in float64 fit the first-level cache.
pub(crate) const LARGEST: usize = 16;
const LAGUERRE_STEPS: usize = 24;
const CONVERGED: f64 = 1e-7;

/// The method; its field is memory that is reused from map to map.
#[derive(Default)]
pub(crate) struct Bidiagonals {
    vectors: Vec<f64>,
}

impl Method for Bidiagonals {
    fn panel(columns: usize) -> usize {
        columns
    }

    #[inline(always)]
    fn count<S: Simd>(
        &mut self,
        simd: S,
        matrix: &mut [S::f64s],
        rows: usize,
        columns: usize,
        relative: f64,
    ) -> (S::f64s, S::f64s) {
        let vectors = aligned(&mut self.vectors, (rows + 2 * columns) * S::F64_LANES);
        let (reflector, bidiagonal) = S::as_mut_simd_f64s(vectors).0.split_at_mut(rows);
        let (diagonal, beside) = bidiagonal.split_at_mut(columns);
        bidiagonalize(simd, matrix, columns, reflector, diagonal, beside);
        let (largest, converged) = largest_square(simd, diagonal, beside);
        let threshold = simd.mul_f64s(simd.sqrt_f64s(largest), simd.splat_f64s(relative));
        let count = count_above(simd, diagonal, beside, threshold);
        let zero = simd.splat_f64s(0.0);
        (count, simd.select_f64s(simd.greater_than_f64s(threshold, zero), converged, zero))
    }
}

/// A reflection that maps a vector of square norm `square` and first entry `first` onto its first axis.
///
/// Returns the new first entry, and the factor of the outer product of the reflector (the vector with `first - becomes` as its
/// first entry). For a zero vector the reflection is the identity.
#[inline(always)]
fn reflection<S: Simd>(simd: S, square: S::f64s, first: S::f64s) -> (S::f64s, S::f64s) {
    let zero = simd.splat_f64s(0.0);
    let norm = simd.sqrt_f64s(square);
    let becomes = simd.select_f64s(simd.less_than_f64s(first, zero), norm, simd.neg_f64s(norm));
    let denominator = simd.mul_f64s(norm, simd.add_f64s(norm, simd.abs_f64s(first)));
    let factor = simd.div_f64s(simd.splat_f64s(1.0), denominator);
    (becomes, simd.select_f64s(simd.greater_than_f64s(denominator, zero), factor, zero))
}

/// Bring `matrix` \[rows * columns\], rows >= columns, to upper bidiagonal form: `diagonal` and the superdiagonal `beside`.
#[inline(always)]
fn bidiagonalize<S: Simd>(
    simd: S,
    matrix: &mut [S::f64s],
    columns: usize,
    reflector: &mut [S::f64s],
    diagonal: &mut [S::f64s],
    beside: &mut [S::f64s],
) {
    let zero = simd.splat_f64s(0.0);
    for step in 0..columns {
        // From the left: the rest of this column onto its first entry.
        let below = &mut matrix[step * columns..];
        let count = below.len() / columns;
        let reflector_left = &mut reflector[..count];
        let mut square = zero;
        for (target, row) in reflector_left.iter_mut().zip(below.chunks_exact(columns)) {
            *target = row[step];
            square = simd.mul_add_f64s(row[step], row[step], square);
        }
        let (becomes, factor) = reflection(simd, square, reflector_left[0]);
        diagonal[step] = becomes;
        reflector_left[0] = simd.sub_f64s(reflector_left[0], becomes);
        let mut column = step + 1;
        while column < columns {
            column += match columns - column {
                1 => reflect_columns::<S, 1>(simd, below, columns, column, reflector_left, factor),
                2 | 3 => reflect_columns::<S, 2>(simd, below, columns, column, reflector_left, factor),
                4..=7 => reflect_columns::<S, 4>(simd, below, columns, column, reflector_left, factor),
                _ => reflect_columns::<S, 8>(simd, below, columns, column, reflector_left, factor),
            };
        }
        // From the right: the rest of this row onto its first entry.
        beside[step] = if step + 1 < columns { below[step + 1] } else { zero };
        if step + 2 < columns {
            let (row, below) = below.split_at_mut(columns);
            let reflector_right = &mut row[step + 1..];
            let mut square = zero;
            for &value in reflector_right.iter() {
                square = simd.mul_add_f64s(value, value, square);
            }
            let (becomes, factor) = reflection(simd, square, reflector_right[0]);
            beside[step] = becomes;
            reflector_right[0] = simd.sub_f64s(reflector_right[0], becomes);
            let mut rows = below.chunks_exact_mut(4 * columns);
            for block in &mut rows {
                reflect_rows::<S, 4>(simd, block, columns, step + 1, reflector_right, factor);
            }
            for block in rows.into_remainder().chunks_exact_mut(columns) {
                reflect_rows::<S, 1>(simd, block, columns, step + 1, reflector_right, factor);
            }
        }
    }
}

/// Apply a reflection to N neighbouring columns.
#[inline(always)]
fn reflect_columns<S: Simd, const N: usize>(
    simd: S,
    rows: &mut [S::f64s],
    columns: usize,
    first: usize,
    reflector: &[S::f64s],
    factor: S::f64s,
) -> usize {
    let mut products = [simd.splat_f64s(0.0); N];
    for (row, &weight) in rows.chunks_exact(columns).zip(reflector) {
        for (product, &value) in products.iter_mut().zip(&row[first..first + N]) {
            *product = simd.mul_add_f64s(weight, value, *product);
        }
    }
    for product in &mut products {
        *product = simd.mul_f64s(*product, factor);
    }
    for (row, &weight) in rows.chunks_exact_mut(columns).zip(reflector) {
        for (&product, value) in products.iter().zip(&mut row[first..first + N]) {
            *value = simd.negate_mul_add_f64s(weight, product, *value);
        }
    }
    N
}

/// Apply a reflection to N rows, from column `first` on.
#[inline(always)]
fn reflect_rows<S: Simd, const N: usize>(
    simd: S,
    rows: &mut [S::f64s],
    columns: usize,
    first: usize,
    reflector: &[S::f64s],
    factor: S::f64s,
) {
    let length = reflector.len();
    let mut products = [simd.splat_f64s(0.0); N];
    {
        let lines: [&[S::f64s]; N] =
            std::array::from_fn(|index| &rows[index * columns + first..index * columns + first + length]);
        for (index, &weight) in reflector.iter().enumerate() {
            for (product, line) in products.iter_mut().zip(lines) {
                *product = simd.mul_add_f64s(weight, line[index], *product);
            }
        }
    }
    for (row, product) in rows.chunks_exact_mut(columns).zip(products) {
        let product = simd.mul_f64s(product, factor);
        for (value, &weight) in row[first..first + length].iter_mut().zip(reflector) {
            *value = simd.negate_mul_add_f64s(weight, product, *value);
        }
    }
}

/// The square of the largest singular value of a bidiagonal matrix, and 1 in the lanes where the steps converged, else 0.
///
/// Laguerre's method on the characteristic polynomial of transpose(B) B from above its largest root: it converges
/// monotonically and cubically for polynomials with real roots only (Parlett, The Symmetric Eigenvalue Problem, 9.4).
#[inline(always)]
fn largest_square<S: Simd>(simd: S, diagonal: &[S::f64s], beside: &[S::f64s]) -> (S::f64s, S::f64s) {
    let (zero, one) = (simd.splat_f64s(0.0), simd.splat_f64s(1.0));
    let size = simd.splat_f64s(diagonal.len() as f64);
    let less = simd.sub_f64s(size, one);
    // Both the trace and the largest sum of a row's magnitudes bound the largest eigenvalue.
    let (mut trace, mut row_sum, mut earlier, mut before) = (zero, zero, zero, zero);
    for (&a, &b) in diagonal.iter().zip(beside) {
        let entry = simd.mul_add_f64s(a, a, simd.mul_f64s(before, before));
        let later = simd.abs_f64s(simd.mul_f64s(a, b));
        trace = simd.add_f64s(trace, entry);
        row_sum = simd.max_f64s(row_sum, simd.add_f64s(entry, simd.add_f64s(earlier, later)));
        (earlier, before) = (later, b);
    }
    let mut x = simd.mul_f64s(simd.min_f64s(trace, row_sum), simd.splat_f64s(1.0 + 1e-9));
    let mut converged = zero;
    for _ in 0..LAGUERRE_STEPS {
        // The pivots of the elimination of x - transpose(B) B, with their first two derivatives.
        let (mut inverse, mut first, mut second) = (zero, zero, zero);
        let (mut sum, mut squares) = (zero, zero);
        let (mut off, mut before) = (zero, zero);
        let mut lowest = x;
        for (&a, &b) in diagonal.iter().zip(beside) {
            let entry = simd.mul_add_f64s(a, a, simd.mul_f64s(before, before));
            let weight = simd.mul_f64s(off, off);
            let scaled = simd.mul_f64s(weight, inverse);
            let ratio = simd.mul_f64s(first, inverse);
            // d = x - entry - w / d0, d' = 1 + w d0' / d0^2, d'' = w (d0'' / d0^2 - 2 d0'^2 / d0^3)
            let pivot = simd.sub_f64s(simd.sub_f64s(x, entry), scaled);
            let next_first = simd.mul_add_f64s(scaled, ratio, one);
            let bend = simd.sub_f64s(
                simd.mul_f64s(second, inverse),
                simd.mul_f64s(simd.splat_f64s(2.0), simd.mul_f64s(ratio, ratio)),
            );
            second = simd.mul_f64s(scaled, bend);
            first = next_first;
            lowest = simd.min_f64s(lowest, pivot);
            inverse = simd.div_f64s(one, pivot);
            let slope = simd.mul_f64s(first, inverse);
            sum = simd.add_f64s(sum, slope);
            squares =
                simd.add_f64s(squares, simd.sub_f64s(simd.mul_f64s(slope, slope), simd.mul_f64s(second, inverse)));
            (off, before) = (simd.mul_f64s(a, b), b);
        }
        let spread = simd.sub_f64s(simd.mul_f64s(size, squares), simd.mul_f64s(sum, sum));
        let root = simd.sqrt_f64s(simd.max_f64s(simd.mul_f64s(less, spread), zero));
        let step = simd.div_f64s(size, simd.add_f64s(sum, root));
        // All pivots are positive above the root. Where one is not, x equals the root up to rounding, and the quotients have no
        // meaning. A converged lane does not change any more.
        let above = simd.greater_than_f64s(lowest, zero);
        let small = simd.less_than_f64s(step, simd.mul_f64s(x, simd.splat_f64s(CONVERGED)));
        let done = simd.select_f64s(above, simd.select_f64s(small, one, zero), one);
        let moved = simd.select_f64s(above, simd.sub_f64s(x, step), x);
        let moving = simd.less_than_f64s(converged, one);
        x = simd.select_f64s(moving, moved, x);
        converged = simd.select_f64s(moving, done, converged);
        if lanes_of::<S>(&converged).iter().all(|&lane| lane > 0.0) {
            break;
        }
    }
    (x, converged)
}

/// The number of singular values of a bidiagonal matrix above `threshold`.
///
/// The singular values are the positive eigenvalues of the tridiagonal matrix with zeros on the diagonal and d1, e1, d2, e2, ...
/// beside it. The number of its positive shifted pivots is the number of eigenvalues above the shift.
#[inline(always)]
fn count_above<S: Simd>(simd: S, diagonal: &[S::f64s], beside: &[S::f64s], threshold: S::f64s) -> S::f64s {
    let (zero, one) = (simd.splat_f64s(0.0), simd.splat_f64s(1.0));
    let shift = simd.neg_f64s(threshold);
    let tiny = simd.splat_f64s(f64::MIN_POSITIVE);
    let mut pivot = shift;
    let mut count = zero;
    let next = |pivot: S::f64s, off: S::f64s| {
        let pivot = simd.select_f64s(simd.greater_than_f64s(simd.abs_f64s(pivot), tiny), pivot, tiny);
        simd.sub_f64s(shift, simd.div_f64s(simd.mul_f64s(off, off), pivot))
    };
    for (index, (&a, &b)) in diagonal.iter().zip(beside).enumerate() {
        pivot = next(pivot, a);
        count = simd.add_f64s(count, simd.select_f64s(simd.greater_than_f64s(pivot, zero), one, zero));
        if index + 1 < diagonal.len() {
            pivot = next(pivot, b);
            count = simd.add_f64s(count, simd.select_f64s(simd.greater_than_f64s(pivot, zero), one, zero));
        }
    }
    count
}
