"""Records as a corpus: those of tensorflow-datasets' own crema_d and savee, whatever is wrong with a folder."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from trees import TFDS_LABELS, tfds_examples, tfds_tree, write_json_file

from dslstm_jax.config import CorpusConfig
from dslstm_jax.data.audio import prepare_samples
from dslstm_jax.data.corpora.base import Corpus, StoredExample
from dslstm_jax.data.corpora.records import load, read_record, scan
from dslstm_jax.errors import AudioError, CorpusError

OURS = {
    "crema_d": ("neutral", "happy", "sad", "angry", "fearful", "disgust"),
    "savee": ("angry", "disgust", "fearful", "happy", "neutral", "sad", "surprised"),
}


def records(folder: Path | str) -> Corpus:
    return load(CorpusConfig("records", root=str(folder)))


def change(path: Path, find: str, put: str) -> None:
    text = path.read_text()
    assert find in text
    path.write_text(text.replace(find, put))


@pytest.fixture(scope="module")
def crema_d(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be written into."""
    return tfds_tree(tmp_path_factory.mktemp("crema_d"))


@pytest.mark.parametrize("name", ["crema_d", "savee"])
def test_corpora_of_tensorflow_datasets(name: str, tmp_path: Path) -> None:
    folder = tfds_tree(tmp_path, name)
    files = {path: path.read_bytes() for path in folder.iterdir()}
    corpus = records(tmp_path)
    assert corpus.labels == ("happy", "neutral", "angry", "sad", "disgust", "fearful", "surprised")[: len(OURS[name])]
    found = {utterance.path: utterance for utterance in corpus.utterances}
    position = 0
    for split, members in tfds_examples(name).items():
        for number, (samples, label, speaker) in enumerate(members):
            utterance = found.pop(f"{folder}/{split}#{number}")
            assert utterance.label == OURS[name][TFDS_LABELS[name].index(label)]
            assert (utterance.speaker, utterance.session) == (speaker, None)
            rate = 16_000 if name == "crema_d" else 44_100
            assert utterance.record == StoredExample(str(folder), position, len(samples), rate)
            position += 1
            read = read_record(utterance.record, rate)
            assert read.dtype == np.float32
            np.testing.assert_array_equal(read, samples / np.float32(32768))
            np.testing.assert_array_equal(read_record(utterance.record, 8_000), prepare_samples(samples, rate, 8_000))
    assert not found
    assert {path: path.read_bytes() for path in folder.iterdir()} == files
    assert "tensorflow" not in sys.modules


def test_many_threads_read_the_same(crema_d: Path) -> None:
    places = [utterance.record for utterance in records(crema_d).utterances] * 10
    alone = [read_record(place, 16_000) for place in places]
    records(crema_d)  # forgets what is open
    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(lambda place: read_record(place, 16_000), places))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)


def test_stereo_is_averaged(tmp_path: Path) -> None:
    examples = tfds_examples("crema_d")
    folder = tfds_tree(tmp_path, "crema_d", examples)
    change(folder / "features.json", '"-1"', '"-1", "2"')
    corpus = records(folder)
    first = next(utterance for utterance in corpus.utterances if utterance.path.endswith("train#0"))
    samples = examples["train"][0][0].reshape(-1, 2)
    assert first.record is not None
    assert first.record.samples == len(samples)
    np.testing.assert_array_equal(read_record(first.record, 16_000), prepare_samples(samples, 16_000, 16_000))


def test_files_of_tensorflow_alone_are_one_clear_error(tmp_path: Path) -> None:
    folder = tfds_tree(tmp_path)
    change(folder / "dataset_info.json", '"array_record"', '"tfrecord"')
    with pytest.raises(CorpusError, match=r'tfrecord files cannot be read.*anew with file_format="array_record"'):
        records(folder)
    change(folder / "dataset_info.json", '"tfrecord"', '"tfrecord", "alternativeFileFormats": ["array_record"]')
    assert len(records(folder).utterances) == 24


