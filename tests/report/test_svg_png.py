from __future__ import annotations

import base64
import io
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.spatial.distance import squareform

from cfp_cli.report.png import distance_matrix, feature_map, photograph, ramp
from cfp_cli.report.svg import Line, bars, cluster_borders, kept_rails, line_chart, ticks_of


def opened(uri: str) -> Image.Image:
    assert uri.startswith("data:image/png;base64,")
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


finite = st.floats(-1e6, 1e6) | st.floats(-1e-30, 1e-30)


@given(finite, finite)
def test_ticks_enclose_the_range_and_are_few(a: float, b: float) -> None:
    low, high = min(a, b), max(a, b)
    ticks = ticks_of(low, high)
    slack = 1e-6 * max(high - low, abs(low), abs(high))
    assert ticks[0] <= low + slack
    assert ticks[-1] >= high - slack
    assert 2 <= len(ticks) <= 6
    assert np.allclose(np.diff(ticks), np.diff(ticks)[0], rtol=1e-3, atol=0)
    assert ticks[0] < ticks[1]


def test_ticks_are_round() -> None:
    assert ticks_of(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1]
    assert ticks_of(0.31, 1.9) == [0, 0.5, 1, 1.5, 2]
    assert ticks_of(3, 3)[0] <= 3 <= ticks_of(3, 3)[-1]


def test_a_chart_draws_each_value_at_its_place() -> None:
    svg = line_chart("Loss", [Line("a <b>", [0.0, 1.0, 0.5]), Line("c", [None, 1.0, 1.0])], 1, "epoch", mark=1)
    root = ET.fromstring(svg)
    assert root.get("role") == "img"
    assert "a <b> 0.5" in str(root.get("aria-label"))
    first, second = (path.get("d") for path in root.findall("path"))
    points = [tuple(map(float, point.split())) for point in str(first)[1:].split("L")]
    assert [x for x, _ in points] == [46, 198, 350]
    # 0 lies at the bottom of the plot, 1 at its top, 0.5 half way.
    assert [y for _, y in points] == [186, 10, 98]
    assert str(second).count("L") == 1
    mark = next(line for line in root.findall("line") if line.get("class") == "mark")
    assert mark.get("x1") == "198.0"


def test_a_chart_of_one_epoch_shows_a_point() -> None:
    assert len(ET.fromstring(line_chart("Loss", [Line("loss", [0.5])], 1, "epoch")).findall("circle")) == 1


def test_bars_are_as_high_as_their_values() -> None:
    kept = np.array([True, False, True, False])
    root = ET.fromstring(bars(np.array([4.0, 2.0, 1.0, 0.0]), kept, [2], "richness & more"))
    assert root.get("viewBox") == "0 0 4 100"
    paths = {path.get("class"): path.get("d") for path in root.findall("path")}
    # The empty channel keeps a stub, so that it is seen to be there.
    assert paths == {"kept": "M0.5 100V0M2.5 100V75", "dropped": "M1.5 100V50M3.5 100V99"}
    assert [line.get("x1") for line in root.findall("line")] == ["2"]


def test_overlays_mark_clusters_and_kept_channels() -> None:
    assert "M2 0V5M0 2H5" in cluster_borders(5, [2])
    rails = kept_rails(np.array([False, True, False]))
    assert "M1.5 0V1" in rails
    assert "M0 1.5H1" in rails
    assert rails.count("<svg") == 2


def test_a_matrix_is_the_reordered_square() -> None:
    generator = np.random.default_rng(0)
    distance = generator.uniform(0, 1, 10).astype(np.float32)
    order = np.array([3, 1, 4, 0, 2])
    uri, top, size = distance_matrix(distance, order, 256)
    picture = opened(uri)
    assert size == picture.size == (5, 5)
    assert top == pytest.approx(np.percentile(distance, 99))
    square = squareform(distance)[np.ix_(order, order)]
    steps = np.clip(square / top, 0, 1) * (len(ramp()) - 1)
    colours = np.array(ramp())[steps.round().astype(int)]
    np.testing.assert_array_equal(np.asarray(picture.convert("RGB")), colours)


def test_a_large_matrix_is_averaged_down() -> None:
    distance = np.ones(64 * 63 // 2, np.float32)
    picture = opened(distance_matrix(distance, np.arange(64), 16)[0])
    assert picture.size == (16, 16)
    pixels = np.asarray(picture.convert("RGB"))
    # Off the diagonal all are the farthest; on it a quarter of each 4 x 4 block is zero.
    np.testing.assert_array_equal(pixels[0, 5], ramp()[-1])
    np.testing.assert_array_equal(pixels[3, 3], ramp()[round(0.75 * (len(ramp()) - 1))])


@pytest.mark.parametrize("distance", [np.zeros(0, np.float32), np.zeros(3, np.float32)])
def test_a_matrix_without_distances_is_dark(distance: np.ndarray) -> None:
    channels = 1 if distance.size == 0 else 3
    picture = opened(distance_matrix(distance, np.arange(channels), 64)[0])
    assert (np.asarray(picture.convert("RGB")) == ramp()[0]).all()


def test_the_ramp_only_gets_lighter() -> None:
    light = [0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b in ramp()]
    assert all(np.diff(light) > 0)


def test_a_feature_map_is_scaled_to_its_own_range() -> None:
    values = np.array([[-3.0, 0.0], [1.0, 5.0]], np.float32)
    pixels = np.asarray(opened(feature_map(values, 48)), float)
    assert pixels[0, 0] == 0
    assert pixels[1, 1] == 255
    np.testing.assert_allclose(pixels / 255, (values + 3) / 8, atol=0.5 / 31 + 0.5 / 255)
    assert opened(feature_map(np.full((7, 7), 2.0, np.float32), 48)).getextrema() == (0, 0)
    assert opened(feature_map(np.zeros((100, 50), np.float32), 20)).size == (10, 20)


def test_a_photograph_stays_grey_or_coloured() -> None:
    grey = np.repeat(np.arange(64, dtype=np.uint8).reshape(1, 8, 8), 3, 0)
    np.testing.assert_array_equal(np.asarray(opened(photograph(grey))), grey[0])
    colour = grey.copy()
    colour[0] = 255
    assert opened(photograph(colour)).mode == "RGB"
