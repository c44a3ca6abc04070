"""Whatever is given for sound, there is an answer or one AudioError: no hang, no other exception, nothing printed."""

import contextlib
import io
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import dslstm_jax
from dslstm_jax.data.audio import read_audio, read_blocks, read_header
from dslstm_jax.errors import AudioError
from dslstm_jax.serving.predictor import Prediction, Predictor

RATE = 16_000
CASES = settings(max_examples=500, deadline=None, database=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def predictor(trained) -> Predictor:
    return dslstm_jax.load(trained)


def check_answer(answer: Prediction | AudioError, predictor: Predictor) -> None:
    if isinstance(answer, AudioError):
        assert str(answer)
        assert "\n" not in str(answer)
    else:
        assert isinstance(answer, Prediction)
        assert tuple(answer.probabilities) == predictor.labels
        assert answer.label in predictor.labels
        assert sum(answer.probabilities.values()) == pytest.approx(1, abs=1e-5)
        assert answer.duration_seconds > 0


def true_files() -> dict[str, bytes]:
    """A tenth of a second in the formats that soundfile writes."""
    time = np.arange(1_600) / RATE
    samples = 0.3 * np.sin(2 * np.pi * 300 * time) + 0.01 * np.random.default_rng(0).normal(size=time.size)
    files = {}
    for name, format_name, subtype in [
        ("a.wav", "WAV", "PCM_16"),
        ("f.wav", "WAV", "FLOAT"),
        ("a.flac", "FLAC", None),
        ("a.ogg", "OGG", None),
        ("a.opus", "OGG", "OPUS"),
        ("a.mp3", "MP3", None),
        ("a.aiff", "AIFF", None),
        ("a.au", "AU", None),
    ]:
        buffer = io.BytesIO()
        soundfile.write(buffer, samples, RATE, format=format_name, subtype=subtype)
        files[name] = buffer.getvalue()
    return files


TRUE_FILES = true_files()
names = st.sampled_from(sorted(TRUE_FILES))


@st.composite
def contents(draw: st.DrawFn) -> tuple[str, bytes]:
    """The name and bytes of a file: random, random behind a true header, truncated, or with some bytes changed."""
    name = draw(names)
    true = TRUE_FILES[name]
    kind = draw(st.sampled_from(["random", "header", "truncated", "changed", "inserted"]))
    if kind == "random":
        content = draw(st.binary(max_size=600))
    elif kind == "header":
        content = true[: draw(st.integers(4, 120))] + draw(st.binary(max_size=600))
    elif kind == "truncated":
        content = true[: draw(st.integers(0, len(true)))]
    elif kind == "changed":
        changed = bytearray(true)
        reach = draw(st.sampled_from([60, len(true)]))  # most of what can go wrong stands in the header
        for _ in range(draw(st.integers(1, 12))):
            changed[draw(st.integers(0, reach - 1))] = draw(st.integers(0, 255))
        content = bytes(changed)
    else:
        place = draw(st.integers(0, len(true)))
        content = true[:place] + draw(st.binary(min_size=1, max_size=40)) + true[place:]
    if draw(st.booleans()):
        name = draw(names)  # a name that does not fit
    return name, content


def test_any_bytes_as_a_file(predictor, tmp_path, capfd):
    """500 files; libsndfile and the MP3 decoder in it stay silent too."""
    kinds = {"answered": 0, "refused": 0}

    def sound(read, path: Path) -> np.ndarray | str:
        try:
            return read(path)
        except AudioError as error:
            return str(error)

    @CASES
    @given(contents())
    def check(case: tuple[str, bytes]) -> None:
        path = tmp_path / case[0]
        path.write_bytes(case[1])
        whole = sound(lambda path: read_audio(path, RATE, 600.0), path)
        pieces = sound(lambda path: np.concatenate(list(read_blocks(path, RATE))), path)
        sound(read_header, path)
        kinds["refused" if isinstance(whole, str) else "answered"] += 1
        if isinstance(whole, str):
            assert whole.startswith(f"{path}: ")
            check_answer(AudioError(whole), predictor)
        else:
            assert whole.dtype == np.float32
            assert whole.ndim == 1
            assert np.isfinite(whole).all()
            assert np.abs(whole).max() <= 1
            assert pieces.shape == whole.shape
            if len(whole) <= 2 * RATE:  # longer ones would each compile a program
                (answer,) = predictor.files([path])
                assert isinstance(answer, Prediction)
                check_answer(answer, predictor)

    check()
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")
    print(kinds)
    assert min(kinds.values()) > 25


USUAL_TYPES = st.sampled_from(["float32", "float64", "int16", "int8", "int32", "uint8"])
TYPES = st.sampled_from(["int64", "uint64", "float16", "bool", "complex64", "O", "U3", "V4", ">f4", "M8[s]"])
USUAL_SHAPES = st.one_of(st.tuples(st.integers(800, 1_500)), st.tuples(st.integers(800, 1_500), st.integers(1, 2)))
SHAPES = st.one_of(
    st.tuples(st.integers(0, 1_500)),
    st.tuples(st.integers(0, 800), st.integers(0, 3)),
    arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=8),
)


