"""Who may import whom: dependencies run one way."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
METHOD_LEVEL = {"torch", "pydantic", "jaxtyping", "numpy", "harness"} | set(sys.stdlib_module_names)


def imported(file: Path) -> set[str]:
    """Dotted names that a file imports anywhere, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return found


def files(*patterns: str) -> list[Path]:
    return sorted(file for pattern in patterns for file in ROOT.glob(pattern))


@pytest.mark.parametrize("file", files("methods/*.py", "harness/models/*.py", "harness/solvers.py"), ids=str)
def test_methods_need_torch_and_pydantic_only(file):
    names = imported(file)
    assert {name.split(".")[0] for name in names} <= METHOD_LEVEL
    ours = {".".join(name.split(".")[:2]) for name in names if name.startswith("harness.")}
    assert ours <= {"harness.contract", "harness.kernels", "harness.models", "harness.solvers"}


def test_loop_needs_neither_ray_nor_mlflow():
    names = imported(ROOT / "harness/loop.py") | imported(ROOT / "harness/contract.py")
    assert {name.split(".")[0] for name in names} <= METHOD_LEVEL


@pytest.mark.parametrize("package", ["ray", "mlflow", "ffcv"])
def test_heavy_packages_are_named_in_few_files(package):
    allowed = {
        "ray": {"board.py", "cluster.py", "search.py", "tuning.py", "workers.py", "ranks.py", "capacity.py", "jobs.py"},
        "mlflow": {"server.py", "mirror.py", "datasets.py", "models.py", "runs.py"},
        "ffcv": {"ffcv_compat.py"},
    }
    naming = {f.name for f in files("harness/**/*.py") if package in {n.split(".")[0] for n in imported(f)}}
    assert naming <= allowed[package]


def test_engine_names_no_plug_in():
    plug_ins = {f"harness.{file.parent.name}.{file.stem}" for file in files("methods/*.py", "datasets/*.py")}
    assert plug_ins
    for file in files("harness/**/*.py"):
        assert not imported(file) & plug_ins, file


@pytest.mark.parametrize("module", ["config", "experiment_file", "record", "select", "tables"])
def test_reading_and_tables_start_without_torch_and_ray(module):
    code = f"import sys, harness.{module}; sys.exit(' '.join({{'torch', 'ray', 'mlflow'}} & set(sys.modules)) or 0)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_hugging_faces_datasets_stays_importable(tmp_path):
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "__init__.py").write_text("name = 'theirs'")
    code = "import harness, harness.datasets.digits, datasets; assert datasets.name == 'theirs'"
    paths = f"{ROOT}:{tmp_path}"
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": paths, "PATH": ""})
