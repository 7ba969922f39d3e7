//! What is kept of the feature maps of one tap while images go by: a row of numbers for each image, never a map.

use std::collections::BTreeMap;
use std::str::FromStr;

use rayon::prelude::*;

use crate::norms::plane_norm;
use crate::{pairwise_distance, rank, threads, CoreError, Maps};

/// Criterion of distance between channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Similarity {
    /// Difference of Frobenius norms.
    Norm,
}

impl FromStr for Similarity {
    type Err = CoreError;

    fn from_str(name: &str) -> Result<Self, CoreError> {
        match name {
            "norm" => Ok(Self::Norm),
            _ => Err(CoreError::Option(format!("no similarity '{name}'; use norm"))),
        }
    }
}

/// Criterion of detail of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Richness {
    /// Numerical rank.
    Rank,
}

impl FromStr for Richness {
    type Err = CoreError;

    fn from_str(name: &str) -> Result<Self, CoreError> {
        match name {
            "rank" => Ok(Self::Rank),
            _ => Err(CoreError::Option(format!("no richness '{name}'; use rank"))),
        }
    }
}

/// Scores of one tap over all its images.
#[derive(Clone, Debug)]
pub struct TapScores {
    /// Frobenius norms \[N * C\], in the order of image indices.
    pub norms: Vec<f64>,
    /// Condensed distances \[C (C - 1) / 2\].
    pub distance: Vec<f64>,
    /// Mean richness of every channel \[C\].
    pub richness: Vec<f64>,
    /// Number of images N.
    pub images: usize,
    /// Height and width of a map in pixels.
    pub size: (usize, usize),
}

/// Accumulates the scores of one tap; memory is one row of numbers for each image.
#[derive(Clone, Debug)]
pub struct TapAccumulator {
    name: String,
    channels: usize,
    similarity: Similarity,
    richness: Richness,
    decimals: Option<u32>,
    size: Option<(usize, usize)>,
    rows: BTreeMap<usize, Row>,
}

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
    /// There are no channels.
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
        let name = name.to_owned();
        Ok(Self { name, channels, similarity, richness, decimals, size: None, rows: BTreeMap::new() })
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

    /// Reduce maps \[N, C, H, W\] of the images `first_image`, `first_image + 1`, ...; by default those after the last.
    ///
    /// # Errors
    /// The maps have another number of channels or another size than before, hold NaN or infinity, or an image was given
    /// before. Nothing is taken from a batch with an error.
    pub fn update(&mut self, maps: &Maps, first_image: Option<usize>) -> Result<(), CoreError> {
        let [images, channels, height, width] = maps.shape();
        let size = self.size.unwrap_or((height, width));
        if channels != self.channels || size != (height, width) {
            return Err(CoreError::Shape {
                tap: self.tap(),
                expected: match self.size {
                    Some((height, width)) => format!("maps [N, {}, {height}, {width}]", self.channels),
                    None => format!("maps [N, {}, H, W]", self.channels),
                },
                found: maps.shape().to_vec(),
            });
        }
        let first = first_image.unwrap_or_else(|| self.rows.last_key_value().map_or(0, |(last, _)| last + 1));
        if let Some((&image, _)) = self.rows.range(first..first + images).next() {
            return Err(CoreError::Repeated { tap: self.tap(), image });
        }
        let scale = self.decimals.map(|decimals| 10f32.powi(decimals.min(30) as i32));
        let mut reduced = vec![(0.0, 0.0); images * channels];
        threads::run(|| {
            reduced.par_iter_mut().enumerate().try_for_each_init(
                || (Vec::new(), Vec::new()),
                |(buffer, rounded), (index, (norm, rich))| {
                    let (image, channel) = (index / channels, index % channels);
                    let pixels = maps.plane(image, channel, buffer);
                    *norm = plane_norm(pixels);
                    if !norm.is_finite() {
                        return Err(CoreError::NotFinite { tap: self.tap(), image: first + image, channel });
                    }
                    let pixels = match scale {
                        Some(scale) => {
                            rounded.clear();
                            rounded.extend(pixels.iter().map(|&pixel| round(pixel, scale)));
                            rounded.as_slice()
                        }
                        None => pixels,
                    };
                    *rich = match self.richness {
                        Richness::Rank => f64::from(rank(pixels, height, width)),
                    };
                    Ok(())
                },
            )
        })??;
        self.size = Some(size);
        for (image, row) in reduced.chunks_exact(channels).enumerate() {
            let (norms, richness) = row.iter().copied().unzip();
            self.rows.insert(first + image, Row { norms, richness });
        }
        Ok(())
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
        let distance = match self.similarity {
            Similarity::Norm => pairwise_distance(&norms, self.channels, size.0)?,
        };
        let mut richness = vec![0.0; self.channels];
        for row in self.rows.values() {
            for (sum, value) in richness.iter_mut().zip(&row.richness) {
                *sum += value;
            }
        }
        for sum in &mut richness {
            *sum /= self.rows.len() as f64;
        }
        Ok(TapScores { norms, distance, richness, images: self.rows.len(), size })
    }
}

/// Round as `numpy.round` does in float32: scale, round half to even, scale back; what overflows stays as it is.
fn round(pixel: f32, scale: f32) -> f32 {
    let scaled = pixel * scale;
    if scaled.is_finite() {
        scaled.round_ties_even() / scale
    } else {
        pixel
    }
}
