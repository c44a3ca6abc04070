"""Tables as text and as Markdown."""

import jax.numpy as jnp
import numpy as np
import pytest

from dslstm_jax.reporting.tables import align, format_confusion, markdown_table

MATRIX = np.array([[6.0, 2.0, 0.0], [0.0, 12.0, 0.0], [0.0, 0.0, 0.0]])
LABELS = ("anger", "happiness", "neutral")


def test_the_table_is_aligned_and_ends_in_recalls() -> None:
    table = "\n".join(
        [
            "truth \\ predicted  anger  happiness  neutral   recall",
            "anger                  6          2        0   75.0 %",
            "happiness              0         12        0  100.0 %",
            "neutral                0          0        0        -",
        ]
    )
    assert format_confusion(MATRIX, LABELS) == table
    assert format_confusion(jnp.array(MATRIX, jnp.float32), LABELS) == table


def test_labels_that_do_not_fit_the_matrix_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        format_confusion(MATRIX, LABELS[:2])


def test_columns_are_aligned() -> None:
    assert align([["a", "b", "1"], ["ccc", "", "22"]], left=2) == "a    b   1\nccc     22"
    assert align([["a", "bb"], ["c", "d"]], left=2) == "a  bb\nc  d"


def test_markdown_has_a_ruler_and_no_cell_breaks_it() -> None:
    rows = [("name", "of", "count"), ("a|b\nc", "x", "1")]
    assert markdown_table(rows) == "| name | of | count |\n| --- | ---: | ---: |\n| a\\|b c | x | 1 |"
    assert markdown_table(rows, left=(0, 1)).splitlines()[1] == "| --- | --- | ---: |"
