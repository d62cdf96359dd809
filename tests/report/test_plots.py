"""The plots as images: what is drawn is where it belongs; as SVG: safe to put into a page."""

import re
import xml.etree.ElementTree as ET

import matplotlib.colors
import matplotlib.image
import numpy as np
import pytest

from ldx.report import plots

DEV = [
    {"step": s, "dev/total": 1 - s / 20, "dev/nDCG@10": v}
    for s, v in ((0, 0.2), (5, 0.9), (10, 0.5))
]
TRAIN = {"": [(1, 1.0), (2, 0.5)], "$a_b$": [(3, 0.7)]}
RNG = np.random.default_rng(0)
TEACHER = RNG.uniform(size=400)
STUDENTS = {"base": RNG.normal(size=400), "trained": TEACHER + 0.1 * RNG.normal(size=400)}
GAINS = [
    {"gain": 0.3, "low": 0.1, "high": 0.5, "p_holm": 0.01},
    {"gain": 0.1, "low": -0.1, "high": 0.3, "p_holm": 0.4},
    {"gain": -0.4, "low": -0.5, "high": -0.3, "p_holm": 0.049},
]
PAIRS = {"<b>&$x$": plots.Pair(0.1, 0.2), "中": plots.Pair(0.4, 0.3)}
FIGURES = {
    "curves": lambda: plots.curves(TRAIN, DEV, 5, "nDCG@10"),
    "work": lambda: plots.work({"": [(1, 0.5), (2, 0.4)]}, [(1, 2.0), (2, 2.5)]),
    "work without times": lambda: plots.work({"a": [(1, 0.5)], "b": [(2, 0.6)]}, []),
    "differences": lambda: plots.sorted_differences(np.array([-0.5, 0, 0.25, 1.0]), "nDCG@10"),
    "types": lambda: plots.change_by_group(PAIRS, "m"),
    "scores": lambda: plots.score_density(TEACHER, STUDENTS),
    "scores of one entry": lambda: plots.score_density(np.ones(1), {"base": np.ones(1)}),
    "intervals": lambda: plots.intervals(GAINS, "gain", ["up", "<b>&$x$", "中"], "gain in m"),
    "entropies": lambda: plots.entropies(TEACHER, {"base": np.zeros(0), "trained": TEACHER}),
}  # fmt: skip


def pixels(make, tmp_path, colour):
    """Where the PNG of a figure has a colour, [height, width]."""
    plots.write_png(make, tmp_path / "plot.png")
    image = matplotlib.image.imread(tmp_path / "plot.png")[:, :, :3]
    rgb = matplotlib.colors.to_rgb(plots.COLOURS[colour])
    return np.abs(image - rgb).max(axis=2) < 0.02


@pytest.mark.parametrize("name", FIGURES)
def test_every_plot_is_drawn_and_safe_as_svg(name, tmp_path):
    plots.write_png(FIGURES[name], tmp_path / "plot.png")
    image = matplotlib.image.imread(tmp_path / "plot.png")
    assert image.shape[1] == plots.WIDTH * 120
    assert 0.003 < (image[:, :, :3] < 0.95).any(axis=2).mean() < 0.7
    svg = plots.to_svg(FIGURES[name], "first", 'about "it" & <more>')
    root = ET.fromstring(svg)
    assert root.get("aria-label") == 'about "it" & <more>'
    ids = [each.get("id") for each in root.iter() if each.get("id")]
    assert len(set(ids)) == len(ids)
    assert all(each.startswith("first-") for each in ids)
    used = re.findall(r'(?:url\(|href=")#([^")]+)', svg)
    assert used
    assert set(used) <= set(ids)
    assert not re.search(r'(?:src|href)="(?!#|data:)', svg)
    assert not {plots.INK, plots.GRID} & set(re.findall(r"#[0-9a-f]{6}", svg))
    assert svg == plots.to_svg(FIGURES[name], "first", 'about "it" & <more>')
    tags = {each.tag.rpartition("}")[2] for each in root.iter()}
    assert tags <= {"svg", "defs", "style", "g", "path", "use", "clipPath", "rect", "text", "image"}


def test_labels_are_texts_and_no_formulas():
    text = "".join(ET.fromstring(plots.to_svg(FIGURES["types"], "x", "")).itertext())
    assert "<b>&$x$" in text
    assert "中" in text


def test_gains_are_left_and_up_losses_right_and_down(tmp_path):
    make = FIGURES["differences"]
    (up, left), (down, right) = (
        np.nonzero(pixels(make, tmp_path, colour)) for colour in ("trained", "teacher")
    )
    assert left.max() < right.min()
    assert up.max() <= down.min() + 1
    # 1.0 and 0.25 over 2 queries, against 0.5 over one.
    assert len(up) / len(down) == pytest.approx(2.5, rel=0.05)


def test_intervals_stand_where_they_are_and_are_filled_where_found(tmp_path):
    (rows, columns), (lower_rows, left) = (
        np.nonzero(pixels(FIGURES["intervals"], tmp_path, name)) for name in ("trained", "teacher")
    )
    assert rows.max() < lower_rows.min()  # the first is on top
    assert left.max() < columns.min()  # losses are left of gains
    first = rows < rows.min() + (lower_rows.min() - rows.min()) / 3
    lengths = [np.ptp(x) for x in (columns[first], columns[~first], left)]
    assert lengths[0] == pytest.approx(lengths[1], rel=0.05)  # 0.4 wide
    assert lengths[0] == pytest.approx(2 * lengths[2], rel=0.05)  # 0.2
    # Equal lines: what the first has more is the inside of its mark.
    assert first.sum() > 1.05 * (~first).sum()
    made = FIGURES["intervals"]()
    assert [line.get_xdata()[0] for line in made.axes[0].lines if len(line.get_xdata()) == 1] == [
        row["gain"] for row in GAINS
    ]


def test_the_best_step_is_marked_where_it_is(tmp_path):
    marks = pixels(FIGURES["curves"], tmp_path, "best")
    height, width = marks.shape
    star = marks[:, width // 2 :]
    rows, columns = np.nonzero(star)
    # Step 5 is in the middle; its value is the highest, and the legend's mark is elsewhere.
    middle = np.abs(columns - np.median(columns)) < 0.25 * width
    assert 0.4 < (width // 2 + np.median(columns[middle])) / width < 0.9
    assert rows.min() < 0.3 * height


def test_a_teacher_that_the_student_follows_is_a_diagonal(tmp_path):
    def slope(system):
        made = plots.score_density(TEACHER, {system: STUDENTS[system]})
        (drawn,) = [c for c in made.axes[0].collections if c.get_array() is not None]
        x, y = drawn.get_offsets().T
        return np.average((x - x.mean()) * (y - y.mean()), weights=drawn.get_array())

    assert slope("trained") > 5 * abs(slope("base"))
    made = plots.score_density(TEACHER, STUDENTS)
    counts = [sum(c.get_array().sum() for c in a.collections if c.get_array() is not None)
              for a in made.axes[:2]]  # fmt: skip
    assert counts == [400, 400]
