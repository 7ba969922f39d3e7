//! Ranks, norms and distances of maps whose answer is known in closed form.

use cfp_core::{matrix_ranks, norms, pairwise_distance, rank, Maps, Richness, Similarity, TapAccumulator};

const EPSILON: f32 = f32::EPSILON;

fn diagonal(height: usize, width: usize, values: &[f32]) -> Vec<f32> {
    let mut map = vec![0.0; height * width];
    for (index, &value) in values.iter().enumerate() {
        map[index * width + index] = value;
    }
    map
}

#[test]
fn identity_has_the_rank_of_its_shorter_side() {
    for (height, width) in [(1, 1), (1, 7), (2, 2), (7, 3), (32, 32), (33, 33), (40, 64), (100, 20)] {
        let side = height.min(width);
        assert_eq!(rank(&diagonal(height, width, &vec![1.0; side]), height, width), side as u32, "{height}x{width}");
    }
}

#[test]
fn outer_products_have_rank_one_and_zeros_none() {
    for (height, width) in [(1, 1), (2, 2), (5, 9), (32, 32), (33, 32), (64, 50)] {
        let map: Vec<f32> =
            (0..height * width).map(|pixel| ((pixel / width + 1) * (pixel % width + 1)) as f32).collect();
        assert_eq!(rank(&map, height, width), 1, "{height}x{width}");
        assert_eq!(rank(&vec![0.0; height * width], height, width), 0);
        assert_eq!(rank(&vec![-0.0; height * width], height, width), 0);
    }
}

#[test]
fn threshold_is_the_longer_side_times_epsilon_times_the_largest() {
    for (height, width) in [(2, 2), (2, 30), (16, 16), (64, 64), (40, 90)] {
        let threshold = height.max(width) as f32 * EPSILON;
        for scale in [1.0f32, 3.0, 1e-20, 1e20] {
            let above = diagonal(height, width, &[scale, scale * threshold * 1.01]);
            let below = diagonal(height, width, &[scale, scale * threshold * 0.99]);
            assert_eq!((rank(&above, height, width), rank(&below, height, width)), (2, 1), "{height}x{width} {scale}");
        }
    }
}

#[test]
fn graded_diagonals_count_what_lies_above_the_threshold() {
    // 1, 1/2, 1/4, ...: exact in float32, above a threshold of 2^-23 * side.
    for side in [4usize, 16, 32, 64, 128] {
        let values: Vec<f32> =
            std::iter::successors(Some(1.0f32), |value| Some(value / 2.0)).take(side.min(60)).collect();
        let threshold = side as f32 * EPSILON;
        let expected = values.iter().filter(|&&value| value > threshold * 1.0001).count();
        let at_threshold = values.iter().any(|&value| (value / threshold - 1.0).abs() < 1e-4);
        let found = rank(&diagonal(side, side, &values), side, side) as usize;
        // A singular value that is the threshold itself may fall on either side.
        assert!(found == expected || (at_threshold && found == expected + 1), "{side}: {found} {expected}");
    }
}

#[test]
fn norms_are_root_sums_of_squares() {
    let data: Vec<f32> = (0..2 * 3 * 4 * 5).map(|pixel| pixel as f32 - 50.0).collect();
    let maps = Maps::contiguous(&data, [2, 3, 4, 5]).unwrap();
    for (found, map) in norms(&maps).unwrap().iter().zip(data.chunks_exact(20)) {
        let square: f64 = map.iter().map(|&pixel| f64::from(pixel).powi(2)).sum();
        assert!((found - square.sqrt()).abs() <= 1e-14 * square.sqrt());
    }
}

#[test]
fn distances_come_in_condensed_order() {
    let table = [1.0, 3.0, 7.0, 2.0, 2.0, 10.0];
    let found = pairwise_distance(&table, 3, 4).unwrap();
    assert_eq!(found, [(2.0 + 0.0) / 8.0, (6.0 + 8.0) / 8.0, (4.0 + 8.0) / 8.0]);
}

#[test]
fn one_channel_has_no_distances() {
    assert!(pairwise_distance(&[1.0, 2.0], 1, 1).unwrap().is_empty());
}

#[test]
fn every_criterion_goes_through_the_accumulator() {
    let data: Vec<f32> = (0..3 * 4 * 81).map(|pixel| ((pixel * 7919) % 101) as f32 / 101.0).collect();
    let maps = Maps::contiguous(&data, [3, 4, 9, 9]).unwrap();
    for (_, similarity) in Similarity::ALL {
        for (_, richness) in Richness::ALL {
            let mut accumulator = TapAccumulator::new(4, similarity, Some(richness), Some(4), "tap").unwrap();
            accumulator.update(&maps, &[0, 1, 2]).unwrap();
            let scores = accumulator.finish().unwrap();
            assert_eq!((scores.images, scores.size), (3, (9, 9)));
            assert_eq!(
                (scores.distance.len(), scores.richness.as_deref().map_or(0, <[f64]>::len), scores.norms.len()),
                (6, 4, 12)
            );
            assert!(scores.distance.iter().chain(scores.richness.iter().flatten()).all(|value| value.is_finite()));
        }
    }
}

#[test]
fn names_of_criteria_are_read_back() {
    for (name, similarity) in Similarity::ALL {
        assert_eq!((name.parse(), similarity.to_string().as_str()), (Ok(similarity), name));
    }
    for (name, richness) in Richness::ALL {
        assert_eq!((name.parse(), richness.to_string().as_str()), (Ok(richness), name));
    }
    let error = "cosinus".parse::<Similarity>().unwrap_err().to_string();
    assert!(error.contains("cosinus") && error.contains("cosine"), "{error}");
}

#[test]
fn views_that_reach_outside_their_data_are_refused() {
    let data = [0.0f32; 24];
    assert!(Maps::contiguous(&data, [1, 2, 3, 4]).is_ok());
    assert!(Maps::contiguous(&data, [1, 2, 3, 5]).is_err());
    assert!(Maps::contiguous(&data[..23], [1, 2, 3, 4]).is_err());
    assert!(Maps::new(&data, [2, 2, 3, 4], [0, 12, 4, 1]).is_ok());
    assert!(Maps::new(&data, [2, 2, 3, 4], [1, 12, 4, 1]).is_err());
    assert!(Maps::new(&data, [1, 0, 3, 4], [24, 12, 4, 1]).is_err());
    assert!(matrix_ranks(&Maps::contiguous(&[], [0, 2, 3, 4]).unwrap()).unwrap().is_empty());
}
