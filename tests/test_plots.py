import random
import xml.etree.ElementTree as ElementTree

import matplotlib
import pytest

from harness import plots
from harness.published import Published
from tests import records

QUOTED = [
    Published(
        dataset="Digits", network="MLP", method=method, time_steps=20, accuracy=95.0, selection="best_test",
        evidence="first-hand", source="arXiv:2205.00459",
    )
    for method in ("DSR", "TET")
]  # fmt: skip


def test_both_files_are_written(tmp_path):
    files = plots.accuracy_against_latency(records.sweep(), tmp_path / "new", published=QUOTED)
    assert [file.name for file in files] == ["accuracy.svg", "accuracy.png"]
    assert files[1].read_bytes().startswith(b"\x89PNG")


def test_a_plot_drawn_again_is_the_same_file(tmp_path):
    found = records.sweep()
    first = plots.accuracy_against_latency(found, tmp_path / "first", published=QUOTED)
    with matplotlib.rc_context({"lines.linewidth": 5.0}):
        shuffled = random.Random(0).sample(found, len(found))
        second = plots.accuracy_against_latency(shuffled, tmp_path / "second", published=QUOTED[::-1])
    assert [file.read_bytes() for file in first] == [file.read_bytes() for file in second]


def test_settings_of_the_reader_s_matplotlib_are_left_alone(tmp_path):
    before = dict(matplotlib.rcParams)
    plots.accuracy_against_latency([records.made()], tmp_path)
    assert dict(matplotlib.rcParams) == before


def test_nothing_is_drawn_without_an_accuracy(tmp_path):
    assert plots.accuracy_against_latency([records.broken()], tmp_path) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("label", ["$x^", "_hidden", "<script>&", "a -- b", "\x1b[31m", "%s{}"])
def test_a_label_cannot_break_the_svg(tmp_path, label):
    svg, _ = plots.accuracy_against_latency([records.made(label=label)], tmp_path)
    tags = {element.tag.rpartition("}")[2] for element in ElementTree.parse(svg).iter()}
    assert "script" not in tags


def test_two_networks_have_a_row_each(tmp_path):
    def height(found):
        _, png = plots.accuracy_against_latency(found, tmp_path)
        return int.from_bytes(png.read_bytes()[20:24])

    two = [records.made(), records.made(network={"name": "vgg11"})]
    assert height(two) == 2 * height(two[:1])


def test_without_latency_there_is_one_panel(tmp_path):
    def num_panels(found):
        svg, _ = plots.accuracy_against_latency(found, tmp_path)
        return svg.read_text().count('id="axes_')

    assert num_panels([records.made()]) == 1
    assert num_panels([records.made(cost=records.measured())]) == 2


def test_one_label_has_one_look_in_every_row():
    sheets = plots.sheets([records.made("dsr"), records.made("ide"), records.made("ide", network={"name": "vgg11"})])
    first, second = plots._rows(sheets[0])
    labels = [("dsr", "best_validation"), ("ide", "best_validation")]
    assert plots._curves(first, labels)[1].colour == plots._curves(second, labels)[0].colour
