"""Photographs on nodes of different capabilities.

Six photographs are loaded, resized, blurred, turned to grey, searched for edges and judged; the sharpest is
cleaned of noise on the one node that has a gpu; all of it goes into a collage. Run it with
``python examples/image_processing.py``; it writes ``collage.png``, a picture of the execution and a report
to ``examples/out/``.
"""

from __future__ import annotations

import argparse
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage import color, data, feature, filters, io, measure, restoration, transform

import handoff_dask as handoff

Image = NDArray[np.float64]

OUT = Path(__file__).resolve().parent / "out"

#: Photographs that scikit-image brings along; none has to be downloaded.
PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "hubble_deep_field", "retina", "rocket")

#: What the embedded cluster is made of: memory in megabytes, one gpu in all.
NODES = {
    "small": {"cpu": 2, "memory": 1500},
    "large": {"cpu": 4, "memory": 6000},
    "accelerated": {"cpu": 2, "memory": 3000, "gpu": 1},
}


def load(name: str) -> Image:
    """One photograph: ``(height, width, 3)``, from 0 to 1."""
    return np.asarray(getattr(data, name)(), dtype=np.float64) / 255


def frame(width: int) -> tuple[int, int]:
    """Height and width that every photograph is brought to, four to three."""
    return width * 3 // 4, width


def resize(image: Image, shape: tuple[int, int]) -> Image:
    """The largest centred part of the photograph that has the frame's proportions, in its size."""
    height, width = image.shape[:2]
    scale = min(height / shape[0], width / shape[1])
    rows, columns = round(shape[0] * scale), round(shape[1] * scale)
    top, left = (height - rows) // 2, (width - columns) // 2
    part = image[top : top + rows, left : left + columns]
    return np.asarray(transform.resize(part, (*shape, 3), anti_aliasing=True))


def blur(image: Image, sigma: float) -> Image:
    """Smooth each colour; ``sigma`` is in pixels."""
    return np.asarray(filters.gaussian(image, sigma=sigma, channel_axis=-1))


def greyscale(image: Image) -> Image:
    """Brightness: ``(height, width)``, from 0 to 1."""
    return np.asarray(color.rgb2gray(image))


def edges(grey: Image, sigma: float) -> Image:
    """1 where brightness changes abruptly, else 0."""
    return np.asarray(feature.canny(grey, sigma=sigma), dtype=np.float64)


def assess(image: Image, edge_map: Image) -> dict[str, float]:
    """How sharp, contrasty, detailed and busy a photograph is; larger is more."""
    grey = color.rgb2gray(image)
    return {
        "sharpness": float(filters.laplace(grey).std()),
        "contrast": float(grey.std()),
        "entropy": float(measure.shannon_entropy(np.round(grey * 255))),
        "edges": float(edge_map.mean()),
    }


def choose(given: Sequence[Any], names: Sequence[str]) -> tuple[str, Image]:
    """Name and picture of the sharpest photograph; takes all assessments, then all photographs."""
    assessments, images = given[: len(names)], given[len(names) :]
    sharpness = [assessment["sharpness"] for assessment in assessments]
    best = sharpness.index(max(sharpness))
    return names[best], images[best]


def denoise(chosen: tuple[str, Image]) -> Image:
    """Take the noise out of the chosen photograph; stands in for a model that needs a gpu."""
    return np.asarray(
        restoration.denoise_nl_means(
            chosen[1], h=0.03, patch_size=5, patch_distance=6, fast_mode=True, channel_axis=-1
        )
    )