@st.composite
def any_samples(draw: st.DrawFn) -> object:
    if draw(st.integers(0, 9)) == 0:
        return draw(
            st.one_of(st.none(), st.text(max_size=9), st.lists(st.one_of(st.floats(), st.text())), st.integers())
        )
    generator = np.random.default_rng(draw(st.integers(0, 9)))
    usual = draw(st.booleans())  # else too few cases would reach the model
    shape = draw(st.one_of(USUAL_SHAPES, SHAPES) if usual else SHAPES)
    dtype = np.dtype(draw(USUAL_TYPES if usual else TYPES))
    scale = 0.5 if usual else draw(st.sampled_from([0.5, 0.0, 1e-30, 20.0, 1e4, 1e38, 1e300]))
    values = scale * generator.uniform(-1, 1, shape)
    if values.size and not usual and draw(st.booleans()):
        values.flat[draw(st.integers(0, values.size - 1))] = draw(st.sampled_from([np.nan, np.inf, -np.inf, 1.0]))
    with np.errstate(all="ignore"):
        if dtype.kind in "iu":
            values = np.nan_to_num(values * min(np.iinfo(dtype).max, 2.0**40))
        if dtype.kind == "M":
            values = np.nan_to_num(values).astype("int64")
        if dtype.kind == "V":
            return np.zeros(shape, dtype)
        return np.asarray(values).astype(dtype)


USUAL_RATES = st.sampled_from([RATE, 8_000, 44_100.0, np.int32(22_050), np.float32(11_025.5)])
RATES = st.one_of(
    st.sampled_from([0, -RATE, 1e9, 10**400, 10**5_000, np.nan, np.inf, -np.inf, True, None, "16000", 16_000j]),
    st.floats(),
    st.integers(),
)


def test_any_array_at_any_rate(predictor, capfd):
    kinds = {"answered": 0, "refused": 0}

    @CASES
    @given(any_samples(), st.booleans().flatmap(lambda usual: USUAL_RATES if usual else RATES))
    def check(samples: object, rate: object) -> None:
        (answer,) = predictor.arrays([samples], rate)  # type: ignore[list-item, arg-type]
        check_answer(answer, predictor)
        try:
            alone: Prediction | AudioError = predictor(samples, rate)  # type: ignore[arg-type]
        except AudioError as error:
            alone = error
            with pytest.raises(AudioError):
                predictor.timeline(samples, rate)  # type: ignore[arg-type]
        check_answer(alone, predictor)
        assert type(alone) is type(answer)
        if isinstance(alone, AudioError) and rate is not None:  # without a rate a call takes it for a file
            assert str(alone) == str(answer)
        kinds["refused" if isinstance(alone, AudioError) else "answered"] += 1

    check()
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")
    print(kinds)
    assert min(kinds.values()) > 25


def test_a_damaged_mp3_is_read_in_silence(tmp_path, capfd):
    """The decoder comments on headers when the file is opened, and on frames when it is read."""
    true = TRUE_FILES["a.mp3"]
    for place in range(4, len(true), 5):
        (tmp_path / "a.mp3").write_bytes(true[:place] + b"\xaa" * 3 + true[place + 3 :])
        for read in (read_audio, lambda *path: list(read_blocks(*path))):
            with contextlib.suppress(AudioError):
                read(tmp_path / "a.mp3", RATE)
    assert capfd.readouterr().err == ""


def test_what_python_prints_meanwhile_is_not_lost(capfd):
    import ctypes
    import sys

    from dslstm_jax.util.quiet import quiet_libraries

    library = ctypes.CDLL(None)

    def say(text: bytes) -> None:  # as libmpg123 does
        library.fputs(text, ctypes.c_void_p.in_dll(library, "stderr"))

    say(b"1")
    with quiet_libraries():
        say(b"2")
        with quiet_libraries():
            say(b"3")
        say(b"4")
        print("python", file=sys.stderr, flush=True)
    say(b"5")
    assert capfd.readouterr().err == "1python\n5"