def test_the_folder_may_be_one_above(tmp_path: Path) -> None:
    folder = tfds_tree(tmp_path / "tensorflow_datasets")
    for root in (tmp_path, folder.parent.parent, folder.parent, folder):
        utterances = records(root).utterances
        assert {Path(utterance.path).parent for utterance in utterances} == {folder}
    for unfinished in (".prepare-crema_d/build/crema_d/1.0.0", "crema_d/incomplete.AB12_1.0.0"):
        copy = tmp_path / "tensorflow_datasets" / unfinished
        copy.mkdir(parents=True)
        for file in ("dataset_info.json", "features.json"):
            (copy / file).write_bytes((folder / file).read_bytes())
    assert len(records(tmp_path / "tensorflow_datasets").utterances) == 24
    savee = tfds_tree(tmp_path, "savee")
    with pytest.raises(CorpusError, match=f"there are 2 folders of records.*{savee}, {folder}"):
        records(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CorpusError, match=r"empty: neither it nor .* dataset_info\.json and features\.json"):
        records(tmp_path / "empty")
    with pytest.raises(CorpusError, match="needs its folder"):
        load(CorpusConfig("records"))


@pytest.mark.parametrize(
    ("file", "find", "put", "reason"),
    [
        ("features.json", '"wav"', '"wav", "lazyDecode": true', "lazy_decode"),
        ("features.json", '"16000"', '"0"', r"features\.json: feature 'audio' has no sample rate"),
        ("features.json", "audio_feature.Audio", "image_feature.Image", r"features\.json cannot be used"),
        ("features.json", '"label"', '"emotion"', "no ClassLabel 'label'.*there are: .*emotion"),
        ("features.json", '"audio": {"audio"', "", "0 features with sound"),
        ("features.json", "{", "", r"features\.json cannot be used"),
        ("dataset_info.json", "{", "", r"dataset_info\.json or .* cannot be used"),
    ],
)
def test_unusable_metadata(tmp_path: Path, file: str, find: str, put: str, reason: str) -> None:
    folder = tfds_tree(tmp_path)
    if "audio" in find and not put:  # no sound at all
        described = json.loads((folder / file).read_text())
        del described["featuresDict"]["features"]["audio"]
        write_json_file(folder / file, described)
    else:
        change(folder / file, find, put)
    with pytest.raises(CorpusError, match=f"^{folder}.*{reason}") as caught:
        records(folder)
    assert "\n" not in str(caught.value)


def shard(folder: Path, split: str = "train") -> Path:
    return folder / f"crema_d-{split}.array_record-00000-of-00002"


