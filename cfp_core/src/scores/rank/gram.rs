//! Ranks from Gram matrices, with one map in each SIMD lane.
//!
//! As in `inertia`, the number of singular values above t is the number of positive pivots of G - t^2 I, where t is relative to
//! the largest singular value. Power steps enclose the largest eigenvalue of G where a map has a dominant direction. Where it
//! has none, and for maps of at most `CERTIFIED` pixels a side, for which power steps cost more than they save, the trace of G
//! is an upper bound. If all pivots are positive with that larger shift, the map has full rank, apart from all-zero columns.

use pulp::Simd;

use super::aligned::aligned;
use super::layout::lanes_of;
use super::map_in_each_lane::Method;
use super::tolerances::{DOUBT, ENCLOSED};
use crate::products::{accumulate, registers};

/// Up to this side, the trace bounds the largest eigenvalue.
pub(crate) const CERTIFIED: usize = 16;
/// Columns of a tile whose sums stay in registers.
const TILE: usize = 4;
const POWER_STEPS: usize = 12;

/// The method; its fields are memory that is reused from map to map.
#[derive(Default)]
pub(crate) struct Grams {
    gram: Vec<f64>,
    scaled: Vec<f64>,
    vectors: Vec<f64>,
}

impl Method for Grams {
    fn panel(_columns: usize) -> usize {
        TILE
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
        let lanes = S::F64_LANES;
        let padded = columns.next_multiple_of(TILE);
        let matrix = matrix.as_chunks::<TILE>().0;
        let gram = aligned(&mut self.gram, padded * padded * lanes);
        let gram = S::as_mut_simd_f64s(gram).0.as_chunks_mut::<TILE>().0;
        let scaled = aligned(&mut self.scaled, padded * padded * lanes);
        let scaled = S::as_mut_simd_f64s(scaled).0.as_chunks_mut::<TILE>().0;
        multiply_self::<S>(simd, matrix, rows, gram);
        let largest = (rows > CERTIFIED).then(|| {
            let vectors = aligned(&mut self.vectors, 2 * padded * lanes);
            let (v, product) = S::as_mut_simd_f64s(vectors).0.split_at_mut(padded);
            enclose::<S>(simd, gram, v, product)
        });
        count::<S>(simd, gram, scaled, largest, rows + columns, relative)
    }
}

/// One row of a panel.
type Line<S> = [<S as Simd>::f64s; TILE];

/// Rows and columns of a symmetric matrix in panels.
fn size<T>(lines: &[[T; TILE]]) -> usize {
    (lines.len() * TILE).isqrt()
}

/// Number of eigenvalues above the square of the threshold, and 1 in the lanes where it is certain, else 0.
///
/// Where the largest eigenvalue is enclosed, the count is certain if no pivot is in doubt. Elsewhere the trace T is an upper
/// bound of it, and the count is certain only if all pivots are positive. Then no eigenvalue is below the shift minus the
/// rounding errors of the Gram matrix and of the elimination. Both errors are at most a small multiple of `sides` (rows plus
/// columns) units of rounding of T (Rump, Verification of positive definiteness, 2006).
#[inline(always)]
fn count<S: Simd>(
    simd: S,
    gram: &mut [Line<S>],
    scaled: &mut [Line<S>],
    largest: Option<(S::f64s, S::f64s)>,
    sides: usize,
    relative: f64,
) -> (S::f64s, S::f64s) {
    let (zero, one) = (simd.splat_f64s(0.0), simd.splat_f64s(1.0));
    let columns = size(gram);
    let mut trace = zero;
    for column in 0..columns {
        trace = simd.add_f64s(trace, *diagonal(gram, columns, column));
    }
    let (largest, enclosed) = largest.unwrap_or((zero, zero));
    let is_enclosed = simd.greater_than_f64s(enclosed, zero);
    let rounding = 8.0 * sides as f64 * f64::EPSILON;
    let shift = simd.select_f64s(
        is_enclosed,
        simd.mul_f64s(largest, simd.splat_f64s(relative * relative)),
        simd.mul_f64s(trace, simd.splat_f64s(relative * relative + rounding)),
    );
    let mut dead = zero;
    for column in 0..columns {
        let entry = diagonal(gram, columns, column);
        let is_live = simd.greater_than_f64s(*entry, zero);
        dead = simd.add_f64s(dead, simd.select_f64s(is_live, zero, one));
        // A dead column is zero: any positive pivot leaves the other columns unchanged.
        *entry = simd.select_f64s(is_live, simd.sub_f64s(*entry, shift), trace);
    }
    let (positive, smallest) = eliminate::<S>(simd, gram, scaled);
    let clear = simd.greater_than_f64s(smallest, simd.mul_f64s(largest, simd.splat_f64s(DOUBT)));
    let all = simd.greater_than_f64s(positive, simd.splat_f64s(columns as f64 - 0.5));
    let sound = simd.select_f64s(is_enclosed, simd.select_f64s(clear, one, zero), simd.select_f64s(all, one, zero));
    (simd.sub_f64s(positive, dead), sound)
}

