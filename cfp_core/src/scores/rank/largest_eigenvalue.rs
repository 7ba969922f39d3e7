//! The largest eigenvalue of a Gram matrix in panels.

use pulp::Simd;

use super::tolerances::ENCLOSED;

const POWER_STEPS: usize = 16;
const LANCZOS_STEPS: usize = 40;

/// G v for a symmetric G. `gram` contains its upper blocks; `sums` is memory for one register a row.
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
        // Four independent sums stay in registers, so that none waits for another.
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

/// Square of the Frobenius norm of a symmetric matrix. `gram` contains its upper blocks.
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

/// The largest eigenvalue by power steps, or `None` where no bound proves it to a relative width of `ENCLOSED`.
///
/// The Rayleigh quotient q of a unit vector v is a lower bound. All other eigenvalues are at most m = sqrt(|G|_F^2 - q^2).
/// Where m < q, the largest is at most q + |G v - q v|^2 / (q - m) (Temple and Kato; Parlett, The Symmetric Eigenvalue Problem,
/// 10.5). Maps after a `ReLU` have one dominant direction, their mean, and need few steps.
#[inline(always)]
pub(crate) fn enclose<S: Simd, const M: usize>(simd: S, gram: &[f64], rows: usize, vectors: &mut [f64]) -> Option<f64> {
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
            // There is no dominant direction: power steps would not converge.
            return None;
        }
    }
    None
}

/// A lower bound of the largest eigenvalue, usually close to it, by Lanczos steps without reorthogonalisation.
#[inline(always)]
pub(crate) fn lanczos<S: Simd, const M: usize>(simd: S, gram: &[f64], rows: usize, vectors: &mut [f64]) -> f64 {
    let (previous, rest) = vectors.split_at_mut(rows);
    let (v, rest) = rest.split_at_mut(rows);
    let (product, _) = rest.split_at_mut(rows);
    let mut sums = Vec::new();
    previous.fill(0.0);
    // A pseudorandom start is not orthogonal to the eigenvector, whatever symmetry the map has.
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
