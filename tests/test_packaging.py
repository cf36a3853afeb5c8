"""What a wheel holds, and that it works without the checkout."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(folder),
        str(ROOT),
    ]
    subprocess.run(command, check=True, capture_output=True, text=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.mark.slow
def test_wheel_holds_plug_ins_configs_and_published_figures_inside_the_package(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    for wanted in ("methods/dsr.py", "datasets/mnist.py", "configs/digits.yaml", "results/published/dsr.yaml",
                   "report/static/start.js", "report/static/style.css", "report/templates/index.html.j2"):  # fmt: skip
        assert f"harness/{wanted}" in names
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"harness"}


@pytest.mark.slow
def test_installed_wheel_finds_its_plug_ins(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path)
    code = (
        f"import sys; sys.path = [p for p in sys.path if p != {str(ROOT)!r}]; sys.path.insert(0, {str(tmp_path)!r})\n"
        "import harness; from harness import plugins, published\n"
        "import pathlib; here = pathlib.Path(harness.__file__); assert here.parts[-2] == 'harness'\n"
        f"assert here.is_relative_to({str(tmp_path)!r})\n"
        "assert 'dsr' in plugins.names('methods') and plugins.load('datasets', 'digits').INFO.classes == 10\n"
        "assert published.shipped()\n"
        "from harness.report import build; assert len(dict(build.static())['app.js']) > 10_000"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
