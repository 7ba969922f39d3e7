//! The SIMD registers of this machine.

use pulp::{Arch, Simd, WithSimd};

/// Number of float64 lanes of a register.
pub(crate) fn lanes() -> usize {
    Arch::new().dispatch(Lanes)
}

/// The instruction set that the kernels use on this machine: `avx512`, `avx2`, `neon` or `baseline`.
#[must_use]
pub fn simd_level() -> &'static str {
    match (lanes(), cfg!(target_arch = "aarch64")) {
        (8, _) => "avx512",
        (4, _) => "avx2",
        (_, true) => "neon",
        _ => "baseline",
    }
}

/// Number of SIMD registers: AVX-512 and 64-bit ARM have 32, the other instruction sets 16.
pub(crate) const fn registers<S: Simd>() -> usize {
    if S::F64_LANES == 8 || cfg!(target_arch = "aarch64") {
        32
    } else {
        16
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
