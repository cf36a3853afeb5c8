import csv
import io
import json
import random
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

from harness import columns, record, tables, tables_cli
from harness.cli import app
from harness.experiment_file import ConfigError
from harness.published import Published
from harness.record import Cost, Energy, Latency, Operations
from harness.sheet import sheets
from tests import records

FORMATS = ("md", "csv", "latex", "html", "json")

nasty = st.one_of(
    st.text(max_size=40),
    st.lists(
        st.sampled_from(
            ["|", "&", "%", "<script>alert(1)</script>", "\\", "\n", "$", "_", "#", "{", "}", "~", "^", "`", "*",
             "[a](b)", '"', "'", ",", "=1+1", "\x1b[31m", "\u202e", "\u2028", "<!--", "-->", "[bold]", "\\\\", "a"]
        ),
        max_size=6,
    ).map("".join),
)  # fmt: skip


def figure(**changes) -> Published:
    content = {
        "dataset": "Digits", "network": "MLP", "method": "DSR", "neuron": "IF", "time_steps": 20, "accuracy": 95.4,
        "std": 0.15, "selection": "best_test", "evidence": "first-hand", "source": "arXiv:2205.00459",
    }  # fmt: skip
    return Published(**{**content, **changes})


def lines(text: str) -> list[list[str]]:
    """Rows of a Markdown table, split where Markdown splits."""
    return [
        [entry.strip() for entry in re.split(r"(?<!\\)(?:\\\\)*\|", line)[1:-1]]
        for line in text.splitlines()
        if line.startswith("|")
    ]


