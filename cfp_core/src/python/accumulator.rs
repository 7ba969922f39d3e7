//! `TapAccumulator` for Python. Its doc comments are the Python docstrings; the stub contains the same text.

#![allow(clippy::doc_markdown, rustdoc::broken_intra_doc_links)]

use numpy::{IntoPyArray, PyArrayMethods, PyReadonlyArray1};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple, PyType};

use super::convert::{as_maps, borrow};
use super::enter::enter;
use crate::accumulator::{State, TapAccumulator};
use crate::error::CoreError;

/// Accumulates the scores of one tap batch by batch. It does not keep any map.
///
/// The result depends only on the images and their indices. It does not depend on the batches, the number of threads,
/// the memory order, or the order of merging. Norms, the distance `norm` and the richness of single maps are equal bit
/// for bit. The distances `ssim` and `cosine` are sums over images, equal to 1e-12 relative. Memory is two numbers for
/// each image and channel; `ssim` and `cosine` add one number for each pair of channels. An accumulator can be pickled.
///
/// F[n, c] is the map of image n and channel c. `similarity` selects the distance of channels i and j:
///
/// - `norm` (the paper's): mean over n of abs(|F[n, i]| - |F[n, j]|) / H, with Frobenius norms.
/// - `ssim`: 1 - mean over n of the mean structural similarity (Wang, Bovik, Sheikh, Simoncelli 2004; K1 = 0.01,
///   K2 = 0.03) over uniform 8 x 8 windows at stride 4. The last window ends at the border; a side below 8 pixels has
///   one window. L is the range of the tap's values on the image. Variances divide by the number of pixels.
/// - `cosine`: mean over n of 1 - <F[n, i], F[n, j]> / (|F[n, i]| |F[n, j]|). The distance between two all-zero maps
///   is 0, between an all-zero map and another one 1.
///
/// `richness` selects the score of channel c, a mean over n of:
///
/// - `rank` (the paper's): `matrix_rank` of the map rounded to `decimals`.
/// - `entropy`: Shannon entropy in bits of the 256-bin histogram of the map over the range of the tap's values on the
///   image.
/// - `effective-rank`: exp of the Shannon entropy of the singular values divided by their sum (Roy and Vetterli 2007).
///   It is 0 for an all-zero map.
/// - `nuclear`: sum of the singular values / (sqrt(min(H, W)) |F|), between 0 and 1. It is 0 for an all-zero map.
///
/// Args:
///     channels: number of channels C of the tap.
///     similarity: distance between channels: `norm`, `ssim` or `cosine`.
///     richness: score of a channel: `rank`, `entropy`, `effective-rank` or `nuclear`. None: only norms and distances.
///     decimals: before their rank is computed, maps are rounded to this number of decimals, half to even, in float32
///         as `numpy.round` does. None: they are not rounded.
///     name: name of the tap, for messages.
///
/// Raises:
///     ValueError: the number of channels is 0 or above 32,768, or the similarity or richness is unknown.
///     OverflowError: `channels` or `decimals` is negative.
#[pyclass(name = "TapAccumulator", module = "cfp_core")]
pub(super) struct PyTapAccumulator {
    inner: TapAccumulator,
    name: String,
}

#[pymethods]
impl PyTapAccumulator {
    #[new]
    #[pyo3(signature = (channels, similarity = "norm", richness = Some("rank"), decimals = Some(4), name = ""))]
    fn new(
        channels: usize,
        similarity: &str,
        richness: Option<&str>,
        decimals: Option<u32>,
        name: &str,
    ) -> PyResult<Self> {
        let inner =
            TapAccumulator::new(channels, similarity.parse()?, richness.map(str::parse).transpose()?, decimals, name)?;
        Ok(Self { inner, name: name.to_owned() })
    }

    /// Add the maps of further images.
    ///
    /// Args:
    ///     maps: float32 [N, C, H, W], or [N, C] for maps of one pixel. H and W are the same in every call.
    ///     first_image: index in the run of the first of these images; the others follow it. None: the index after the
    ///         last image. Processes that share a run must give it, since accumulators that contain the same image
    ///         cannot be merged.
    ///     images: instead of `first_image`, the index of each of these images, in any order.
    ///
    /// Raises:
    ///     ValueError: the array is not float32 or has a wrong shape, a pixel is NaN or infinite (the message names
    ///         tap, image and channel), an image was added before, or both `first_image` and `images` are given. The
    ///         accumulator is then unchanged.
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
        let array = as_maps(&view, &self.name)?;
        let view = array.maps()?;
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

