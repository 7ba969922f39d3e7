//! `TapAccumulator` for Python.

use numpy::{IntoPyArray, PyArrayMethods};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::convert::{borrow, maps};
use crate::TapAccumulator;

#[pyclass(name = "TapAccumulator", module = "cfp_core", skip_from_py_object)]
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

    #[pyo3(signature = (maps, first_image = None))]
    fn update(&mut self, py: Python<'_>, maps: &Bound<'_, PyAny>, first_image: Option<usize>) -> PyResult<()> {
        let array = borrow::<f32>(maps, "maps")?;
        let view = array.as_array();
        let view = self::maps(&view, &self.name)?;
        let inner = &mut self.inner;
        Ok(py.detach(|| inner.update(&view, first_image))?)
    }

    fn merge(&mut self, other: &Self) -> PyResult<()> {
        Ok(self.inner.merge(&other.inner)?)
    }

    fn finish<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let inner = &self.inner;
        let scores = py.detach(|| inner.finish())?;
        let result = PyDict::new(py);
        result.set_item("saturated_similarity", same(&scores.distance))?;
        result.set_item("saturated_richness", same(&scores.richness))?;
        let channels = scores.richness.len();
        result.set_item("norms", scores.norms.into_pyarray(py).reshape([scores.images, channels])?)?;
        result.set_item("distance", scores.distance.into_pyarray(py))?;
        result.set_item("richness", scores.richness.into_pyarray(py))?;
        result.set_item("images", scores.images)?;
        result.set_item("height", scores.size.0)?;
        result.set_item("width", scores.size.1)?;
        Ok(result)
    }
}

/// Whether all values are one and the same, so that they cannot tell anything apart.
fn same(values: &[f64]) -> bool {
    values.windows(2).all(|pair| pair[0].to_bits() == pair[1].to_bits())
}