fn diagonal<T>(lines: &mut [[T; TILE]], columns: usize, column: usize) -> &mut T {
    &mut lines[column / TILE * columns + column][column % TILE]
}

/// The upper blocks of transpose(A) A, for `matrix` A in panels of `rows` lines.
#[inline(always)]
fn multiply_self<S: Simd>(simd: S, matrix: &[Line<S>], rows: usize, gram: &mut [Line<S>]) {
    let columns = size(gram);
    // Two panels at a time stay in the first-level cache during the loop over the panels on their left.
    for (pair, targets) in gram.chunks_mut(2 * columns).enumerate() {
        for (block, left) in matrix.chunks_exact(rows).enumerate().take(2 * pair + 2) {
            for (index, target) in targets.chunks_exact_mut(columns).enumerate() {
                let panel = 2 * pair + index;
                if block <= panel {
                    let right = &matrix[panel * rows..(panel + 1) * rows];
                    let tile = product::<S>(simd, left, right);
                    target[block * TILE..(block + 1) * TILE].copy_from_slice(&tile);
                }
            }
        }
    }
}

/// transpose(`left`) `right` of two panels.
#[inline(always)]
fn product<S: Simd>(simd: S, left: &[Line<S>], right: &[Line<S>]) -> [Line<S>; TILE] {
    let mut tile = [[simd.splat_f64s(0.0); TILE]; TILE];
    accumulate_lines::<S>(left, right, &mut tile, |sum, left, right| simd.mul_add_f64s(left, right, sum));
    tile
}

/// Add the products of two panels to a tile, in one pass, or in two halves where a whole tile would fill every register.
#[inline(always)]
fn accumulate_lines<S: Simd>(
    left: &[Line<S>],
    right: &[Line<S>],
    tile: &mut [Line<S>; TILE],
    add: impl Fn(S::f64s, S::f64s, S::f64s) -> S::f64s + Copy,
) {
    const HALF: usize = TILE / 2;
    if registers::<S>() > TILE * TILE {
        accumulate_columns::<S, TILE>(left, right, tile, 0, add);
    } else {
        accumulate_columns::<S, HALF>(left, right, tile, 0, add);
        accumulate_columns::<S, HALF>(left, right, tile, HALF, add);
    }
}

/// Add to `W` columns of a tile from `first` on.
#[inline(always)]
fn accumulate_columns<S: Simd, const W: usize>(
    left: &[Line<S>],
    right: &[Line<S>],
    tile: &mut [Line<S>; TILE],
    first: usize,
    add: impl Fn(S::f64s, S::f64s, S::f64s) -> S::f64s,
) {
    let sums: [[S::f64s; W]; TILE] = tile.map(|line| std::array::from_fn(|column| line[first + column]));
    // Slices of equal length let the compiler drop the bounds checks in the loop.
    let right = &right[..left.len()];
    let columns = |row: usize| std::array::from_fn(|column| right[row][first + column]);
    let sums = accumulate::<S, S::f64s, TILE, W>(sums, left, columns, add);
    for (line, sums) in tile.iter_mut().zip(sums) {
        line[first..first + W].copy_from_slice(&sums);
    }
}

