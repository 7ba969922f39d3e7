//! The criteria that a user may choose from, by the names they go under.

use std::fmt;
use std::str::FromStr;

use crate::CoreError;

/// Criterion of distance between channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Similarity {
    /// Difference of Frobenius norms.
    Norm,
    /// One less the mean structural similarity (SSIM).
    Ssim,
    /// One less the cosine of the angle.
    Cosine,
}

/// Criterion of detail of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Richness {
    /// Numerical rank of the rounded map.
    Rank,
    /// Shannon entropy of the histogram, in bits.
    Entropy,
    /// exp of the Shannon entropy of the singular values.
    EffectiveRank,
    /// Sum of the singular values over sqrt(min(H, W)) times the Frobenius norm.
    Nuclear,
    /// Share of all channels' variance that the channels chosen before it leave unexplained.
    ExplainedVariance,
}

impl Similarity {
    /// All, with their names.
    pub const ALL: [(&'static str, Self); 3] = [("norm", Self::Norm), ("ssim", Self::Ssim), ("cosine", Self::Cosine)];
}

impl Richness {
    /// All, with their names.
    pub const ALL: [(&'static str, Self); 5] = [
        ("rank", Self::Rank),
        ("entropy", Self::Entropy),
        ("effective-rank", Self::EffectiveRank),
        ("nuclear", Self::Nuclear),
        ("explained-variance", Self::ExplainedVariance),
    ];
}

impl FromStr for Similarity {
    type Err = CoreError;

    fn from_str(name: &str) -> Result<Self, CoreError> {
        choose("similarity", name, &Self::ALL)
    }
}

impl FromStr for Richness {
    type Err = CoreError;

    fn from_str(name: &str) -> Result<Self, CoreError> {
        choose("richness", name, &Self::ALL)
    }
}

impl fmt::Display for Similarity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(name_of(self, &Self::ALL))
    }
}

impl fmt::Display for Richness {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(name_of(self, &Self::ALL))
    }
}

fn choose<T: Copy>(what: &str, name: &str, choices: &[(&str, T)]) -> Result<T, CoreError> {
    choices.iter().find(|(choice, _)| *choice == name).map(|&(_, value)| value).ok_or_else(|| {
        let names: Vec<&str> = choices.iter().map(|&(choice, _)| choice).collect();
        CoreError::Option(format!("no {what} '{name}'; use {}", names.join(", ")))
    })
}

fn name_of<T: PartialEq>(value: &T, choices: &[(&'static str, T)]) -> &'static str {
    choices.iter().find(|(_, choice)| choice == value).map_or("", |&(name, _)| name)
}
