"""What figures share."""

import itertools

import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from resformer.report.charts import heights_of_labels

dots = st.tuples(st.floats(0, 1), st.floats(0, 1), st.text("abc", min_size=1, max_size=12))


@given(st.lists(dots, min_size=1, max_size=3))
def test_labels_of_dots_that_lie_together_can_be_read(found):
    frame = pd.DataFrame(found, columns=["x", "y", "label"])
    below = heights_of_labels(frame.x, frame.y, frame.label, 160, 210)
    across = (frame.x - frame.x.min()) / (frame.x.max() - frame.x.min() or 1) * 160
    down = (frame.y.max() - frame.y) / (frame.y.max() - frame.y.min() or 1) * 210 + below
    for i, j in itertools.combinations(frame.index, 2):
        beside = abs(across[i] - across[j]) > 3 * (len(frame.label[i]) + len(frame.label[j]))
        assert beside or abs(down[i] - down[j]) >= 11.9