def collage(pictures: Sequence[Image]) -> NDArray[np.uint8]:
    """Photographs, blurred ones and edges in three rows, halved; the denoised one beside them.

    Takes all photographs, then all blurred ones, then all edge maps, then the denoised one.
    """
    *rest, denoised = pictures
    columns = len(rest) // 3
    halved = [p[::2, ::2] if p.ndim == 3 else color.gray2rgb(p[::2, ::2]) for p in rest]
    sheet = np.vstack([np.hstack(halved[i * columns : (i + 1) * columns]) for i in range(3)])
    side = transform.resize(denoised, (sheet.shape[0], sheet.shape[0] * 4 // 3, 3))
    return np.asarray(np.clip(np.hstack([sheet, side]) * 255, 0, 255), dtype=np.uint8)


def build(names: Sequence[str] = PHOTOGRAPHS) -> handoff.DAG:
    """The whole job; the width that they are brought to, in pixels, is its input ``"width"``."""
    dag = handoff.new("image-processing")
    dag.add_function(handoff.Function(id="width", args=[], code=None, type="input"))
    # So cheap that it is computed wherever it is needed.
    dag.add_function(handoff.Function(id="frame", args=["width"], code=frame, type="inline"))
    for name in names:
        for step in steps(name):
            dag.add_function(step)
    judge_and_join(dag, names)
    return dag


def steps(name: str) -> list[handoff.Function]:
    """What is done with each photograph, one by one."""

    def step(what: str, args: list[Any], code: Any, *extra_args: Any, **fields: Any) -> handoff.Function:
        return handoff.Function(id=(what, name), args=args, code=code, extra_args=extra_args, **fields)

    return [
        step("load", [], load, name, cost={"cpu": 0.5, "memory": 300}),
        step("resize", [("load", name), "frame"], resize, cost={"cpu": 1, "memory": 400}),
        # Next to the picture that it starts from, so that nothing travels.
        step(
            "blur",
            [("resize", name)],
            blur,
            3.0,
            cost={"cpu": 2, "memory": 200},
            node=handoff.Collocated(("resize", name)),
        ),
        step("greyscale", [("blur", name)], greyscale, cost={"cpu": 0.5, "memory": 100}),
        step("edges", [("greyscale", name)], edges, 1.5, cost={"cpu": 1, "memory": 300}),
        step("assess", [("resize", name), ("edges", name)], assess, cost={"cpu": 1, "memory": 200}),
    ]


def judge_and_join(dag: handoff.DAG, names: Sequence[str]) -> None:
    """Add what is done with all photographs together."""
    pictures = {what: [(what, name) for name in names] for what in ("resize", "blur", "edges", "assess")}
    dag.add_function(
        handoff.Function(
            id="choose",
            args=[*pictures["assess"], *pictures["resize"]],
            code=choose,
            extra_args=(names,),
            argument_inclusion="as_list",
            cost={"cpu": 0.1, "memory": 200},
        )
    )
    dag.add_function(
        handoff.Function(
            id="denoise",
            args=["choose"],
            code=denoise,
            cost={"cpu": 1, "memory": 1000, "gpu": 1},
        )
    )
    dag.add_function(
        handoff.Function(
            id="collage",
            args=[*pictures["resize"], *pictures["blur"], *pictures["edges"], "denoise"],
            code=collage,
            argument_inclusion="as_list",
            cost={"cpu": 1, "memory": 1200},
        )
    )


def describe(result: handoff.ExecutionResult, names: Sequence[str] = PHOTOGRAPHS) -> str:
    """What came out, and which node ran what, as text."""
    lines = ["photograph         sharpness  contrast  entropy   edges"]
    for name in names:
        marks = result.results["assess", name]
        lines.append(
            f"{name:18} {marks['sharpness']:9.3f} {marks['contrast']:9.3f} "
            f"{marks['entropy']:8.2f} {marks['edges']:7.3f}"
        )
    lines += [f"sharpest: {result.results['choose'][0]}", ""]
    for node in sorted(set(result.allocations.values())):
        ran = [function_id for function_id, where in result.allocations.items() if where == node]
        kinds = Counter(i[0] if isinstance(i, tuple) else i for i in ran)
        listed = ", ".join(f"{kind} x{count}" if count > 1 else str(kind) for kind, count in kinds.items())
        lines.append(f"{node} ran {len(ran)}: {listed}")
    return "\n".join(lines)


def save(result: handoff.ExecutionResult, out: Path = OUT) -> list[Path]:
    """Write the collage, a picture of the execution and a report; gives their paths."""
    out.mkdir(parents=True, exist_ok=True)
    written = [out / "collage.png"]
    io.imsave(written[0], result.results["collage"], check_contrast=False)
    graph = handoff.visualization.execution_graph(result)
    # Without graphviz's program `dot`, what it would have drawn is kept as text.
    if shutil.which("dot"):
        written.append(out / "execution.svg")
        graph.render(written[-1], format="svg")
    else:
        written.append(out / "execution.dot")
        written[-1].write_text(graph.to_dot(), encoding="utf-8")
    written.append(out / "report.html")
    handoff.visualization.report(result, written[-1])
    return written


def main() -> None:
    """Run the job on an embedded cluster of three unlike nodes."""
    parser = argparse.ArgumentParser(description="Work on photographs on nodes of different capabilities.")
    parser.add_argument("--out", type=Path, default=OUT, help="folder for what is written")
    out = parser.parse_args().out
    with handoff.Handoff(nodes=NODES) as session:
        result = session.execute(build(), inputs={"width": 960}, timeout=300)
        print(describe(result))
        for path in save(result, out):
            print(f"wrote {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}")


if __name__ == "__main__":
    main()
