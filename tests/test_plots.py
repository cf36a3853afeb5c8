import random
import xml.etree.ElementTree as ElementTree

import matplotlib
import pytest
from matplotlib.colors import to_rgb

from harness import plots, publish, record
from harness.plots import canvas, row, style
from harness.published import Published
from harness.record import EarlyExit
from harness.sheet import sheets
from tests import records

QUOTED = [
    Published(
        dataset="Digits", network="MLP", method=method, time_steps=20, accuracy=95.0, selection="best_test",
        evidence="first-hand", source="arXiv:2205.00459",
    )
    for method in ("DSR", "TET")
]  # fmt: skip
ERRORS = {"representation_error": {"body.0": [0.8, 0.4, 0.2, 0.1], "body.1": [0.9, 0.0, 0.3, 0.2]}}
EXITS = [
    EarlyExit(confidence=0.5, mean_time_steps=1.5, accuracy=85.0),
    EarlyExit(confidence=0.9, mean_time_steps=3.0, accuracy=89.0),
]


def whole(method: str = "dsr", **options):
    """A record in which everything was measured."""
    return records.made(method, **{"cost": records.measured(), "convergence": ERRORS, "early_exit": EXITS} | options)


def shown(kind: str, found, published=()):
    """The figure of a kind and its panels by what stands at their x axis."""
    with style.settled():
        made = [plots.KINDS[kind].block(each) for each in row.rows(sheets(found, published), found)]
        figure = canvas.drawn([block for block in made if block]).figure
    return figure, {panel.get_xlabel(): panel for panel in figure.axes}


def lines(panel, colour: str | None = None) -> list[tuple[list[float], list[float]]]:
    """The points of the curves, in the order in which they were drawn."""
    return [
        (list(line.get_xdata()), list(line.get_ydata()))
        for line in panel.lines
        if (colour is None or line.get_color() == colour) and line.get_zorder() == 3
    ]


def notes(figure) -> str:
    return " ".join(place._supxlabel.get_text().replace("\n", " ") for place in figure.subfigs)


def test_a_sweep_gets_every_figure_for_which_something_was_measured(tmp_path):
    files = plots.write([whole()], tmp_path / "new", publish.PLOTS)
    assert [file.name for file in files] == plots.names(publish.PLOTS)
    assert set(plots.names(publish.PLOTS)) < set(publish.FILES)
    assert (tmp_path / "new" / "accuracy.png").read_bytes().startswith(b"\x89PNG")


def test_a_plot_drawn_again_is_the_same_file(tmp_path):
    wanted = {"training": ["svg", "pdf", "png"], "accuracy": ["svg"]}
    found = [made for made in records.sweep() if made.trial["method"] in ("dsr", "ann")]
    first = plots.write(found, tmp_path / "first", wanted, published=QUOTED)
    with matplotlib.rc_context({"lines.linewidth": 5.0}):
        shuffled = random.Random(0).sample(found, len(found))
        second = plots.write(shuffled, tmp_path / "second", wanted, published=QUOTED[::-1])
    assert len(first) == 4
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes(), one


def test_settings_of_the_reader_s_matplotlib_are_left_alone(tmp_path):
    before = dict(matplotlib.rcParams)
    plots.write([records.made()], tmp_path, {"accuracy": ["svg"]})
    assert dict(matplotlib.rcParams) == before


def test_nothing_is_drawn_where_nothing_was_measured(tmp_path):
    everything = {kind: ["svg"] for kind in plots.KINDS}
    assert plots.write([records.broken()], tmp_path, everything) == []
    assert list(tmp_path.iterdir()) == []
    bare = records.made(history=[])
    assert [file.name for file in plots.write([bare], tmp_path, everything)] == ["accuracy.svg"]


def test_no_label_can_break_the_svg(tmp_path):
    found = [whole(label=label) for label in ("$x^", "_hidden", "<script>&", "a -- b", "\x1b[31m", "%s{}", "x" * 500)]
    for file in plots.write(found, tmp_path, {"early-exit": ["svg"], "convergence": ["svg"]}):
        assert "script" not in {element.tag.rpartition("}")[2] for element in ElementTree.parse(file).iter()}


