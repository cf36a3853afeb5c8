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

from harness import tables
from harness.published import Published
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