def test_a_damaged_example_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    folder = tfds_tree(tmp_path, examples=tfds_examples("crema_d", seconds=2.0))
    places = {u.path.partition("#")[2]: u.record for u in records(folder).utterances if "/train#" in u.path}
    data = bytearray(shard(folder).read_bytes())
    data[len(data) // 3] ^= 1
    shard(folder).write_bytes(data)
    failed = {}
    for number, place in places.items():
        try:
            read_record(place, 16_000)
        except AudioError as error:
            failed[number] = str(error)
    ((number, reason),) = failed.items()
    assert reason.startswith(f"{folder}, example {number}: damaged (")
    assert "\n" not in reason
    with pytest.raises(AudioError, match=f"^{folder}, example {number}: damaged"):
        records(folder)


@pytest.mark.parametrize("keep", [0, 10, 40_000, -10])
def test_a_shard_cut_short(tmp_path: Path, keep: int) -> None:
    folder = tfds_tree(tmp_path)
    place = next(u.record for u in records(folder).utterances if u.path.endswith("train#0"))
    shard(folder).write_bytes(shard(folder).read_bytes()[:keep])
    with pytest.raises(AudioError, match=f"^{folder}, example 0: damaged"):
        list(scan(folder))
    read_record.__globals__["_opened"].cache_clear()
    with pytest.raises(AudioError, match=f"^{folder}, example 0: damaged"):
        read_record(place, 16_000)


def test_a_missing_shard(tmp_path: Path) -> None:
    folder = tfds_tree(tmp_path)
    place = next(u.record for u in records(folder).utterances if u.path.endswith("train#0"))
    shard(folder, "test").unlink()
    missing = f"{folder}: crema_d-test.array_record-00000-of-00002 is missing"
    with pytest.raises(CorpusError, match=missing):
        records(folder)
    with pytest.raises(AudioError, match=f"example 0: {missing}"):
        read_record(place, 16_000)


def test_sound_that_cannot_be_used(tmp_path: Path) -> None:
    examples = tfds_examples("crema_d")
    members = examples["train"]
    members[0] = (members[0][0].astype(np.int64) * 2, *members[0][1:])
    members[1] = (np.zeros(800, np.int16), *members[1][1:])
    members[2] = (members[2][0][:3], *members[2][1:])
    folder = tfds_tree(tmp_path, "crema_d", examples)
    with pytest.raises(AudioError, match=f"^{folder}, example 0: its samples, of type int64, do not fit in 16 bits"):
        records(folder)
    for position, reason in enumerate(("do not fit in 16 bits", "digital silence", "too short")):
        with pytest.raises(AudioError, match=f"^{folder}, example {position}: .*{reason}"):
            read_record(StoredExample(str(folder), position, 800 if position < 2 else 3, 16_000), 16_000)
    with pytest.raises(AudioError, match=r"example 3: 0\.1 s long, but at most 0\.02 s"):
        read_record(StoredExample(str(folder), 3, 800, 16_000), 16_000, longest=0.02)
    with pytest.raises(AudioError, match=r"example 3: it has 800 samples, not 801; delete utterances\.jsonl"):
        read_record(StoredExample(str(folder), 3, 801, 16_000), 16_000)
    with pytest.raises(AudioError, match="example 99: damaged"):
        read_record(StoredExample(str(folder), 99, 800, 16_000), 16_000)


def test_an_example_without_label(tmp_path: Path) -> None:
    examples = tfds_examples("crema_d")
    folder = tfds_tree(tmp_path, "crema_d", examples)
    (folder / "label.labels.txt").write_text("\n".join(TFDS_LABELS["crema_d"][:-1]) + "\n")
    change(folder / "features.json", '"numClasses": "6"', '"numClasses": "5"')
    with pytest.raises(AudioError, match=f"^{folder}, example 5: its label is 5, for which there is no name"):
        records(folder)


def test_a_list_of_utterances_saves_reading_them(tmp_path: Path) -> None:
    folder = tfds_tree(tmp_path)
    corpus = records(folder)
    rows = [row._asdict() for row in scan(folder)]
    file = folder / "utterances.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    good = shard(folder).read_bytes()
    shard(folder).write_bytes(b"nothing that could be decoded")
    assert records(folder) == corpus
    shard(folder).write_bytes(good)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows[1:]))
    with pytest.raises(CorpusError, match=r"utterances\.jsonl: 23 lines, 24 examples; delete it"):
        records(folder)
    for line in ('{"name": "a"}', "[]", "not JSON", "\x00"):
        file.write_text(line + "\n")
        with pytest.raises(CorpusError, match=r"utterances\.jsonl: damaged .*delete it"):
            records(folder)


def test_without_tensorflow_datasets_the_mend_is_named(crema_d: Path) -> None:
    code = (
        "import sys\nsys.modules['tensorflow_datasets'] = None\nfrom dslstm_jax.cli import main\n"
        f"sys.exit(main(['corpora', 'records', '--corpus.root', {str(crema_d)!r}]))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.returncode == 2
    mend = 'dslstm corpora: records need tensorflow-datasets: pip install "dslstm-jax[records]"'
    assert found.stderr.splitlines() == [mend]
