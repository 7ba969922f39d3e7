//! What is kept of the feature maps of one tap while images go by: a row of numbers for each image, never a map.

use std::collections::BTreeMap;

use crate::condensed::pairs;
use crate::covariance::{counted, Moments};
use crate::criteria::{Richness, Similarity};
use crate::entropy::entropy;
use crate::prepare::{plane_norm, round, scale};
use crate::range::range;
use crate::shares::{for_each_share, Memory, Share};
use crate::similarity::{add_cosine, add_ssim};
use crate::spectrum::{effective_rank, nuclear};
use crate::{explained_variance, pairwise_distance, threads, CoreError, Maps};

/// Scores of one tap over all its images.
#[derive(Clone, Debug)]
pub struct TapScores {
    /// Frobenius norms \[N * C\], in the order of image indices.
    pub norms: Vec<f64>,
    /// Condensed distances \[C (C - 1) / 2\].
    pub distance: Vec<f64>,
    /// Richness of every channel \[C\]: the mean over the images, or the share of variance of `explained_variance`.
    pub richness: Vec<f64>,
    /// Covariances of the channels \[C * C\]; empty where the richness does not need them.
    pub covariance: Vec<f64>,
    /// Number of images N.
    pub images: usize,
    /// Height and width of a map in pixels.
    pub size: (usize, usize),
    /// Whether all pairs of channels are equally far apart (or all the same, where there is only one pair).
    pub saturated_similarity: bool,
    /// Whether all channels are equally rich.
    pub saturated_richness: bool,
}

/// All that an accumulator holds, as plain data that another process can be sent.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    /// Number of channels C.
    pub channels: usize,
    /// Criterion of distance.
    pub similarity: Similarity,
    /// Criterion of detail.
    pub richness: Richness,
    /// Decimals that maps are rounded to before their rank is taken.
    pub decimals: Option<u32>,
    /// The tap, for messages.
    pub name: String,
    /// Height and width of a map, once one was seen.
    pub size: Option<(usize, usize)>,
    /// Indices of the images N, ascending.
    pub images: Vec<usize>,
    /// Frobenius norms \[N * C\].
    pub norms: Vec<f64>,
    /// Richness \[N * C\].
    pub rich: Vec<f64>,
    /// Sums of distances over the images \[C (C - 1) / 2\]; empty where distances follow from the norms.
    pub sums: Vec<f64>,
    /// Sums over the counted pixels of every channel \[C\]; empty where the richness needs no covariances, as is the next.
    pub totals: Vec<f64>,
    /// Sums over the counted pixels of products of channels \[C * C\], of each with itself and later ones, zeros elsewhere.
    pub products: Vec<f64>,
}

/// Accumulates the scores of one tap.
///
/// Memory is two numbers for each image and channel, one for each pair of channels where the distance needs the maps, and
/// two where the richness is the explained variance. Numbers of an image do not depend on the batch it came in, the number
/// of threads or the order of images. Only the sums of SSIM's and the cosine's distances and of covariances depend, in
/// their last bits, on the order of merging.
#[derive(Clone, Debug)]
pub struct TapAccumulator {
    name: String,
    channels: usize,
    similarity: Similarity,
    richness: Richness,
    decimals: Option<u32>,
    size: Option<(usize, usize)>,
    rows: BTreeMap<usize, Row>,
    /// Sums of condensed distances over the images, for those that need the maps themselves; empty for the norm's.
    sums: Vec<f64>,
    /// What covariances are made of, where the richness needs them.
    moments: Option<Moments>,
}

/// The widest tap: distances of all pairs of its channels take 4 GiB.
const MOST_CHANNELS: usize = 1 << 15;

#[derive(Clone, Debug)]
struct Row {
    norms: Vec<f64>,
    richness: Vec<f64>,
}

impl TapAccumulator {
    /// An accumulator for maps of `channels` channels.
    ///
    /// * `decimals`: maps are rounded to so many decimals, half to even, before their richness is taken.
    /// * `name`: the tap, for messages.
    ///
    /// # Errors
    /// There are no channels, or more than 32,768.
    pub fn new(
        channels: usize,
        similarity: Similarity,
        richness: Richness,
        decimals: Option<u32>,
        name: &str,
    ) -> Result<Self, CoreError> {
        if channels == 0 {
            return Err(CoreError::Option("a tap needs at least one channel".into()));
        }
        if channels > MOST_CHANNELS {
            return Err(CoreError::Option(format!(
                "a tap of {channels} channels is too wide; at most {MOST_CHANNELS}"
            )));
        }
        let sums = if similarity == Similarity::Norm { Vec::new() } else { vec![0.0; pairs(channels)] };
        let moments = (richness == Richness::ExplainedVariance).then(|| Moments::new(channels));
        let name = name.to_owned();
        Ok(Self { name, channels, similarity, richness, decimals, size: None, rows: BTreeMap::new(), sums, moments })
    }

    /// Number of images seen.
    #[must_use]
    pub fn images(&self) -> usize {
        self.rows.len()
    }