/// The number of positive pivots of a symmetric matrix, and the smallest magnitude of a pivot. `gram` contains its upper blocks.
///
/// Eliminates in place, left-looking. Writes to `scaled` the pivot rows divided by their pivots, with the inverse pivots on the
/// diagonal.
#[inline(always)]
fn eliminate<S: Simd>(simd: S, gram: &mut [Line<S>], scaled: &mut [Line<S>]) -> (S::f64s, S::f64s) {
    let (zero, one) = (simd.splat_f64s(0.0), simd.splat_f64s(1.0));
    let columns = size(gram);
    let (mut positive, mut smallest) = (zero, simd.splat_f64s(f64::MAX));
    for (index, panel) in gram.chunks_exact_mut(columns).enumerate() {
        let (left, own) = scaled.split_at_mut(index * columns);
        for (block, left) in left.chunks_exact(columns).enumerate() {
            let first = block * TILE;
            let mut tile = reduced::<S>(simd, panel, left, first);
            let rest = &left[first..];
            let own = &mut own[first..first + TILE];
            for pivot in 0..TILE {
                let (source, factors) = (tile[pivot], rest[pivot]);
                own[pivot] = source.map(|value| simd.mul_f64s(value, factors[pivot]));
                for below in pivot + 1..TILE {
                    subtract::<S>(simd, &mut tile[below], factors[below], source);
                }
            }
            panel[first..first + TILE].copy_from_slice(&tile);
        }
        let first = index * TILE;
        let (done, rest) = own.split_at_mut(first);
        let mut tile = reduced::<S>(simd, panel, done, first);
        for pivot in 0..TILE {
            let source = tile[pivot];
            let value = source[pivot];
            let above = simd.greater_than_f64s(value, zero);
            positive = simd.add_f64s(positive, simd.select_f64s(above, one, zero));
            smallest = simd.min_f64s(smallest, simd.abs_f64s(value));
            let inverse = simd.div_f64s(one, value);
            let mut factors = source.map(|value| simd.mul_f64s(value, inverse));
            for below in pivot + 1..TILE {
                subtract::<S>(simd, &mut tile[below], factors[below], source);
            }
            factors[pivot] = inverse;
            rest[pivot] = factors;
        }
        panel[first..first + TILE].copy_from_slice(&tile);
    }
    (positive, smallest)
}

/// A tile of four rows from `first` on, minus the contribution of earlier rows. `left` contains their scaled entries.
#[inline(always)]
fn reduced<S: Simd>(simd: S, panel: &[Line<S>], left: &[Line<S>], first: usize) -> [Line<S>; TILE] {
    let mut tile = [[simd.splat_f64s(0.0); TILE]; TILE];
    tile.copy_from_slice(&panel[first..first + TILE]);
    accumulate_lines::<S>(&left[..first], &panel[..first], &mut tile, |sum, left, right| {
        simd.negate_mul_add_f64s(left, right, sum)
    });
    tile
}

#[inline(always)]
fn subtract<S: Simd>(simd: S, target: &mut Line<S>, factor: S::f64s, source: Line<S>) {
    for (target, source) in target.iter_mut().zip(source) {
        *target = simd.negate_mul_add_f64s(factor, source, *target);
    }
}