    /// Add the norms of further images whose maps were reduced elsewhere, such as on a GPU.
    ///
    /// Args:
    ///     norms: Frobenius norms of the maps, float64 [N, C].
    ///     size: height and width of a map in pixels.
    ///     first_image: index in the run of the first of these images; the others follow it.
    ///
    /// Raises:
    ///     ValueError: the accumulator computes richness or another similarity than `norm`, the array is not float64 or
    ///         has a wrong shape, a norm is NaN or infinite (the message names tap, image and channel), or an image was
    ///         added before. The accumulator is then unchanged.
    fn update_norms(
        &mut self,
        py: Python<'_>,
        norms: &Bound<'_, PyAny>,
        size: (usize, usize),
        first_image: usize,
    ) -> PyResult<()> {
        let array = borrow::<f64>(norms, "norms")?;
        let view = array.as_array();
        let &[count, channels] = view.shape() else {
            return Err(PyValueError::new_err("norms must be an array [N, C]"));
        };
        let values = view.as_standard_layout();
        let values = values.as_slice().unwrap_or_default();
        let indices: Vec<usize> = (first_image..first_image.saturating_add(count)).collect();
        let inner = &mut self.inner;
        enter(py, || inner.update_norms(values, [count, channels, size.0, size.1], &indices))
    }

    /// Add the images of another accumulator of the same tap, which does not change.
    ///
    /// Args:
    ///     other: an accumulator with the same channels, criteria, decimals and map size, and other images.
    ///
    /// Raises:
    ///     ValueError: the two differ in one of these, or contain the same image.
    fn merge(&mut self, other: &Self) -> PyResult<()> {
        Ok(self.inner.merge(&other.inner)?)
    }

    /// Compute the scores over all images so far. More images can follow.
    ///
    /// Returns:
    ///     a dict of norms float64 [N, C], distance float64 [C (C - 1) / 2], richness float64 [C] or None, images N,
    ///     height H and width W in pixels, saturated_similarity and saturated_richness.
    ///
    /// Raises:
    ///     ValueError: there are no images.
    fn finish<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let inner = &self.inner;
        let scores = enter(py, || inner.finish())?;
        let result = PyDict::new(py);
        let channels = scores.norms.len() / scores.images;
        result.set_item("norms", scores.norms.into_pyarray(py).reshape([scores.images, channels])?)?;
        result.set_item("distance", scores.distance.into_pyarray(py))?;
        result.set_item("richness", scores.richness.map(|richness| richness.into_pyarray(py)))?;
        result.set_item("images", scores.images)?;
        result.set_item("height", scores.size.0)?;
        result.set_item("width", scores.size.1)?;
        result.set_item("saturated_similarity", scores.saturated_similarity)?;
        result.set_item("saturated_richness", scores.saturated_richness)?;
        Ok(result)
    }

    /// Copy everything that the accumulator contains as plain data, to store it or send it to another process.
    fn state<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let state = self.inner.state();
        let result = PyDict::new(py);
        result.set_item("channels", state.channels)?;
        result.set_item("similarity", state.similarity.to_string())?;
        result.set_item("richness", state.richness.map(|richness| richness.to_string()))?;
        result.set_item("decimals", state.decimals)?;
        result.set_item("name", state.name)?;
        result.set_item("size", state.size)?;
        result.set_item("images", state.images)?;
        result.set_item("norms", state.norms.into_pyarray(py))?;
        result.set_item("rich", state.rich.into_pyarray(py))?;
        result.set_item("sums", state.sums.into_pyarray(py))?;
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
            richness: part("richness")?.extract::<Option<String>>()?.map(|name| name.parse()).transpose()?,
            decimals: part("decimals")?.extract()?,
            name: name.clone(),
            size: part("size")?.extract()?,
            images: part("images")?.extract()?,
            norms: numbers("norms")?,
            rich: numbers("rich")?,
            sums: numbers("sums")?,
        })?;
        Ok(Self { inner, name })
    }

    /// Pickle as a call of `from_state`.
    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyTuple>)> {
        let py = slf.py();
        let state = slf.try_borrow()?.state(py)?;
        Ok((slf.get_type().getattr("from_state")?, PyTuple::new(py, [state])?))
    }
}
