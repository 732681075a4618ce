"""The examples do what their docstrings say."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def load_example(name: str) -> ModuleType:
    """Import an example without making its folder importable for all tests."""
    spec = importlib.util.spec_from_file_location(f"handoff_example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


images = load_example("image_processing")


@pytest.mark.parametrize("name", images.PHOTOGRAPHS)
def test_photograph_is_in_colour_and_needs_no_download(name, monkeypatch):
    """Each photograph comes with scikit-image: it is there without a network."""
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("an example used the network"))

    image = images.load(name)

    assert (image.ndim, image.shape[2], image.dtype) == (3, 3, np.float64)
    assert 0 <= image.min() < image.max() <= 1


@pytest.mark.parametrize("shape", [(50, 300, 3), (300, 50, 3), (90, 120, 3)])
def test_resize_cuts_the_centre_in_the_right_proportions(shape):
    """Wide and tall photographs alike fill the frame; their middle stays the middle."""
    image = np.zeros(shape)
    rows, columns = shape[0] // 2, shape[1] // 2
    image[rows - 5 : rows + 5, columns - 5 : columns + 5] = 1

    resized = images.resize(image, images.frame(80))

    assert resized.shape == (60, 80, 3)
    bright = np.argwhere(resized[..., 0] > 0.5).mean(axis=0)
    assert np.allclose(bright, (29.5, 39.5), atol=1)


def test_blur_spreads_brightness_and_loses_none():
    """A bright dot becomes a spot of the same total brightness."""
    dot = np.zeros((21, 21, 3))
    dot[10, 10] = 1

    blurred = images.blur(dot, 1.0)

    assert blurred.max() < 0.5
    assert blurred.sum() == pytest.approx(3)


def test_edges_run_where_brightness_jumps():
    """The edge of a bright half is a line between the halves."""
    half = np.zeros((40, 40))
    half[:, 20:] = 1

    found = images.edges(half, 1.5)

    assert set(np.unique(found)) == {0, 1}
    assert set(np.argwhere(found)[:, 1]) <= {18, 19, 20, 21}


def test_sharp_photograph_is_chosen():
    """Of a photograph and its blurred copy, the photograph is the sharper one."""
    sharp = images.resize(images.load("chelsea"), images.frame(120))
    blurred = images.blur(sharp, 3.0)
    marks = [images.assess(p, images.edges(images.greyscale(p), 1.5)) for p in (blurred, sharp)]

    name, image = images.choose([*marks, blurred, sharp], ["blurred", "sharp"])

    assert name == "sharp"
    assert image is sharp
    assert marks[1]["edges"] > marks[0]["edges"]


def test_denoise_removes_noise():
    """What comes out is nearer to the clean picture than what went in."""
    clean = np.full((40, 40, 3), 0.5)
    noisy = clean + np.random.default_rng(0).normal(0, 0.03, clean.shape)

    denoised = images.denoise(("noisy", noisy))

    assert np.abs(denoised - clean).mean() < np.abs(noisy - clean).mean() / 2


def test_collage_has_three_rows_and_the_chosen_one():
    """Two photographs of 40 by 30: three rows of two halves, and a picture as high as all rows."""
    photograph, grey = np.full((30, 40, 3), 0.25), np.ones((30, 40))

    sheet = images.collage([photograph] * 2 + [photograph] * 2 + [grey] * 2 + [photograph])

    assert (sheet.shape, sheet.dtype) == ((45, 40 + 60, 3), np.uint8)
    assert np.unique(sheet[:30, :40]).tolist() == [63]
    assert np.unique(sheet[30:, :40]).tolist() == [255]