@pytest.mark.parametrize("kind", plots.KINDS)
def test_no_text_is_a_formula(kind):
    figure, _ = shown(kind, [whole(accuracy=90.0, label="$x^2$")])
    figure.draw_without_rendering()
    texts = [label.get_text() for panel in figure.axes for label in panel.get_xticklabels() + panel.get_yticklabels()]
    assert not any("$" in text for text in texts)


def test_accuracy_stands_at_its_prices():
    found = [whole(time_steps=t, accuracy=90.0 + t, cost=records.measured(t / 2, time_steps=t)) for t in (2, 4)]
    _, panels = shown("accuracy", found)
    assert list(panels) == [
        "time steps T", "latency (ms per sample, median)", "estimated energy (nJ per sample, arithmetic)",
        "synaptic operations (SynOps per sample)",
    ]  # fmt: skip
    prices = [lines(panel, style.COLOURS[0]) for panel in panels.values()]
    assert prices == [
        [([2, 4], [92.0, 94.0])], [([1.0, 2.0], [92.0, 94.0])], [([2045.0] * 2, [92.0, 94.0])],
        [([1.25e6] * 2, [92.0, 94.0])],
    ]  # fmt: skip


def test_a_price_that_was_not_measured_has_no_panel():
    _, panels = shown("accuracy", [records.made()])
    assert list(panels) == ["time steps T"]


def test_the_band_is_one_deviation_over_seeds():
    found = [records.made(time_steps=t, seed=s, accuracy=90.0 + 2 * s) for t in (2, 4) for s in (0, 1)]
    _, panels = shown("accuracy", found)
    (band,) = panels["time steps T"].collections
    heights = {round(float(y), 6) for _, y in band.get_paths()[0].vertices}
    assert heights == {round(91 - 2**0.5, 6), round(91 + 2**0.5, 6)}


def test_published_points_are_hollow_and_measured_ones_are_not():
    _, panels = shown("accuracy", [records.made()], QUOTED)
    quoted = [line for line in panels["time steps T"].lines if list(line.get_xdata()) == [20]]
    assert [line.get_ydata()[0] for line in quoted] == [95.0, 95.0]
    assert all(line.get_markerfacecolor() == "none" for line in quoted)
    assert {line.get_markeredgecolor() for line in quoted} == {style.COLOURS[0], style.GREY}
    (measured,) = [line for line in panels["time steps T"].lines if line.get_zorder() == 3]
    assert measured.get_markerfacecolor() == style.COLOURS[0]


def test_the_front_runs_through_what_nothing_beats():
    found = [records.made("a", time_steps=2, accuracy=90.0), records.made("a", time_steps=4, accuracy=95.0)]
    found.append(records.made("b", time_steps=4, accuracy=93.0))
    _, panels = shown("accuracy", found)
    (front,) = [line for line in panels["time steps T"].lines if line.get_label() == "Pareto front"]
    assert (list(front.get_xdata()), list(front.get_ydata())) == ([2, 4], [90.0, 95.0])


def test_training_curves_are_means_over_seeds_at_each_epoch():
    first = [records.epoch(1), records.epoch(2)]
    other = [epoch.model_copy(update={"train_loss": epoch.train_loss + 1}) for epoch in first]
    figure, _ = shown("training", [records.made(history=first), records.made(seed=1, history=other)])
    loss, accuracy = figure.axes
    assert (loss.get_ylabel(), accuracy.get_ylabel()) == ("training loss", "validation accuracy (%)")
    assert lines(loss) == [([1, 2], [1.5, 1.0])]
    assert lines(accuracy) == [([1, 2], [80.0, 81.0])]


def test_training_without_validation_has_no_panel_for_it():
    history = [records.epoch(1).model_copy(update={"validation_accuracy": None})]
    figure, _ = shown("training", [records.made(history=history)])
    assert [panel.get_ylabel() for panel in figure.axes] == ["training loss"]


def test_a_loss_that_is_not_finite_is_a_gap():
    history = [records.epoch(1), records.epoch(2).model_copy(update={"train_loss": float("nan")}), records.epoch(4)]
    figure, _ = shown("training", [records.made(history=history)])
    assert lines(figure.axes[0]) == [([1, 3], [1.0, 0.25])]