class Rows(HTMLParser):
    """Tags and rows of an HTML table."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.rows: list[list[str]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data):
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data


def terminal_text(found, **options) -> str:
    console = Console(width=250, file=io.StringIO(), force_terminal=False)
    console.print(tables.terminal(found, **options))
    return console.file.getvalue()


def test_mean_deviation_and_n_stand_together():
    text = tables.render([records.made(seed=seed, accuracy=90.0 + seed) for seed in range(3)], "md")
    assert "| 91.00 ± 1.00 (3) |" in text
    assert "over n = 3 seeds" in text


def test_a_single_seed_is_written_out():
    text = tables.render([records.made(accuracy=90.0)], "md")
    assert "| 90.00 (n=1) |" in text
    assert "±" not in text


def test_columns_without_a_measurement_are_left_out():
    (head, *_) = lines(tables.render([records.made()], "md"))
    assert head == ["Method", "Network", "T", "Accuracy %", "Validation %", "Train s"]


def test_columns_with_a_measurement_are_there():
    (head, _, row) = lines(tables.render([records.made(cost=records.measured(1.5))], "md"))
    assert head[5:] == ["Latency ms/sample", "Firing rate %", "SynOps", "Energy nJ", "Train s"]
    assert row[5:] == ["1.50", "20.0", "1.25 M", "2045", "6.00"]


def test_only_settings_that_differ_have_a_column():
    found = [records.made(settings={"v_threshold": v, "tau": 2.0}) for v in (0.5, 1.0)]
    (head, *_) = lines(tables.render(found, "md"))
    assert head[:3] == ["Method", "v_threshold", "Network"]


def test_the_best_by_validation_is_marked_and_explained():
    found = [records.made(settings={"v_threshold": v}, accuracy=90 - v, validation=90 + v) for v in (1.0, 2.0)]
    text = tables.render(found, "md")
    assert "**88.00 (n=1) ★**" in text
    assert "| 89.00 (n=1) |" in text
    assert "★ best mean validation accuracy" in text


def test_nothing_is_marked_where_there_was_no_choice():
    text = tables.render([records.made(), records.made("ide")], "md")
    assert "★" not in text


def test_pareto_marks_stand_at_what_they_are_about():
    found = [records.made(time_steps=t, accuracy=80 + t, cost=records.measured(9.0 - t, time_steps=t)) for t in (2, 4)]
    (_, _, short, long) = lines(tables.render(found, "md"))
    assert (short[2], short[5]) == ("2 ◆", "7.00")
    assert (long[2], long[5]) == ("4 ◆", "5.00 ◆")


def test_an_ordinary_network_takes_no_part_in_the_pareto_front():
    text = tables.render(records.sweep(), "md")
    assert [row[3] for row in lines(text) if row[0] == "ann"] == ["1"]


def test_the_selection_rule_is_named():
    assert "best validation accuracy" in tables.render([records.made()], "md")
    assert "TEST accuracy, which is optimistic" in tables.render([records.made(selection="best_test")], "md")


@pytest.mark.parametrize("format", FORMATS)
def test_failed_trials_are_shown_with_their_reason(format):
    found = [records.made(), records.broken("diverged", "loss is NaN in epoch 1", seed=1)]
    text = tables.render(found, format)
    assert "diverged" in text
    assert "loss is NaN in epoch 1" in text


def test_a_cell_of_failures_alone_has_a_row():
    (_, _, row) = lines(tables.render([records.broken("failed", "out of memory")], "md"))
    assert row == ["dsr", "mlp", "4", "1 failed"]


def test_failed_trials_are_shown_in_the_terminal():
    assert "seed 0 failed: out of memory" in terminal_text([records.broken("failed", "out of memory")])


def test_every_dataset_has_its_table():
    other = records.made(dataset={"name": "mnist"}, data={"title": "MNIST"})
    text = tables.render([records.made(), other], "md")
    assert re.findall(r"^### (.*)", text, re.MULTILINE) == ["Digits", "MNIST"]


def test_latencies_of_different_machines_are_called_incomparable():
    other = records.made("ide", cost=records.measured(), machine={"cpu": "Other CPU"})
    text = tables.render([records.made(cost=records.measured()), other], "md")
    assert "not comparable: batch of 1, Other CPU; batch of 1, Test CPU" in text


def test_uncommitted_changes_are_marked():
    assert "0123456+" in tables.render([records.made(dirty=True)], "md")


@pytest.mark.parametrize("format", FORMATS)
def test_order_of_records_does_not_change_a_table(format):
    found = records.sweep()
    shuffled = random.Random(1).sample(found, len(found))
    assert tables.render(found, format, anytime=True) == tables.render(shuffled, format, anytime=True)


@pytest.mark.parametrize("format", FORMATS)
def test_no_records_make_no_table(format):
    assert tables.render([], format) is not None


def test_published_rows_say_so_and_what_differs():
    text = tables.render([records.made("dsr")], "md", published=[figure()])
    assert r"| DSR (IF), published \[1\] | MLP | 20 | 95.40 ± 0.15 |" in text
    assert (
        "published in arXiv:2205.00459 (first-hand); epoch chosen on test; other T, choice of the epoch than here"
        in text
    )


def test_published_rows_of_other_datasets_stay_out():
    assert "published" not in tables.render([records.made()], "md", published=[figure(dataset="MNIST")])


def test_a_published_method_that_did_not_run_is_called_so():
    assert "method not measured here" in tables.render([records.made("ide")], "md", published=[figure()])


def test_accuracy_over_time_is_shown_for_the_largest_t():
    found = [records.made(time_steps=t, accuracy=90.0) for t in (2, 8)]
    text = tables.render(found, "md", anytime=True)
    assert "| dsr | mlp | 8 | 55.00 (n=1) | 60.00 (n=1) | 70.00 (n=1) | 90.00 (n=1) |" in text
    assert "accuracy over time" not in tables.render(found, "md")


def test_csv_has_one_row_a_cell_with_numbers():
    found = [records.made(settings={"v_threshold": v}, cost=records.measured()) for v in (0.5, 1.0)]
    first, second = csv.DictReader(io.StringIO(tables.render(found, "csv")))
    assert float(first["accuracy_mean"]) == 90.0
    assert first["accuracy_std"] == ""
    assert (first["n"], first["synops"]) == ("1", "1250000")
    assert [row["settings.v_threshold"] for row in (first, second)] == ["0.5", "1"]


def test_json_has_nulls_for_what_was_not_measured():
    (cell,) = json.loads(tables.render([records.made()], "json"))["cells"]
    assert cell["synops"] is None
    assert cell["configuration"]["settings.v_threshold"] == 1.0


@settings(max_examples=60, deadline=None)
@given(nasty)
def test_a_label_cannot_break_markdown(label):
    text = tables.render([records.made(label=label or "x", reason=label)], "md")
    assert {len(row) for row in lines(text)} == {6}
    assert "<" not in text


@settings(max_examples=60, deadline=None)
@given(nasty)
def test_a_label_cannot_break_html(label):
    parsed = Rows(tables.render([records.made(label=label or "x"), records.broken(seed=1, reason=label)], "html"))
    assert parsed.tags <= {"style", "table", "caption", "strong", "br", "thead", "tbody", "tfoot", "tr", "th", "td"}
    assert len(parsed.rows[0]) == len(parsed.rows[1])


@settings(max_examples=60, deadline=None)
@given(nasty)
def test_a_label_cannot_break_latex(label):
    text = tables.render([records.made(label=label or "x")], "latex")
    (row,) = [line for line in text.splitlines() if "90.00" in line]
    plain = re.sub(r"\\(textbackslash|textasciitilde|textasciicircum|textless|textgreater|textbar)\{\}", "", row)
    plain = re.sub(r"\\[&%$#_{}]", "", plain).replace(r"$\pm$", "").replace(r"$\star$", "").replace(r"$\diamond$", "")
    plain = plain.replace(r"$\cdot$", "").removesuffix(r"\\")
    assert plain.count("&") == 5
    assert not set(plain) & set("\\%#_$^~")
    assert plain.count("{") == plain.count("}") == plain.count("[") + plain.count("]")


@settings(max_examples=60, deadline=None)
@given(nasty)
def test_a_label_cannot_break_csv(label):
    text = tables.render([records.made(label=label or "x"), records.made("ide")], "csv")
    first, second, third = csv.reader(io.StringIO(text))
    assert len(first) == len(second) == len(third)
    assert not any(row[2].startswith(("=", "+", "-", "@")) for row in (second, third))


@settings(max_examples=30, deadline=None)
@given(nasty)
def test_a_label_cannot_write_to_the_terminal(label):
    text = terminal_text([records.made(label=label or "x"), records.broken(seed=1, reason=label)])
    assert "\x1b" not in text
    assert "\u202e" not in text


@settings(max_examples=30, deadline=None)
@given(st.randoms(use_true_random=False), st.sampled_from(FORMATS))
def test_any_order_gives_the_same_table(shuffler, format):
    found = [records.made(seed=seed, time_steps=t, accuracy=90 + seed / 3) for seed in range(3) for t in (2, 4)]
    expected = tables.render(found, format)
    shuffler.shuffle(found)
    assert tables.render(found, format) == expected


def test_methods_that_start_from_others_say_so_in_a_note():
    ann = records.made("ann", time_steps=1)
    text = tables.render([ann, records.made(start=ann), records.made("bptt")], "md")
    assert "dsr starts from the weights of ann T=1 (" in text
    assert "bptt starts" not in text


def command(folder, *options: str):
    return CliRunner().invoke(app, ["table", str(folder), *options])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    for made in records.sweep():
        record.write(made, folder)
    return folder


def full_cost() -> Cost:
    return Cost(
        parameters=1_200, neurons=300, peak_memory_bytes=2 * 10**8, throughput=5e3, worker_hours=1.5,
        accelerator_hours=0.5, dead={"a": 0.1, "b": 0.3}, saturated={"a": 0.0, "b": 0.02},
        latency=[
            Latency(
                batch_size=batch, time_steps=4, median_ms=2.0 / batch, p95_ms=3.0 / batch, p99_ms=4.0 / batch,
                repeats=5, device="cpu",
            )
            for batch in (1, 64)
        ],
        operations=Operations(Effective_MACs=1e3, Effective_ACs=2e4, Dense=4e5),
        energy=Energy(
            nanojoules=30.0, memory_nanojoules=70.0, ann_nanojoules=40.0, ann_memory_nanojoules=160.0,
            mac_picojoules=4.6, ac_picojoules=0.9, source="45 nm", memory_source="a memory",
        ),
    )  # fmt: skip


def test_every_column_shows_what_was_measured():
    made = records.made(
        cost=full_cost(), accuracy_top5={4: 99.0}, convergence={"representation_error": {"a": [0.5, 0.2]}},
        early_exit=[
            {"confidence": 0.5, "mean_time_steps": 1.5, "accuracy": 80.0},
            {"confidence": 0.9, "mean_time_steps": 2.5, "accuracy": 89.0},
        ],
    )  # fmt: skip
    text = tables.written(sheets([made]), "md", measures=columns.NAMES)
    head, _, row = lines(text)
    shown = dict(zip(head, row, strict=True))
    assert shown["Top-5 %"] == "99.00 (n=1)"
    assert (shown["p95 ms"], shown["p99 ms"], shown["Batched ms/sample (batch)"]) == ("3.00", "4.00", "0.0312 (64)")
    assert (shown["Samples/s"], shown["Peak memory MB"], shown["Dead %"]) == ("32.0 k", "200", "20.0")
    assert (shown["Effective_MACs"], shown["Effective_ACs"], shown["Dense"]) == ("1.00 k", "20.0 k", "400 k")
    assert (shown["Energy with memory nJ"], shown["Energy / ANN's"]) == ("100", "0.500")
    assert (shown["Worker h"], shown["Accelerator h"], shown["Neurons"]) == ("1.50", "0.500", "300")
    assert shown["Early exit: mean T (accuracy)"] == "2.50 (89.00 %)"
    assert shown["Error at T"] == "0.200 representation error"
    assert "probability of 0.9" in text
    assert "memory: a memory" in text


def test_columns_are_named_in_the_help_and_can_all_be_asked_for():
    assert tables_cli.COLUMNS == columns.NAMES
    assert tables.written(sheets(records.sweep()), "csv", measures=columns.NAMES)


def test_asked_columns_stand_in_the_order_asked_for():
    (head, *_) = lines(tables.written(sheets([records.made()]), "md", measures=["train_seconds", "accuracy"]))
    assert head == ["Method", "Network", "T", "Train s", "Accuracy %"]


def test_trials_that_a_choice_cost_stand_beside_the_chosen_row():
    found = [
        records.made(seed=seed, settings={"v_threshold": v}, validation=90 + v, wall_seconds=1800)
        for seed in range(2)
        for v in (1.0, 2.0)
    ]
    found.append(records.broken(seed=3, settings={"v_threshold": 1.0}, wall_seconds=3600))
    head, _, first, second = lines(tables.render(found, "md"))
    place = head.index("Trials")
    assert (first[place], second[place]) == ("–", "5 (3.00 h)")


def test_a_table_of_its_own_for_each_network_and_t():
    found = [records.made(network={"name": n}, time_steps=t) for n in ("mlp", "vgg11") for t in (2, 10)]
    text = tables.written(sheets(found, by=["dataset", "network", "time_steps"]), "md")
    titles = re.findall(r"^### (.*)", text, re.MULTILINE)
    assert titles == [f"Digits, {n}, time_steps = {t}" for n in ("mlp", "vgg11") for t in (2, 10)]
    assert "| Network |" not in text


def test_a_table_over_datasets_names_them_and_chooses_in_each():
    other = {"dataset": {"name": "mnist"}, "data": {"title": "MNIST"}}
    found = [records.made(time_steps=t, accuracy=80 + t, **more) for t in (2, 4) for more in ({}, other)]
    (sheet,) = sheets(found, by=["network"])
    assert (sheet.title, sheet.dataset) == ("mlp", "Digits and MNIST")
    assert len(sheet.fewest_steps) == 4
    assert {row[0] for row in lines(tables.written([sheet], "md"))[2:]} == {"Digits", "MNIST"}


def test_only_what_is_asked_for_is_in_the_table():
    (sheet,) = sheets(records.sweep(), where=["method=dsr", "time_steps=2,4", "v_threshold=0.5"])
    assert [(cell.label, cell.time_steps) for cell in sheet.cells] == [("dsr", 2), ("dsr", 4)]


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("method", "expected key=value"),
        ("colour=red", "no key 'colour'"),
        ("netwrok=mlp", "did you mean 'network'"),
        ("network=vgg", r"nothing has network=vgg \(there are: mlp\)"),
    ],
)
def test_a_filter_that_is_none_is_refused(where, said):
    with pytest.raises(ValueError, match=said):
        sheets(records.sweep(), where=[where])


def test_published_figures_of_the_dataset_stand_beside_a_variant_as_other_data():
    jpeg = records.made(data={"title": "CIFAR-10 (JPEG)"})
    text = tables.render([jpeg], "md", published=[figure(dataset="CIFAR-10")])
    assert r"DSR (IF), published \[1\]" in text
    assert "other data: CIFAR-10 there, CIFAR-10 (JPEG) here" in text
    assert "published" not in tables.render([jpeg], "md", published=[figure(dataset="CIFAR10-DVS")])


@pytest.mark.parametrize(
    ("there", "said"),
    [
        (None, "augmentation not known"),
        ("none", "augmentation: none there, crop, flip here"),
        ("crop, flip", None),
    ],
)
def test_another_augmentation_is_told(there, said):
    made = records.made(dataset={"augment": {"crop_padding": 4, "flip": True, "cutout": 0}})
    text = tables.render([made], "md", published=[figure(augmentation=there)])
    assert said in text if said else "augmentation" not in text


def test_unverified_figures_are_marked():
    text = tables.render([records.made()], "md", published=[figure(evidence="unverified: from memory")])
    assert r"DSR (IF), published, unverified \[1\]" in text


def test_published_figures_stand_with_their_network_and_the_others_are_counted():
    rows = [figure(network="MLP"), figure(network="VGG-11"), figure(network="ResNet-19")]
    found = [records.made(network={"name": n}) for n in ("mlp", "vgg11")]
    shown = sheets(found, rows, by=["dataset", "network"])
    assert [[row.network for row in sheet.published] for sheet in shown] == [["MLP"], ["VGG-11"]]
    assert "1 published figures of this dataset fit no table here" in tables.written(shown, "md")


def test_the_order_of_published_figures_does_not_depend_on_theirs():
    rows = [figure(accuracy=value, time_steps=10) for value in (90.0, 91.0, 92.0)]
    assert len({tables.render([records.made()], "md", published=some) for some in (rows, rows[::-1])}) == 1


def test_a_latex_table_is_balanced_and_has_as_many_entries_as_columns():
    text = tables.render(records.sweep(), "latex", published=[figure()])
    (form,) = re.findall(r"begin{tabular}{([lr]+)}", text)
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert {line.count(" & ") for line in rows} == {len(form) - 1}
    assert [text.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == [1, 2, 1]
    assert text.isascii()


@pytest.mark.parametrize(("name", "start"), [("t.md", "###"), ("t.csv", "source,"), ("t.tex", r"\begin{table}")])
def test_a_file_is_written_as_it_ends(folder, tmp_path, name, start):
    result = command(folder, "-o", str(tmp_path / name), "--no-published")
    assert result.exit_code == 0, result.output
    assert (tmp_path / name).read_text().startswith(start)
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--columns", "acuracy"], "no column 'acuracy'"),
        (["--group-by", "colour"], "no key 'colour'"),
        (["--no-published", "--unverified"], "no effect"),
        (["-o", "table.xlsx"], "which --format?"),
    ],
)
def test_what_cannot_be_is_refused(folder, options, said):
    result = command(folder, *options)
    assert isinstance(result.exception, ConfigError)
    assert said in str(result.exception)
