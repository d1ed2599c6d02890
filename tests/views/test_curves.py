"""What changes from step to step of a training, as small panels."""
# lane: here

import math
import pytest
from matplotlib import pyplot as plt

from peft_viz import plot


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def lines(ax):
    return {line.get_gid(): line for line in ax.lines if line.get_gid()}


def test_each_kind_of_series_gives_its_lines():
    "A number, a list of numbers, and a dictionary, at every step or at some."
    ax = plot.curves(
        {"loss": [3, 2, 1], "each": [[1, 2], [3, 4]], "some": {0: {"a": 0.5}, 2: {"a": 1, "b": 0}}}
    )
    drawn = lines(ax)
    assert drawn.keys() == {"loss: ", "each: 0", "each: 1", "some: a", "some: b"}
    assert [len(line.get_xdata()) for line in drawn.values()] == [3, 2, 2, 2, 1]
    same_step = {
        drawn["loss: "].get_xdata()[2],
        drawn["some: a"].get_xdata()[1],
        drawn["some: b"].get_xdata()[0],
    }
    assert len(same_step) == 1  # all panels have the same steps


def test_heights_are_the_numbers():
    "y grows downwards: equal steps of a number are equal heights, and zero is in each panel."
    top, middle, zero = lines(plot.curves({"x": [4, 2, 0]}))["x: "].get_ydata()
    assert top < middle < zero and math.isclose(middle - top, zero - middle)
    up, down = lines(plot.curves({"x": [3, -3]}))["x: "].get_ydata()
    assert up < down
    said = {text.get_text() for text in plot.curves({"x": [3, -3]}).texts}
    assert {"3", "-3"} <= said


def test_what_is_no_number_leaves_a_gap():
    ax = plot.curves({"loss": [2.0, float("nan"), 1.0]})
    assert [math.isnan(y) for y in lines(ax)["loss: "].get_ydata()] == [False, True, False]


@pytest.mark.parametrize("end", ([1, 1, 1, 1], [0, 0, 0.01, 1]))
def test_names_of_lines_stay_apart_and_beside_their_ends(end):
    ax = plot.curves({"x": [[0.5] * 4, end]})
    ax.figure.canvas.draw()
    boxes = [
        text.get_window_extent() for text in ax.texts if text.get_text() in "0123" and text.get_ha() == "left"
    ]
    assert len(boxes) == 4
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_what_cannot_be_drawn_says_why():
    with pytest.raises(ValueError, match="without values"):
        plot.curves({"loss": []})
    with pytest.raises(ValueError, match="no labels"):
        plot.curves({"loss": [1]}, lang="fr")


@pytest.mark.parametrize("lang", ("en", "zh"))
@pytest.mark.parametrize("theme", ("light", "dark"))
def test_it_draws_into_axes_of_yours(lang, theme):
    own = plt.figure(figsize=(4, 4)).add_axes([0, 0, 1, 1])
    ax = plot.curves(
        {"loss": [1, 0.5], "a long name of a panel, longer than there is room for": [1]}, own, theme, lang
    )
    ax.figure.canvas.draw()
    assert ax is own and {"step 0" if lang == "en" else "第 0 步"} & {text.get_text() for text in ax.texts}