    fn tap(&self) -> String {
        if self.name.is_empty() {
            String::new()
        } else {
            format!("tap {}: ", self.name)
        }
    }

    /// Index of the image that follows the last one.
    #[must_use]
    pub fn next_image(&self) -> usize {
        self.rows.last_key_value().map_or(0, |(last, _)| last + 1)
    }

    /// Reduce maps \[N, C, H, W\] of the images with the given indices in the whole run.
    ///
    /// # Errors
    /// The maps have another number of channels, images or another size than before, hold NaN or infinity, or an image was
    /// given before. Nothing is taken from a batch with an error.
    pub fn update(&mut self, maps: &Maps, indices: &[usize]) -> Result<(), CoreError> {
        let [images, channels, height, width] = maps.shape();
        let size = self.size.unwrap_or((height, width));
        if channels != self.channels || size != (height, width) || images != indices.len() {
            let count = if images == indices.len() { "N".into() } else { indices.len().to_string() };
            return Err(CoreError::Shape {
                tap: self.tap(),
                expected: match self.size {
                    Some((height, width)) => format!("maps [{count}, {}, {height}, {width}]", self.channels),
                    None => format!("maps [{count}, {}, H, W]", self.channels),
                },
                found: maps.shape().to_vec(),
            });
        }
        let mut sorted = indices.to_vec();
        sorted.sort_unstable();
        let twice = sorted.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0]);
        if let Some(image) = twice.or_else(|| sorted.into_iter().find(|image| self.rows.contains_key(image))) {
            return Err(CoreError::Repeated { tap: self.tap(), image });
        }
        let reduced = self.reduce(maps)?;
        if let Some(wrong) = reduced.iter().position(|(norm, _)| !norm.is_finite()) {
            let (image, channel) = (indices[wrong / channels], wrong % channels);
            return Err(CoreError::NotFinite { tap: self.tap(), image, channel });
        }
        self.size = Some(size);
        for (row, &image) in reduced.chunks_exact(channels).zip(indices) {
            let (norms, richness) = row.iter().copied().unzip();
            self.rows.insert(image, Row { norms, richness });
        }
        if let Some(moments) = &mut self.moments {
            (0..images).try_for_each(|image| moments.add(maps, image))?;
        }
        let sums = &mut self.sums;
        match self.similarity {
            Similarity::Norm => Ok(()),
            Similarity::Ssim => threads::run(|| (0..images).for_each(|image| add_ssim(maps, image, sums))),
            Similarity::Cosine => threads::run(|| (0..images).for_each(|image| add_cosine(maps, image, sums))),
        }
    }

    /// Norm and richness of every map \[N * C\]; where the norm is not finite the richness means nothing.
    fn reduce(&self, maps: &Maps) -> Result<Vec<(f64, f64)>, CoreError> {
        let [images, channels, height, width] = maps.shape();
        let size = height * width;
        let ranges: Vec<(f32, f32)> = match self.richness {
            Richness::Entropy => threads::run(|| (0..images).map(|image| range(maps, image)).collect())?,
            _ => Vec::new(),
        };
        let scale = self.decimals.filter(|_| self.richness == Richness::Rank).map(scale);
        let mut reduced = vec![(0.0, 0.0); images * channels];
        for_each_share(
            &mut reduced,
            maps,
            |Memory { planes, rounded, ranks, ranker }, Share { image, first, values }| {
                let pixels = maps.planes(image, first, values.len(), planes);
                for ((norm, _), map) in values.iter_mut().zip(pixels.chunks_exact(size)) {
                    *norm = plane_norm(map);
                }
                if values.iter().any(|(norm, _)| !norm.is_finite()) {
                    return;
                }
                let measure = match self.richness {
                    // It is one figure of all images.
                    Richness::ExplainedVariance => return,
                    Richness::Rank => {
                        let pixels = if let Some(scale) = scale {
                            rounded.resize(pixels.len(), 0.0);
                            round(pixels, scale, rounded);
                            rounded.as_slice()
                        } else {
                            pixels
                        };
                        ranks.resize(values.len(), 0);
                        ranker.ranks(pixels, height, width, ranks);
                        for ((_, rich), &rank) in values.iter_mut().zip(ranks.iter()) {
                            *rich = f64::from(rank);
                        }
                        return;
                    }
                    Richness::Entropy => |map: &[f32], range, _, _| entropy(map, range),
                    Richness::EffectiveRank => |map: &[f32], _, height, width| effective_rank(map, height, width),
                    Richness::Nuclear => |map: &[f32], _, height, width| nuclear(map, height, width),
                };
                let range = ranges.get(image).copied().unwrap_or_default();
                for ((_, rich), map) in values.iter_mut().zip(pixels.chunks_exact(size)) {
                    *rich = measure(map, range, height, width);
                }
            },
        )?;
        Ok(reduced)
    }

    /// Take over the images of another accumulator of the same tap.
    ///
    /// # Errors
    /// The two measure different things, or both have seen an image.
    pub fn merge(&mut self, other: &Self) -> Result<(), CoreError> {
        let differs = |reason: &str| Err(CoreError::Merge { tap: self.tap(), reason: reason.into() });
        if self.channels != other.channels {
            return differs("the numbers of channels differ");
        }
        if (self.similarity, self.richness, self.decimals) != (other.similarity, other.richness, other.decimals) {
            return differs("the criteria differ");
        }
        if self.size.is_some() && other.size.is_some() && self.size != other.size {
            return differs("the sizes of the maps differ");
        }
        if let Some(&image) = other.rows.keys().find(|image| self.rows.contains_key(image)) {
            return Err(CoreError::Repeated { tap: self.tap(), image });
        }
        self.size = self.size.or(other.size);
        self.rows.extend(other.rows.iter().map(|(&image, row)| (image, row.clone())));
        for (sum, value) in self.sums.iter_mut().zip(&other.sums) {
            *sum += value;
        }
        if let (Some(moments), Some(others)) = (&mut self.moments, &other.moments) {
            moments.merge(others);
        }
        Ok(())
    }

    /// The scores over all images so far.
    ///
    /// # Errors
    /// There are no images.
    pub fn finish(&self) -> Result<TapScores, CoreError> {
        let Some(size) = self.size.filter(|_| !self.rows.is_empty()) else {
            return Err(CoreError::Empty { tap: self.tap() });
        };
        let norms: Vec<f64> = self.rows.values().flat_map(|row| row.norms.iter().copied()).collect();
        let count = self.rows.len() as f64;
        let distance = match self.similarity {
            Similarity::Norm => pairwise_distance(&norms, self.channels, size.0)?,
            Similarity::Ssim | Similarity::Cosine => self.sums.iter().map(|sum| sum / count).collect(),
        };
        let (covariance, richness) = match &self.moments {
            Some(moments) => {
                let covariance = moments.covariance(self.rows.len() * counted(size.0 * size.1));
                let richness = explained_variance(&covariance, self.channels)?;
                (covariance, richness)
            }
            None => (Vec::new(), self.mean_richness()),
        };
        let saturated_similarity = match distance.as_slice() {
            [] => false,
            [only] => *only <= 0.0,
            several => same(several),
        };
        let saturated_richness = self.channels > 1 && same(&richness);
        let images = self.rows.len();
        Ok(TapScores { norms, distance, richness, covariance, images, size, saturated_similarity, saturated_richness })
    }

    fn mean_richness(&self) -> Vec<f64> {
        let mut richness = vec![0.0; self.channels];
        for row in self.rows.values() {
            for (sum, value) in richness.iter_mut().zip(&row.richness) {
                *sum += value;
            }
        }
        let count = self.rows.len() as f64;
        richness.into_iter().map(|sum| sum / count).collect()
    }

    /// All that is held, as plain data.
    #[must_use]
    pub fn state(&self) -> State {
        let Moments { totals, products } = self.moments.clone().unwrap_or_default();
        State {
            channels: self.channels,
            similarity: self.similarity,
            richness: self.richness,
            decimals: self.decimals,
            name: self.name.clone(),
            size: self.size,
            images: self.rows.keys().copied().collect(),
            norms: self.rows.values().flat_map(|row| row.norms.iter().copied()).collect(),
            rich: self.rows.values().flat_map(|row| row.richness.iter().copied()).collect(),
            sums: self.sums.clone(),
            totals,
            products,
        }
    }

    /// The accumulator that gave this state.
    ///
    /// # Errors
    /// The parts of the state do not fit together.
    pub fn from_state(state: State) -> Result<Self, CoreError> {
        let State { channels, similarity, richness, decimals, name, size, images, norms, rich, sums, totals, products } =
            state;
        let mut held = Self::new(channels, similarity, richness, decimals, &name)?;
        let table = images.len() * channels;
        let ascending = images.windows(2).all(|pair| pair[0] < pair[1]);
        let moments = held.moments.clone().unwrap_or_default();
        let sizes = [
            (norms.len(), table),
            (rich.len(), table),
            (sums.len(), held.sums.len()),
            (totals.len(), moments.totals.len()),
            (products.len(), moments.products.len()),
        ];
        let fits = sizes.iter().all(|(found, due)| found == due);
        if !fits || !ascending || size.is_none() != images.is_empty() {
            return Err(CoreError::Option(format!("{}the parts of the state do not fit together", held.tap())));
        }
        let tables = norms.chunks_exact(channels).zip(rich.chunks_exact(channels));
        let rows = tables.map(|(norms, rich)| Row { norms: norms.to_vec(), richness: rich.to_vec() });
        held.rows = images.into_iter().zip(rows).collect();
        (held.size, held.sums) = (size, sums);
        held.moments = held.moments.map(|_| Moments { totals, products });
        Ok(held)
    }
}

/// Whether all values are one and the same, so that they cannot tell anything apart.
fn same(values: &[f64]) -> bool {
    values.windows(2).all(|pair| pair[0].to_bits() == pair[1].to_bits())
}
