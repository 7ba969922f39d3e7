//! The scores: of single maps (`norms`, `rank`, `spectrum`, `entropy`), of pairs of channels (`distance`, `ssim`, `cosine`)
//! and of all channels of a tap together (`covariance`, `explained_variance`).

pub(crate) mod cosine;
pub(crate) mod covariance;
pub(crate) mod distance;
pub(crate) mod entropy;
pub(crate) mod explained_variance;
pub(crate) mod norms;
pub(crate) mod range;
pub(crate) mod rank;
pub(crate) mod rounding;
pub(crate) mod spectrum;
pub(crate) mod ssim;
