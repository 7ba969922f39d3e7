//! The module's functions.

use numpy::{IntoPyArray, PyArray1, PyArray2, PyArrayDyn, PyArrayMethods};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::convert::{borrow, hold};
use super::door::enter;
use crate::CoreError;

#[pyfunction]
#[pyo3(name = "norms")]
pub(super) fn norms<'py>(py: Python<'py>, maps: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyArray2<f64>>> {
    let array = borrow::<f32>(maps, "maps")?;
    let view = array.as_array();
    let held = hold(&view, "")?;
    let view = held.maps()?;
    let [images, channels, ..] = view.shape();
    let found = enter(py, || crate::norms(&view))?;
    found.into_pyarray(py).reshape([images, channels])
}

#[pyfunction]
#[pyo3(name = "matrix_rank")]
pub(super) fn matrix_rank<'py>(py: Python<'py>, maps: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyArrayDyn<i32>>> {
    let array = borrow::<f32>(maps, "maps")?;
    let view = array.as_array();
    let shape = view.shape().to_vec();
    let [leading @ .., height, width] = shape.as_slice() else {
        return Err(CoreError::Shape { tap: String::new(), expected: "maps [..., H, W]".into(), found: shape }.into());
    };
    // Two leading dimensions are taken as they lie; more become one, which only an unusual order of memory needs a copy for.
    let found = if leading.len() == 2 && !leading.contains(&0) {
        let held = hold(&view, "")?;
        let view = held.maps()?;
        enter(py, || crate::matrix_ranks(&view))?
    } else {
        let shape = (leading.iter().product(), 1, *height, *width);
        let flat = view.to_shape(shape).map_err(|error| PyValueError::new_err(error.to_string()))?;
        let flat = flat.view().into_dyn();
        let held = hold(&flat, "")?;
        let view = held.maps()?;
        enter(py, || crate::matrix_ranks(&view))?
    };
    let found: Vec<i32> = found.into_iter().map(u32::cast_signed).collect();
    found.into_pyarray(py).reshape(leading.to_vec())
}

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
    Ok(enter(py, || crate::pairwise_distance(values, channels, height))?.into_pyarray(py))
}

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
        found => {
            let (expected, found) = ("covariance [C, C]".into(), found.to_vec());
            return Err(CoreError::Shape { tap: String::new(), expected, found }.into());
        }
    };
    let values = view.as_standard_layout();
    let values = values.as_slice().unwrap_or_default();
    Ok(enter(py, || crate::explained_variance(values, channels))?.into_pyarray(py))
}

#[pyfunction]
#[pyo3(name = "set_threads")]
pub(super) fn set_threads(count: usize) -> PyResult<()> {
    Ok(crate::set_threads(count)?)
}

#[pyfunction]
#[pyo3(name = "build_info")]
pub(super) fn build_info(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let info = PyDict::new(py);
    info.set_item("version", env!("CARGO_PKG_VERSION"))?;
    info.set_item("profile", if cfg!(debug_assertions) { "debug" } else { "release" })?;
    info.set_item("simd", crate::simd_level())?;
    info.set_item("threads", crate::threads()?)?;
    Ok(info)
}
