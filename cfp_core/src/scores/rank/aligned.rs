//! Memory for SIMD registers.

/// Number of float64 numbers in a cache line.
const LINE: usize = 8;

/// `count` numbers of `memory`, of any value, that start at a cache line: a register that spans two lines loads half as fast.
pub(crate) fn aligned(memory: &mut Vec<f64>, count: usize) -> &mut [f64] {
    memory.resize(count + LINE, 0.0);
    let start = memory.as_ptr().align_offset(LINE * size_of::<f64>()).min(LINE);
    &mut memory[start..start + count]
}