def test_firing_rates_are_percent_in_the_order_of_layers():
    figure, _ = shown("firing", [whole(cost=records.measured(rates=(0.1, 0.3, 0.2)))])
    (panel,) = figure.axes
    assert lines(panel) == [([0, 1, 2], [10.0, 30.0, 20.0])]
    assert [label.get_text() for label in panel.get_xticklabels()] == ["layer0", "layer1", "layer2"]


def test_early_exit_stands_beside_the_anytime_curve():
    _, panels = shown("early-exit", [whole(accuracy=90.0)])
    anytime, exits = lines(panels["mean time steps"])
    assert anytime == ([1, 2, 3, 4], [75.0, 80.0, 85.0, 90.0])
    assert exits == ([1.5, 3.0], [85.0, 89.0])


def test_convergence_has_a_line_for_each_layer_with_a_gap_at_zero():
    _, panels = shown("convergence", [whole()])
    panel = panels["time steps t"]
    assert (panel.get_xscale(), panel.get_yscale()) == ("log", "log")
    first, second = lines(panel)
    assert first == ([1, 2, 3, 4], [0.8, 0.4, 0.2, 0.1])
    assert second[1][0] == 0.9
    assert second[1][1] != second[1][1], "zero has no place on a logarithmic axis"


def test_two_networks_have_a_block_each():
    two = [records.made(), records.made(network={"name": "vgg11"})]
    heights = [shown("accuracy", found)[0].get_figheight() for found in (two[:1], two)]
    assert heights[1] == 2 * heights[0]


def test_one_label_has_one_look_in_every_row():
    found = [records.made("dsr"), records.made("ide"), records.made("ide", network={"name": "vgg11"})]
    first, second = row.rows(sheets(found), found)
    assert first.curves[1].look == second.curves[0].look


def test_more_methods_than_can_be_told_apart_are_named_instead():
    found = [records.made(f"m{place:02d}", validation=80.0 + place) for place in range(15)]
    found.append(records.made("ann", time_steps=1, validation=10.0))
    (only,) = row.rows(sheets(found), found)
    assert [curve.name for curve in only.curves] == [*(f"m{place:02d}" for place in range(4, 15)), "ann"]
    figure, _ = shown("accuracy", found)
    assert "4 more, m00, m01, m02, m03" in notes(figure)


def test_more_networks_than_a_page_holds_are_named_instead(monkeypatch):
    monkeypatch.setattr(canvas, "MAX_BLOCKS", 2)
    figure, _ = shown("accuracy", [records.made(network={"name": f"net{place}"}) for place in range(4)])
    assert len(figure.subfigs) == 2
    assert "a figure has at most 2 networks: 2 more, Digits, net2; Digits, net3" in notes(figure)


def test_curves_differ_without_their_colours():
    looks = [style.look(place) for place in range(row.MAX_CURVES)]
    for place, one in enumerate(looks):
        for other in looks[:place]:
            greys = [sum(w * c for w, c in zip((0.299, 0.587, 0.114), to_rgb(each.colour), strict=True))
                     for each in (one, other)]  # fmt: skip
            assert abs(greys[0] - greys[1]) > 0.15 or (one.marker, one.dashes) != (other.marker, other.dashes)


def test_layers_grow_lighter_with_depth():
    greys = [sum(to_rgb(look.colour)) for look in style.ramp(20)]
    assert greys == sorted(greys)


def test_the_command_names_its_files(harness, tmp_path):
    file = records_in(tmp_path / "results", [whole()])
    code, out, _ = harness("plot", file, "-o", tmp_path / "new", "--kind", "early-exit", "--format", "pdf")
    assert (code, out) == (0, f"{tmp_path / 'new' / 'early_exit.pdf'}\n")
    assert (tmp_path / "new" / "early_exit.pdf").read_bytes().startswith(b"%PDF")


def test_the_command_says_when_there_is_nothing_to_draw(harness, tmp_path):
    file = records_in(tmp_path / "results", [records.made()])
    code, out, err = harness("plot", file, "-o", tmp_path / "new", "--kind", "convergence")
    assert (code, out) == (2, "")
    assert "nothing to draw" in err
    assert "convergence" in err
    assert not (tmp_path / "new").exists()


def records_in(folder, found):
    """A folder that holds the records."""
    for each in found:
        record.write(each, folder)
    return folder
