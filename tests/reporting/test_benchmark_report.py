"""A benchmark's rows as a picture."""

from dslstm_jax.reporting.benchmark import draw_rows


def test_many_cases_are_drawn_as_lines(figures, tmp_path):
    rows = [
        {
            **{"cell": "lstm", "pass": passes, "batch": batch, "time": time, "dtype": "float32"},
            **{"implementation": name, "unroll": unroll, "median ms": float(batch * time)},
        }
        for passes in ("forward", "train")
        for time in (27, 400)
        for batch in (1, 8, 32, 128)
        for name, unroll in (("dslstm_jax", 1), ("dslstm_jax", 4), ("torch.nn.LSTM", None))
    ]
    draw_rows("recurrence", rows, tmp_path / "many.png")
    (figure,) = figures
    assert [panel.get_title() for panel in figure.axes] == ["time 27", "time 400", "", ""]
    assert [panel.get_ylabel().split("\n")[0] for panel in figure.axes[::2]] == [
        "lstm, forward, float32",
        "lstm, train, float32",
    ]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "dslstm_jax, unroll 1",
        "dslstm_jax, unroll 4",
        "torch.nn.LSTM",
    ]
    line = figure.axes[1].lines[2]
    assert (list(line.get_xdata()), list(line.get_ydata())) == ([1, 8, 32, 128], [400, 3200, 12800, 51200])
