//! Matrices in panels. A panel holds as many neighbouring columns as a register has float64 lanes; each of its rows fills
//! one register.

use pulp::Simd;

use super::registers::{lanes, registers};

/// Copy a row-major matrix \[R * `columns`\] into panels of R rows. Zeros fill the last panel.
pub(crate) fn panels_of_rows(matrix: &[f64], columns: usize) -> Vec<f64> {
    let lanes = lanes();
    let rows = matrix.len() / columns;
    let mut panels = vec![0.0; columns.div_ceil(lanes) * rows * lanes];
    for (index, panel) in panels.chunks_exact_mut(rows * lanes).enumerate() {
        let first = index * lanes;
        let count = lanes.min(columns - first);
        for (target, line) in panel.chunks_exact_mut(lanes).zip(matrix.chunks_exact(columns)) {
            target[..count].copy_from_slice(&line[first..first + count]);
        }
    }
    panels
}

/// Number of panels on the right of a tile of M rows: up to three, as long as all sums and operands fit the registers.
pub(crate) const fn panels_at_once<S: Simd, const M: usize>() -> usize {
    if 3 * M + 4 < registers::<S>() {
        3
    } else {
        2
    }
}

/// The N panels from panel `first` on. Each panel holds `rows` registers.
#[inline(always)]
pub(crate) fn panels_from<T, const N: usize>(matrix: &[T], rows: usize, first: usize) -> [&[T]; N] {
    std::array::from_fn(|index| &matrix[(first + index) * rows..(first + index + 1) * rows])
}
