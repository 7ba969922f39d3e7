//! The names of the criteria that a user chooses from. They are computed in `accumulator/reduce.rs` and
//! `accumulator/tap_accumulator.rs`.

use std::fmt;
use std::str::FromStr;

use crate::error::CoreError;

/// Distance between channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Similarity {
    /// Mean absolute difference of Frobenius norms.
    Norm,
    /// 1 minus the mean structural similarity (SSIM).
    Ssim,
    /// 1 minus the cosine of the angle between two maps.
    Cosine,
}

/// Richness of a channel: a mean over its maps.
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
}

impl Similarity {
    /// All criteria with their names.
    pub const ALL: [(&'static str, Self); 3] = [("norm", Self::Norm), ("ssim", Self::Ssim), ("cosine", Self::Cosine)];
}

impl Richness {
    /// All criteria with their names.
    pub const ALL: [(&'static str, Self); 4] = [
        ("rank", Self::Rank),
        ("entropy", Self::Entropy),
        ("effective-rank", Self::EffectiveRank),
        ("nuclear", Self::Nuclear),
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
        CoreError::Option(format!("unknown {what} '{name}'; use {}", names.join(", ")))
    })
}

fn name_of<T: PartialEq>(value: &T, choices: &[(&'static str, T)]) -> &'static str {
    choices.iter().find(|(_, choice)| choice == value).map_or("", |&(name, _)| name)
}
