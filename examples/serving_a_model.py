"""A classifier that stays loaded, served over nodes that are not alike.

Images of handwritten digits (scikit-learn ships them) go through three stages.  One cleans them on any
node, with two workers.  One classifies, in batches, on the only node that has the accelerator, where
the model is loaded once.  One writes the answer.  An image that is damaged fails alone.

Run it with ``python examples/serving_a_model.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier

import handoff_dask as handoff
from handoff_dask import Function

#: Two plain nodes, and a scarce one.
NODES = {"one": {"cpu": 2}, "two": {"cpu": 2}, "fast": {"cpu": 2, "accelerator": 1}}
#: Images that the model does not see when it learns.
HELD_BACK = 300


def clean(image: np.ndarray) -> np.ndarray:
    """Scale an image of 8 by 8 to values from 0 to 1, as one row."""
    if image.shape != (8, 8):
        raise ValueError(f"an image of 8 by 8 was expected, not {image.shape}")
    return image.reshape(-1) / 16.0


def load_model(trees: int) -> RandomForestClassifier:
    """Make the model: once for each worker of the stage."""
    digits = load_digits()
    model = RandomForestClassifier(trees, random_state=0)
    return model.fit(digits.data[:-HELD_BACK] / 16.0, digits.target[:-HELD_BACK])


def classify(model: Any, batch: Sequence[tuple[np.ndarray]]) -> tuple[list[tuple[int, float]], Any]:
    """The digit of each image, and how sure the model is; the state stays as it is."""
    shares = model.predict_proba(np.stack([row for (row,) in batch]))
    return [(int(row.argmax()), float(row.max())) for row in shares], model


def answer(guess: tuple[int, float], image: np.ndarray) -> str:
    """A line for people."""
    digit, share = guess
    return f"{digit} ({share:.0%} sure, mean brightness {image.mean():.1f})"


def build() -> handoff.DAG:
    """The pipeline, as a DAG with one input."""
    dag = handoff.DAG("digits")
    dag.add_function(Function("image", [], None, type="input"))
    dag.add_function(Function("clean", ["image"], clean, cost={"cpu": 1}, parallelism=2))
    dag.add_function(
        Function(
            "classify", ["clean"], classify, cost={"accelerator": 1}, init=(load_model, (50,)),
            batch_size=32, batch_timeout=0.05,
        )
    )  # fmt: skip
    return dag.add_function(Function("answer", ["classify", "image"], answer))


def main() -> None:
    """Serve the images that the model has not seen, and one that is damaged."""
    digits = load_digits()
    images, truth = list(digits.images[-HELD_BACK:]), digits.target[-HELD_BACK:]
    images[7] = images[7][:4]
    with handoff.Handoff(nodes=NODES) as session, session.stream(build(), max_in_flight=100) as pipeline:
        print({stage: pipeline.workers(stage) for stage in pipeline.stages})
        answers = list(pipeline.map(images))
        print(pipeline.explain("classify"))
    right = sum(str(a).startswith(f"{t} ") for a, t in zip(answers, truth, strict=True))
    print(f"{right} of {len(images)} are right; the eighth is {answers[7]!r}, the ninth {answers[8]}")


if __name__ == "__main__":
    main()
