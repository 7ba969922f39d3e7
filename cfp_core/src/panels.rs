//! Matrices in panels: as many neighbouring columns as a register has float64 lanes, each row of a panel one register.

use pulp::{Arch, Simd, WithSimd};

/// Float64 lanes of a register on this machine.
pub(crate) fn lanes() -> usize {
    Arch::new().dispatch(Lanes)
}

/// The instruction set that the kernels use on this machine.
#[must_use]
pub fn simd_level() -> &'static str {
    match (lanes(), cfg!(target_arch = "aarch64")) {
        (8, _) => "avx512",
        (4, _) => "avx2",
        (_, true) => "neon",
        _ => "baseline",
    }
}

struct Lanes;

impl WithSimd for Lanes {
    type Output = usize;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) -> usize {
        S::F64_LANES
    }
}

/// A row-major matrix \[R * `columns`\] in panels of R rows, the last filled up with zeros.
pub(crate) fn of_rows(matrix: &[f64], columns: usize) -> Vec<f64> {
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

/// SIMD registers of the instruction set: twice as many come with the widest ones and with 64-bit ARM.
pub(crate) const fn registers<S: Simd>() -> usize {
    if S::F64_LANES == 8 || cfg!(target_arch = "aarch64") {
        32
    } else {
        16
    }
}

/// Panels on the right of a tile of M rows: as many, up to three, as leave a register free beside the sums and operands.
pub(crate) const fn at_once<S: Simd, const M: usize>() -> usize {
    if 3 * M + 4 < registers::<S>() {
        3
    } else {
        2
    }
}

/// N panels from `first` on, of a matrix whose panels hold `rows` registers each.
#[inline(always)]
pub(crate) fn panels_from<T, const N: usize>(matrix: &[T], rows: usize, first: usize) -> [&[T]; N] {
    std::array::from_fn(|index| &matrix[(first + index) * rows..(first + index + 1) * rows])
}
