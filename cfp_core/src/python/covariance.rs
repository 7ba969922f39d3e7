//! `CovarianceAccumulator` for Python. Its doc comments are the Python docstrings; the stub contains the same text.

#![allow(clippy::doc_markdown, rustdoc::broken_intra_doc_links)]

use numpy::{IntoPyArray, PyArray2, PyArrayMethods, PyReadonlyArray1};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple, PyType};

use super::convert::borrow;
use super::enter::enter;
use crate::error::CoreError;
use crate::scores::covariance::{CovarianceAccumulator, CovarianceState};

/// Accumulates the covariances of channels over samples, for `explained_variance`.
///
/// Products of float32 numbers are exact in float64, and only their sums are rounded. The division of the samples into
/// calls does not change a bit; the order of merging changes the last bits. Memory is one number for each pair of
/// channels. An accumulator can be pickled.
///
/// Args:
///     channels: number of channels C.
///
/// Raises:
///     ValueError: the number of channels is 0 or above 32,768.
///     OverflowError: it is negative.
#[pyclass(name = "CovarianceAccumulator", module = "cfp_core")]
pub(super) struct PyCovarianceAccumulator(CovarianceAccumulator);

#[pymethods]
impl PyCovarianceAccumulator {
    #[new]
    fn new(channels: usize) -> PyResult<Self> {
        Ok(Self(CovarianceAccumulator::new(channels)?))
    }

    /// Add samples.
    ///
    /// Args:
    ///     samples: float32 [S, C]: in each row the values of all channels at one position of one image.
    ///
    /// Raises:
    ///     ValueError: the array is not float32 [S, C], or a value is NaN or infinite. The accumulator is then
    ///         unchanged.
    fn update(&mut self, py: Python<'_>, samples: &Bound<'_, PyAny>) -> PyResult<()> {
        let array = borrow::<f32>(samples, "samples")?;
        let view = array.as_array();
        if view.ndim() != 2 || view.shape()[1] != self.0.channels() {
            return Err(CoreError::Shape {
                tap: String::new(),
                expected: format!("samples [S, {}]", self.0.channels()),
                found: view.shape().to_vec(),
            }
            .into());
        }
        let values = view.as_standard_layout();
        let values = values.as_slice().unwrap_or_default();
        let inner = &mut self.0;
        enter(py, || inner.update(values))
    }

    /// Add the samples of another accumulator, which does not change.
    ///
    /// Raises:
    ///     ValueError: the numbers of channels differ.
    fn merge(&mut self, py: Python<'_>, other: &Self) -> PyResult<()> {
        let (inner, other) = (&mut self.0, &other.0);
        enter(py, || inner.merge(other))
    }

    /// Compute the covariances [C, C] over all samples so far. More samples can follow.
    ///
    /// Raises:
    ///     ValueError: there are no samples.
    fn covariance<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray2<f64>>> {
        let (inner, channels) = (&self.0, self.0.channels());
        enter(py, || inner.covariance())?.into_pyarray(py).reshape([channels, channels])
    }

    /// Copy everything that the accumulator contains as plain data, to store it or send it to another process.
    fn state<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let state = self.0.state();
        let result = PyDict::new(py);
        result.set_item("channels", state.channels)?;
        result.set_item("added", state.added)?;
        result.set_item("totals", state.totals.into_pyarray(py))?;
        result.set_item("products", state.products.into_pyarray(py))?;
        result.set_item("waiting", state.waiting.into_pyarray(py))?;
        Ok(result)
    }

    /// Create the accumulator with this state.
    ///
    /// Raises:
    ///     ValueError: a part is missing, or the parts do not fit together.
    ///     TypeError: a part has another type.
    #[classmethod]
    fn from_state(_class: &Bound<'_, PyType>, state: &Bound<'_, PyDict>) -> PyResult<Self> {
        let part = |key: &str| {
            state.get_item(key)?.ok_or_else(|| {
                PyErr::from(CoreError::Option(format!("the state has no {key}; use what `state` returned")))
            })
        };
        let sums = |key: &str| -> PyResult<Vec<f64>> {
            let array: PyReadonlyArray1<'_, f64> = part(key)?.extract().map_err(|_| {
                PyErr::from(CoreError::Option(format!("{key} of the state must be a NumPy array of float64")))
            })?;
            Ok(array.as_array().to_vec())
        };
        let waiting: PyReadonlyArray1<'_, f32> = part("waiting")?.extract().map_err(|_| {
            PyErr::from(CoreError::Option("waiting of the state must be a NumPy array of float32".into()))
        })?;
        Ok(Self(CovarianceAccumulator::from_state(CovarianceState {
            channels: part("channels")?.extract()?,
            added: part("added")?.extract()?,
            totals: sums("totals")?,
            products: sums("products")?,
            waiting: waiting.as_array().to_vec(),
        })?))
    }

    /// Pickle as a call of `from_state`.
    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyTuple>)> {
        let py = slf.py();
        let state = slf.try_borrow()?.state(py)?;
        Ok((slf.get_type().getattr("from_state")?, PyTuple::new(py, [state])?))
    }
}
