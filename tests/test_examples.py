"""The examples do what their docstrings say."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import yaml
from distributed import Client, LocalCluster

import handoff_dask as handoff

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


def run_example(name: str, *arguments: str, **environment: str) -> str:
    """Run an example as a user does, as a script; gives what it printed."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{name}.py"), *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_image_job_has_one_function_that_needs_the_one_gpu():
    """About forty functions; all but inputs and inline ones cost something; one node can do the denoising."""
    dag = images.build()
    dag.validate()
    scheduled = [f for f in dag.functions.values() if f.type == "regular"]

    assert len(scheduled) == 6 * len(images.PHOTOGRAPHS) + 3
    assert [f.id for f in scheduled if not f.cost] == []
    assert [f.id for f in scheduled if "gpu" in f.cost] == ["denoise"]
    assert [name for name, has in images.NODES.items() if has.get("gpu")] == ["accelerated"]


def test_image_job_runs_in_one_process():
    """The job needs no cluster; small pictures give a small collage."""
    result = handoff.execute_local(images.build(), inputs={"width": 80})

    sheet = result.results["collage"]
    assert sheet.shape == (90, 6 * 40 + 120, 3)
    assert result.results["choose"][0] in images.PHOTOGRAPHS
    assert "local ran 39:" in images.describe(result)


@pytest.mark.slow
def test_image_example_writes_its_pictures(tmp_path):
    """Run as a script, it says what came out and which node ran what, and writes all that it names."""
    said = run_example("image_processing", "--out", str(tmp_path))

    assert "sharpest: hubble_deep_field" in said
    ran = {line.split()[0]: line for line in said.splitlines() if " ran " in line}
    assert "denoise" in ran["accelerated"]
    named = [Path(line.removeprefix("wrote ")) for line in said.splitlines() if line.startswith("wrote ")]
    assert sorted(path.name for path in named) == sorted(path.name for path in tmp_path.iterdir())
    assert (tmp_path / "collage.png").read_bytes().startswith(b"\x89PNG")
    assert "</html>" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_image_example_needs_no_dot(tmp_path, monkeypatch):
    """Without graphviz's program the graph is kept as DOT."""
    monkeypatch.setattr(images.shutil, "which", lambda name: None)
    result = handoff.execute_local(images.build(["coffee"]), inputs={"width": 40})

    written = images.save(result, tmp_path)

    assert [path.name for path in written] == ["collage.png", "execution.dot", "report.html"]
    assert written[1].read_text(encoding="utf-8").startswith("digraph")


def test_simple_example():
    """Handoff's first example gives Handoff's answer."""
    assert run_example("simple_pipeline") == "The final answer is: 84\n"


def test_distributed_example_finds_the_gpu():
    """On the embedded cluster the step in the middle goes to the node with a gpu."""
    said = run_example("distributed_pipeline")

    assert "The final answer is: Processed [Loaded: /path/to/shared/data.txt] on GPU" in said
    assert "  gpu_process ran on accelerated" in said.splitlines()


@pytest.fixture
def plain_cluster():
    """A Dask cluster that knows nothing of handoff, and has no gpu."""
    with LocalCluster(
        n_workers=1,
        threads_per_worker=4,
        processes=False,
        protocol="tcp",
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
        resources={"memory": 8192},
    ) as cluster:
        yield cluster


def test_distributed_example_on_a_cluster_of_ones_own(plain_cluster, capsys):
    """It says why a cluster without a gpu will not do, and runs once a worker has one."""
    pipeline = load_example("distributed_pipeline")
    here = ["--scheduler", plain_cluster.scheduler_address]

    assert pipeline.main(here) == 1
    refused = capsys.readouterr().err
    assert "'gpu_process'" in refused
    assert "gpu" in refused

    with handoff.Handoff(Client(plain_cluster, set_as_default=False)) as session:
        [node] = session.discover_nodes()
        session.update_node_resources(node, {"gpu": 1})
        assert pipeline.main(here) == 0
        session.client.close()
    assert f"gpu_process ran on {node}" in capsys.readouterr().out


def test_first_example_of_readme():
    """What the README shows first prints what the README says."""
    readme = (EXAMPLES.parent / "README.md").read_text(encoding="utf-8")
    program, _, rest = readme.partition("## First example\n\n```python\n")[2].partition("```")
    expected = rest.partition("```text\n")[2].partition("```")[0]

    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=100
    )

    assert (done.returncode, done.stdout) == (0, expected), done.stderr


@pytest.mark.slow
def test_serving_example():
    """The damaged image fails alone, and the others are recognised."""
    said = run_example("serving_a_model")

    assert "'classify': ['fast']" in said
    assert "the eighth is ValueError('an image of 8 by 8 was expected, not (4, 8)')" in said
    right = int(said.rsplit("\n", 2)[1].split(" of ")[0])
    assert right > 250


def test_deployments_are_complete():
    """Each file can be read, and the cluster of compose.yaml has the nodes of the script."""
    folder = EXAMPLES / "deployment"
    compose = yaml.safe_load((folder / "compose.yaml").read_text())
    cluster = load_example("deployment/cluster")
    assert compose["services"].keys() - {"scheduler"} == cluster.NODES.keys()
    for name, options in cluster.NODES.items():
        command = compose["services"][name]["command"]
        assert f"--name {name} --nthreads {options[1]}" in command
    kinds = [d["kind"] for d in yaml.safe_load_all((folder / "kubernetes.yaml").read_text())]
    assert kinds == ["DaskCluster", "DaskWorkerGroup"]
    compile((folder / "slurm.py").read_text(), "slurm.py", "exec")


@pytest.mark.slow
def test_a_program_runs_on_a_cluster_of_its_own(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import handoff_dask as handoff\n"
        "f = handoff.Function('f', [], sum, extra_args=[[1, 2]], cost={'gpu': 1})\n"
        "result = handoff.execute([f])\n"
        "print(result['f'], result.allocations['f'])\n"
    )
    script = EXAMPLES / "deployment" / "cluster.py"
    command = [sys.executable, str(script), sys.executable, str(program)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "3 accelerated\n"), done.stderr


@pytest.mark.slow
def test_examples_in_the_words_of_tasks():
    """A grid search, a map over files, and an ETL whose large intermediate stays where it is."""
    assert "is right in 9" in run_example("grid_search")
    assert len(run_example("word_counts").split(", ")) == 5
    assert "of shape (569, 100)" in run_example("etl")
