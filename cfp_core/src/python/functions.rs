//! The functions of the module. Their doc comments are the Python docstrings; the stub contains the same text.

#![allow(clippy::doc_markdown, rustdoc::broken_intra_doc_links)]

use numpy::{IntoPyArray, PyArray1, PyArray2, PyArrayDyn, PyArrayMethods};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::convert::{as_maps, borrow};
use super::enter::enter;
use crate::error::CoreError;
use crate::products::simd_level;
use crate::scores;
use crate::threads;

/// Frobenius norm of every map, summed in float64.
///
/// Args:
///     maps: float32 [N, C, H, W], or [N, C] for maps of one pixel.
///
/// Returns:
///     float64 [N, C].
///
/// Raises:
///     ValueError: the array is not float32 or has another shape, or a pixel is NaN or infinite; the message names
///         image and channel.
#[pyfunction]
#[pyo3(name = "norms")]
pub(super) fn norms<'py>(py: Python<'py>, maps: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyArray2<f64>>> {
    let array = borrow::<f32>(maps, "maps")?;
    let view = array.as_array();
    let array = as_maps(&view, "")?;
    let view = array.maps()?;
    let [images, channels, ..] = view.shape();
    let found = enter(py, || scores::norms::norms(&view))?;
    found.into_pyarray(py).reshape([images, channels])
}

/// Rank of every map: the number of singular values above max(H, W) * 2^-23 times the largest; 0 for all zeros.
///
/// The threshold is the default of `torch.linalg.matrix_rank` and `numpy.linalg.matrix_rank` for float32. The singular
/// values are compared with it in float64. The maps are not rounded.
///
/// Args:
///     maps: float32 [..., H, W].
///
/// Returns:
///     int32 [...].
///
/// Raises:
///     ValueError: the array is not float32 or has another shape, or a pixel is NaN or infinite.
#[pyfunction]
#[pyo3(name = "matrix_rank")]
pub(super) fn matrix_rank<'py>(py: Python<'py>, maps: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyArrayDyn<i32>>> {
    let array = borrow::<f32>(maps, "maps")?;
    let view = array.as_array();
    let shape = view.shape().to_vec();
    let [leading @ .., height, width] = shape.as_slice() else {
        return Err(CoreError::Shape { tap: String::new(), expected: "maps [..., H, W]".into(), found: shape }.into());
    };
    // Two leading dimensions are read in place. Others are merged into one; only an unusual memory order needs a copy.
    let found = if leading.len() == 2 && !leading.contains(&0) {
        let array = as_maps(&view, "")?;
        let view = array.maps()?;
        enter(py, || scores::rank::matrix_ranks(&view))?
    } else {
        let shape = (leading.iter().product(), 1, *height, *width);
        let flat = view.to_shape(shape).map_err(|error| PyValueError::new_err(error.to_string()))?;
        let flat = flat.view().into_dyn();
        let array = as_maps(&flat, "")?;
        let view = array.maps()?;
        enter(py, || scores::rank::matrix_ranks(&view))?
    };
    let found: Vec<i32> = found.into_iter().map(u32::cast_signed).collect();
    found.into_pyarray(py).reshape(leading.to_vec())
}

/// The paper's distance of all pairs of channels: mean over n of abs(norms[n, i] - norms[n, j]) / height.
///
/// Source: Wang et al. 2023 (doi 10.1109/TII.2023.3288208), structural similarity of feature maps.
///
/// Args:
///     norms: float64 [N, C], as `norms` returns them.
///     height: height H of the maps in pixels, at least 1.
///
/// Returns:
///     float64 [C (C - 1) / 2], in SciPy's condensed order.
///
/// Raises:
///     ValueError: the array is not float64 [N, C] with N and C at least 1, a norm is NaN or infinite, or the height
///         is 0.
///     OverflowError: the height is negative.
#[pyfunction]
#[pyo3(name = "pairwise_distance")]
pub(super) fn pairwise_distance<'py>(
    py: Python<'py>,
    norms: &Bound<'py, PyAny>,
    height: usize,
) -> PyResult<Bound<'py, PyArray1<f64>>> {
    let array = borrow::<f64>(norms, "norms")?;
    let view = array.as_array();
    let &[_, channels] = view.shape() else {
        let found = view.shape().to_vec();
        return Err(CoreError::Shape { tap: String::new(), expected: "norms [N, C]".into(), found }.into());
    };
    if let Some((index, _)) = view.iter().enumerate().find(|(_, norm)| !norm.is_finite()) {
        let (image, channel) = (index / channels, index % channels);
        return Err(CoreError::NotFinite { tap: "norms: ".into(), image, channel }.into());
    }
    let values = view.as_standard_layout();
    let values = values.as_slice().unwrap_or_default();
    Ok(enter(py, || scores::distance::pairwise_distance(values, channels, height))?.into_pyarray(py))
}

/// For each channel, the fraction of the variance of all channels that the channels selected before it leave.
///
/// Channels are selected one after another. The next channel is the one that lets the linear regression of all channels
/// on the selected channels explain most. A channel that hardly varies counts as little as it varies.
///
/// Source: greedy column subset selection, Farahat, Ghodsi and Kamel, Efficient greedy feature selection for
/// unsupervised learning, Knowledge and Information Systems 2013.
///
/// Args:
///     covariance: float64 [C, C], symmetric.
///
/// Returns:
///     float64 [C]: 1 for the channel selected first, less for later ones; 0 for constant channels and for channels
///     that are left when less than a millionth of the variance is unexplained.
///
/// Raises:
///     ValueError: the array is not float64 or not square, or a covariance is NaN or infinite.
#[pyfunction]
#[pyo3(name = "explained_variance")]
pub(super) fn explained_variance<'py>(
    py: Python<'py>,
    covariance: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyArray1<f64>>> {
    let array = borrow::<f64>(covariance, "covariance")?;
    let view = array.as_array();
    let channels = match view.shape() {
        &[rows, columns] if rows == columns => rows,
        shape => {
            let (expected, found) = ("covariance [C, C]".into(), shape.to_vec());
            return Err(CoreError::Shape { tap: String::new(), expected, found }.into());
        }
    };
    let values = view.as_standard_layout();
    let values = values.as_slice().unwrap_or_default();
    Ok(enter(py, || scores::explained_variance::explained_variance(values, channels))?.into_pyarray(py))
}

/// Set the number of threads. The default is one for each core that the process may use.
///
/// Raises:
///     ValueError: `count` is 0 or above 1,024, or the threads cannot be started.
///     OverflowError: `count` is negative.
#[pyfunction]
#[pyo3(name = "set_threads")]
pub(super) fn set_threads(count: usize) -> PyResult<()> {
    Ok(threads::set_threads(count)?)
}

/// Version, build profile, SIMD instruction set and number of threads of the installed module.
///
/// Returns:
///     a dict of version, profile (release or debug), simd (avx512, avx2, neon or baseline) and threads.
#[pyfunction]
#[pyo3(name = "build_info")]
pub(super) fn build_info(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let info = PyDict::new(py);
    info.set_item("version", env!("CARGO_PKG_VERSION"))?;
    info.set_item("profile", if cfg!(debug_assertions) { "debug" } else { "release" })?;
    info.set_item("simd", simd_level())?;
    info.set_item("threads", threads::threads()?)?;
    Ok(info)
}
