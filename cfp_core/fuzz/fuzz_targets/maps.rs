//! Maps of any shape, order of memory and value: never a panic, never a number out of range, never a wrong error.
#![no_main]

use cfp_core::{matrix_ranks, norms, rank, CoreError, Maps, Richness, Similarity, TapAccumulator};
use libfuzzer_sys::{
    arbitrary::{self, Arbitrary},
    fuzz_target,
};

#[derive(Arbitrary, Debug)]
struct Case {
    shape: [u8; 4],
    /// Which dimension varies fastest in memory, and how many numbers lie unused after each one.
    order: u8,
    gap: u8,
    fill: Vec<Value>,
    similarity: u8,
    richness: u8,
    decimals: Option<u8>,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Value {
    Zero,
    Negative(u8),
    Small(u8),
    Subnormal(u8),
    Huge(u8),
    Any(f32),
}

impl Value {
    fn number(self) -> f32 {
        match self {
            Self::Zero => 0.0,
            Self::Negative(value) => -f32::from(value) / 16.0,
            Self::Small(value) => f32::from(value) / 16.0,
            Self::Subnormal(value) => f32::from_bits(u32::from(value)),
            Self::Huge(value) => 1e30 * f32::from(value),
            Self::Any(value) => value,
        }
    }
}

fuzz_target!(|case: Case| {
    let shape = [1 + case.shape[0] % 3, 1 + case.shape[1] % 20, 1 + case.shape[2] % 70, 1 + case.shape[3] % 70]
        .map(usize::from);
    let mut strides = [0; 4];
    let mut size = 1;
    for step in 0..4 {
        let dimension = (usize::from(case.order) + step * 3) % 4;
        strides[dimension] = size;
        size *= shape[dimension] + usize::from(case.gap % 2);
    }
    let numbers: Vec<f32> = case.fill.iter().map(|value| value.number()).collect();
    let data: Vec<f32> =
        (0..size).map(|place| numbers.get(place % numbers.len().max(1)).copied().unwrap_or(0.0)).collect();
    let maps = Maps::new(&data, shape, strides).expect("the strides stay inside");
    let plane = |image: usize, channel: usize| -> Vec<f32> {
        let start = image * strides[0] + channel * strides[1];
        let rows = (0..shape[2]).flat_map(|row| (0..shape[3]).map(move |column| (row, column)));
        rows.map(|(row, column)| data[start + row * strides[2] + column * strides[3]]).collect()
    };
    let planes: Vec<Vec<f32>> =
        (0..shape[0] * shape[1]).map(|index| plane(index / shape[1], index % shape[1])).collect();
    let broken = planes.iter().position(|plane| plane.iter().any(|pixel| !pixel.is_finite()));
    let is_named = |error: &CoreError| match (error, broken) {
        (CoreError::NotFinite { image, channel, .. }, Some(index)) => {
            (*image, *channel) == (index / shape[1], index % shape[1])
        }
        _ => false,
    };
    match norms(&maps) {
        Ok(found) => assert!(broken.is_none() && found.iter().all(|norm| norm.is_finite() && *norm >= 0.0)),
        Err(error) => assert!(is_named(&error), "{error}"),
    }
    match matrix_ranks(&maps) {
        Ok(found) => {
            assert!(broken.is_none());
            // Maps do not depend on their neighbours, nor on how they lie in memory.
            for (found, plane) in found.iter().zip(&planes) {
                assert_eq!(*found, rank(plane, shape[2], shape[3]));
                assert!(*found as usize <= shape[2].min(shape[3]));
            }
        }
        Err(error) => assert!(is_named(&error), "{error}"),
    }
    let similarity = [Similarity::Norm, Similarity::Ssim, Similarity::Cosine][usize::from(case.similarity % 3)];
    let (_, richness) = Richness::ALL[usize::from(case.richness) % Richness::ALL.len()];
    let mut tap = TapAccumulator::new(shape[1], similarity, Some(richness), case.decimals.map(u32::from), "tap").unwrap();
    let indices: Vec<usize> = (0..shape[0]).collect();
    match tap.update(&maps, &indices) {
        Ok(()) => {
            let scores = tap.finish().expect("images were seen");
            assert!(broken.is_none() && scores.norms.len() == shape[0] * shape[1]);
            assert!(scores.richness.iter().flatten().chain(&scores.distance).all(|value| value.is_finite()));
        }
        Err(error) => assert!(is_named(&error), "{error}"),
    }
});