/// An upper bound of the largest eigenvalue, and 1 in the lanes where it is correct to a relative width of `ENCLOSED`, else 0.
///
/// `largest_eigenvalue::enclose` explains the bound.
#[inline(always)]
fn enclose<S: Simd>(simd: S, gram: &[Line<S>], v: &mut [S::f64s], product: &mut [S::f64s]) -> (S::f64s, S::f64s) {
    let (zero, one) = (simd.splat_f64s(0.0), simd.splat_f64s(1.0));
    let columns = v.len();
    let mut square = zero;
    for (index, panel) in gram.chunks_exact(columns).enumerate() {
        let (above, corner) = panel[..(index + 1) * TILE].split_at(index * TILE);
        let sum = square_sum::<S>(simd, above);
        square = simd.add_f64s(square, simd.add_f64s(sum, simd.add_f64s(sum, square_sum::<S>(simd, corner))));
    }
    v.fill(one);
    multiply::<S>(simd, gram, v, product);
    let (mut largest, mut enclosed) = (zero, zero);
    for _ in 0..POWER_STEPS {
        let scale = simd.div_f64s(one, simd.sqrt_f64s(dot::<S>(simd, product, product)));
        for (v, &value) in v.iter_mut().zip(&*product) {
            *v = simd.mul_f64s(value, scale);
        }
        multiply::<S>(simd, gram, v, product);
        let quotient = dot::<S>(simd, v, product);
        let mut residual = zero;
        for (&v, &value) in v.iter().zip(&*product) {
            let difference = simd.negate_mul_add_f64s(quotient, v, value);
            residual = simd.mul_add_f64s(difference, difference, residual);
        }
        let others = simd.sqrt_f64s(simd.max_f64s(simd.negate_mul_add_f64s(quotient, quotient, square), zero));
        let gap = simd.sub_f64s(quotient, others);
        let width = simd.mul_f64s(simd.mul_f64s(gap, quotient), simd.splat_f64s(ENCLOSED));
        let near = simd.and_m64s(simd.less_than_or_equal_f64s(residual, width), simd.greater_than_f64s(gap, zero));
        // An enclosed lane does not change any more.
        let bound = simd.select_f64s(near, simd.add_f64s(quotient, simd.div_f64s(residual, gap)), largest);
        largest = simd.select_f64s(simd.less_than_f64s(enclosed, one), bound, largest);
        enclosed = simd.select_f64s(near, one, enclosed);
        if lanes_of::<S>(&enclosed).iter().all(|&lane| lane > 0.0) {
            break;
        }
    }
    (largest, enclosed)
}

#[inline(always)]
fn square_sum<S: Simd>(simd: S, lines: &[Line<S>]) -> S::f64s {
    let mut sums = [simd.splat_f64s(0.0); TILE];
    for line in lines {
        for (sum, &entry) in sums.iter_mut().zip(line) {
            *sum = simd.mul_add_f64s(entry, entry, *sum);
        }
    }
    let [a, b, c, d] = sums;
    simd.add_f64s(simd.add_f64s(a, b), simd.add_f64s(c, d))
}

#[inline(always)]
fn dot<S: Simd>(simd: S, one: &[S::f64s], other: &[S::f64s]) -> S::f64s {
    let mut sum = simd.splat_f64s(0.0);
    for (&one, &other) in one.iter().zip(other) {
        sum = simd.mul_add_f64s(one, other, sum);
    }
    sum
}

/// G v for a symmetric G. `gram` contains its upper blocks.
#[inline(always)]
fn multiply<S: Simd>(simd: S, gram: &[Line<S>], v: &[S::f64s], product: &mut [S::f64s]) {
    let zero = simd.splat_f64s(0.0);
    product.fill(zero);
    let factors = v.as_chunks::<TILE>().0;
    let products = product.as_chunks_mut::<TILE>().0;
    for (index, panel) in gram.chunks_exact(v.len()).enumerate() {
        let right = factors[index];
        let mut down = [zero; TILE];
        let blocks = panel.as_chunks::<TILE>().0.iter().zip(factors).zip(products.iter_mut());
        for ((block, left), across) in blocks.take(index) {
            for ((line, &left), across) in block.iter().zip(left).zip(across) {
                for ((&entry, &right), down) in line.iter().zip(&right).zip(&mut down) {
                    *across = simd.mul_add_f64s(entry, right, *across);
                    *down = simd.mul_add_f64s(entry, left, *down);
                }
            }
        }
        for (line, &left) in panel[index * TILE..(index + 1) * TILE].iter().zip(&right) {
            for (&entry, down) in line.iter().zip(&mut down) {
                *down = simd.mul_add_f64s(entry, left, *down);
            }
        }
        for (target, &sum) in products[index].iter_mut().zip(&down) {
            *target = simd.add_f64s(*target, sum);
        }
    }
}
