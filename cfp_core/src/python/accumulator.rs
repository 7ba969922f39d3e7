//! `TapAccumulator` for Python.

use numpy::{IntoPyArray, PyArrayMethods, PyReadonlyArray1};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple, PyType};

use super::convert::{borrow, hold};
use super::door::enter;
use crate::{CoreError, State, TapAccumulator};

#[pyclass(name = "TapAccumulator", module = "cfp_core")]
pub(super) struct PyTapAccumulator {
    inner: TapAccumulator,
    name: String,
}

#[pymethods]
impl PyTapAccumulator {
    #[new]
    #[pyo3(signature = (channels, similarity = "norm", richness = "rank", decimals = Some(4), name = ""))]
    fn new(channels: usize, similarity: &str, richness: &str, decimals: Option<u32>, name: &str) -> PyResult<Self> {
        let inner = TapAccumulator::new(channels, similarity.parse()?, richness.parse()?, decimals, name)?;
        Ok(Self { inner, name: name.to_owned() })
    }

    #[pyo3(signature = (maps, first_image = None, *, images = None))]
    fn update(
        &mut self,
        py: Python<'_>,
        maps: &Bound<'_, PyAny>,
        first_image: Option<usize>,
        images: Option<Vec<usize>>,
    ) -> PyResult<()> {
        let array = borrow::<f32>(maps, "maps")?;
        let view = array.as_array();
        let held = hold(&view, &self.name)?;
        let view = held.maps()?;
        let [count, ..] = view.shape();
        let indices = match (first_image, images) {
            (Some(_), Some(_)) => return Err(PyValueError::new_err("give first_image or images, not both")),
            (None, Some(images)) => images,
            (first, None) => {
                let first = first.unwrap_or_else(|| self.inner.next_image());
                (first..first.saturating_add(count)).collect()
            }
        };
        let inner = &mut self.inner;
        enter(py, || inner.update(&view, &indices))
    }

    fn merge(&mut self, other: &Self) -> PyResult<()> {
        Ok(self.inner.merge(&other.inner)?)
    }

    fn finish<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let inner = &self.inner;
        let scores = enter(py, || inner.finish())?;
        let result = PyDict::new(py);
        let channels = scores.richness.len();
        result.set_item("norms", scores.norms.into_pyarray(py).reshape([scores.images, channels])?)?;
        result.set_item("distance", scores.distance.into_pyarray(py))?;
        result.set_item("richness", scores.richness.into_pyarray(py))?;
        let covariance = (!scores.covariance.is_empty())
            .then(|| scores.covariance.into_pyarray(py).reshape([channels, channels]))
            .transpose()?;
        result.set_item("covariance", covariance)?;
        result.set_item("images", scores.images)?;
        result.set_item("height", scores.size.0)?;
        result.set_item("width", scores.size.1)?;
        result.set_item("saturated_similarity", scores.saturated_similarity)?;
        result.set_item("saturated_richness", scores.saturated_richness)?;
        Ok(result)
    }

    fn state<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let state = self.inner.state();
        let result = PyDict::new(py);
        result.set_item("channels", state.channels)?;
        result.set_item("similarity", state.similarity.to_string())?;
        result.set_item("richness", state.richness.to_string())?;
        result.set_item("decimals", state.decimals)?;
        result.set_item("name", state.name)?;
        result.set_item("size", state.size)?;
        result.set_item("images", state.images)?;
        result.set_item("norms", state.norms.into_pyarray(py))?;
        result.set_item("rich", state.rich.into_pyarray(py))?;
        result.set_item("sums", state.sums.into_pyarray(py))?;
        result.set_item("totals", state.totals.into_pyarray(py))?;
        result.set_item("products", state.products.into_pyarray(py))?;
        Ok(result)
    }

    #[classmethod]
    fn from_state(_class: &Bound<'_, PyType>, state: &Bound<'_, PyDict>) -> PyResult<Self> {
        let part = |key: &str| {
            state.get_item(key)?.ok_or_else(|| PyErr::from(CoreError::Option(format!("the state holds no {key}"))))
        };
        let numbers = |key: &str| -> PyResult<Vec<f64>> {
            let array: PyReadonlyArray1<'_, f64> = part(key)?.extract().map_err(|_| {
                PyErr::from(CoreError::Option(format!("{key} of the state must be a NumPy array of float64")))
            })?;
            Ok(array.as_array().to_vec())
        };
        let name: String = part("name")?.extract()?;
        let inner = TapAccumulator::from_state(State {
            channels: part("channels")?.extract()?,
            similarity: part("similarity")?.extract::<String>()?.parse()?,
            richness: part("richness")?.extract::<String>()?.parse()?,
            decimals: part("decimals")?.extract()?,
            name: name.clone(),
            size: part("size")?.extract()?,
            images: part("images")?.extract()?,
            norms: numbers("norms")?,
            rich: numbers("rich")?,
            sums: numbers("sums")?,
            totals: numbers("totals")?,
            products: numbers("products")?,
        })?;
        Ok(Self { inner, name })
    }

    /// Pickled as a call of `from_state`.
    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyTuple>)> {
        let py = slf.py();
        let state = slf.try_borrow()?.state(py)?;
        Ok((slf.get_type().getattr("from_state")?, PyTuple::new(py, [state])?))
    }
}
