"""Little corpora with the true folder layouts, names and annotation formats, and the way to the real ones."""

import csv
import json
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile

SAMPLE_RATE = 16_000


def real_data(name: str) -> Path:
    """A file or folder of the real speech and golden arrays; skips the test if DSLSTM_TEST_DATA is not set."""
    folder = os.environ.get("DSLSTM_TEST_DATA")
    if not folder:
        pytest.skip("DSLSTM_TEST_DATA is not set")
    return Path(folder) / name


def write_tone(path: Path, seconds: float = 0.25, frequency: float = 440.0, sample_rate: int = SAMPLE_RATE) -> Path:
    """A 16-bit sine at half of full scale."""
    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(round(seconds * sample_rate)) / sample_rate
    soundfile.write(path, 0.5 * np.sin(2 * np.pi * frequency * time), sample_rate, subtype="PCM_16")
    return path


def emodb_tree(
    root: Path,
    speakers: Iterable[str] = ("03", "08"),
    texts: Iterable[str] = ("a01", "b10"),
    emotions: str = "FNWTLEA",
) -> Path:
    """EmoDB: `wav/03a01Fa.wav`, one tone for each speaker, text and emotion."""
    texts = tuple(texts)
    names = [f"{speaker}{text}{emotion}a.wav" for speaker in speakers for text in texts for emotion in emotions]
    for index, name in enumerate(names):
        write_tone(root / "wav" / name, frequency=200.0 + 10.0 * index)
    return root


def ravdess_tree(
    root: Path,
    actors: Iterable[int] = (1, 2),
    emotions: Iterable[int] = range(1, 9),
    repetitions: Iterable[int] = (1, 2),
) -> Path:
    """RAVDESS speech: `Actor_01/03-01-05-01-01-01-01.wav`, one tone for each actor, emotion and repetition."""
    emotions, repetitions = tuple(emotions), tuple(repetitions)
    for actor in actors:
        for emotion in emotions:
            for repetition in repetitions:
                name = f"03-01-{emotion:02d}-01-01-{repetition:02d}-{actor:02d}.wav"
                write_tone(root / f"Actor_{actor:02d}" / name, frequency=150.0 + 20.0 * emotion + actor)
    return root


def crema_d_tree(
    root: Path,
    actors: Iterable[int] = (1001, 1091),
    sentences: Iterable[str] = ("DFA", "IEO"),
    emotions: Iterable[str] = ("ANG", "DIS", "FEA", "HAP", "NEU", "SAD"),
) -> Path:
    """CREMA-D: `AudioWAV/1001_DFA_ANG_XX.wav`; the sentence IEO at three levels, except where neutral."""
    sentences, emotions = tuple(sentences), tuple(emotions)
    for actor in actors:
        for sentence in sentences:
            for index, emotion in enumerate(emotions):
                levels = ("LO", "MD", "HI") if sentence == "IEO" and emotion != "NEU" else ("XX",)
                for level in levels:
                    path = root / "AudioWAV" / f"{actor}_{sentence}_{emotion}_{level}.wav"
                    write_tone(path, seconds=0.1, frequency=200.0 + 50.0 * index)
    return root


def savee_tree(
    root: Path,
    speakers: Iterable[str] = ("DC", "JE", "JK", "KL"),
    emotions: Iterable[str] = ("a", "d", "f", "h", "n", "sa", "su"),
    takes: int = 1,
) -> Path:
    """SAVEE: `AudioData/DC/a01.wav`, twice as many neutral takes, at 44.1 kHz, and the text beside the speakers."""
    emotions = tuple(emotions)
    for speaker in speakers:
        for index, emotion in enumerate(emotions):
            for take in range(1, takes * (2 if emotion == "n" else 1) + 1):
                path = root / "AudioData" / speaker / f"{emotion}{take:02d}.wav"
                write_tone(path, seconds=0.1, frequency=200.0 + 50.0 * index, sample_rate=44_100)
    (root / "AudioData" / "Info.txt").write_text("Surrey Audio-Visual Expressed Emotion\n")
    return root


def write_table(path: Path, rows: Iterable[Sequence[str]], delimiter: str = ",") -> Path:
    """A CSV or TSV file; the first row is the header."""
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=delimiter, lineterminator="\n").writerows(rows)
    return path


def manifest_tree(
    root: Path,
    labels: Iterable[str] = ("calm", "tense"),
    speakers: Iterable[str] = ("ann", "bob", "cy"),
    takes: int = 2,
) -> Path:
    """`ROOT/manifest.csv` (path, label, speaker, session) over tones in `ROOT/recordings/`; returns the CSV file."""
    rows = [("path", "label", "speaker", "session")]
    labels = tuple(labels)
    for session, speaker in enumerate(speakers, start=1):
        for index, label in enumerate(labels):
            for take in range(takes):
                path = Path("recordings") / f"{speaker}_{label}_{take}.wav"
                write_tone(root / path, frequency=200.0 + 100.0 * index + 10.0 * take)
                rows.append((str(path), label, speaker, str(session)))
    return write_table(root / "manifest.csv", rows)


def iemocap_tree(root: Path, turns: Iterable[tuple[str, str]]) -> Path:
    """IEMOCAP's full release with these turns, (`Ses01F_impro01_M003`, `neu`) each, and the files around them.

    One short tone is hard-linked to all turns. Beside each annotation lie what the release and macOS put there:
    evaluators' own folders and `._` files that are not text.
    """
    sound = write_tone(root / "tone.wav", seconds=0.05)
    dialogs: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    for turn, label in turns:
        dialogs[f"Session{int(turn[3:5])}", turn.rpartition("_")[0]].append((turn, label))
    for (session, dialog), members in dialogs.items():
        annotation = root / session / "dialog" / "EmoEvaluation"
        wav = root / session / "sentences" / "wav" / dialog
        for folder in (wav, *(annotation / name for name in ("Attribute", "Categorical", "Self-evaluation"))):
            folder.mkdir(parents=True, exist_ok=True)
        (annotation / f"{dialog}.txt").write_text(iemocap_annotation(members), encoding="utf-8")
        # neither holds such lines in the release; they show that a reader opens no file it should leave alone
        strange = iemocap_annotation([(f"{dialog}_F999", "ang")])
        (annotation / f"._{dialog}.txt").write_bytes(b"\x00\x05\x16\x07Mac OS X\xff\xfe\n" + strange.encode())
        (annotation / "Self-evaluation" / f"{dialog}_f1.txt").write_text(strange)
        first = members[0][0]
        (annotation / "Attribute" / f"{dialog}_e3_atr.txt").write_text(f"{first} :act 3; :val  3; ()\n")
        (annotation / "Categorical" / f"{dialog}_e2_cat.txt").write_text(f"{first} :Neutral state; ()\n")
        for turn, _ in members:
            (wav / f"{turn}.wav").hardlink_to(sound)
        (wav / f"._{first}.wav").write_bytes(b"\x00\x05\x16\x07")
    sound.unlink()
    return root


def iemocap_annotation(turns: Iterable[tuple[str, str]]) -> str:
    """One `EmoEvaluation/<dialog>.txt`: for each turn its summary line, then what every evaluator said."""
    lines = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]", ""]
    for index, (turn, label) in enumerate(turns):
        start = 6.2901 + 2.5 * index
        lines += [
            f"[{start:.4f} - {start + 1.9456:.4f}]\t{turn}\t{label}\t[2.5000, 2.5000, 2.5000]",
            "C-E2:\tNeutral;\t()",
            "C-E3:\tNeutral; Sadness;\t(calm [ang] - really)",
            "C-E4:\tNeutral;\t()",
            "C-F1:\tAnger;\t()",
            "A-E3:\tval 3; act 2; dom  2;\t()",
            "A-E4:\tval 2; act 3; dom  3;\t(mildly aggravated but staying polite)",
            "A-F1:\tval 3; act 2; dom  1;\t()",
            "",
        ]
    return "\n".join(lines) + "\n"


TFDS_LABELS = {
    "crema_d": ("NEU", "HAP", "SAD", "ANG", "FEA", "DIS"),
    "savee": ("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise"),
}
TFDS_RATES = {"crema_d": 16_000, "savee": 44_100}
TfdsExample = tuple[np.ndarray, str, str]
"""int16 samples, label and speaker."""


def tfds_examples(name: str, seconds: float = 0.05) -> dict[str, list[TfdsExample]]:
    """Noise for every label from four speakers, under the splits that tensorflow-datasets makes of them."""
    noise = np.random.default_rng(0)
    length = round(seconds * TFDS_RATES[name])
    splits = {"train": ("1001", "1002"), "validation": ("1003",), "test": ("1004",)}
    return {
        split: [
            (noise.integers(-32768, 32768, length, dtype=np.int16), label, speaker)
            for speaker in speakers
            for label in TFDS_LABELS[name]
        ]
        for split, speakers in splits.items()
    }


def tfds_tree(root: Path, name: str = "crema_d", examples: dict[str, list[TfdsExample]] | None = None) -> Path:
    """What tensorflow-datasets 4.9.10 makes of crema_d or savee with file_format="array_record", in two shards a
    split; returns the folder `ROOT/crema_d/1.0.0`. The metadata files are those that it wrote with TensorFlow."""
    from array_record.python.array_record_module import ArrayRecordWriter
    from tensorflow_datasets.proto.tf_example_generated_pb2 import Example

    examples = tfds_examples(name) if examples is None else examples
    folder = root / name / "1.0.0"
    folder.mkdir(parents=True)
    for split, members in examples.items():
        for shard in range(2):
            path = folder / f"{name}-{split}.array_record-{shard:05}-of-00002"
            writer = ArrayRecordWriter(str(path), "group_size:1")
            for samples, label, speaker in members[shard * len(members) // 2 : (shard + 1) * len(members) // 2]:
                features = (example := Example()).features.feature
                features["audio"].int64_list.value.extend(samples.tolist())
                features["label"].int64_list.value.append(TFDS_LABELS[name].index(label))
                features["speaker_id"].bytes_list.value.append(speaker.encode())
                writer.write(example.SerializeToString())
            writer.close()
    (folder / "label.labels.txt").write_text("\n".join(TFDS_LABELS[name]) + "\n")
    core = "tensorflow_datasets.core.features"
    audio = {
        "dtype": "int64",
        "encoding": "NONE",
        "fileFormat": "wav",
        "sampleRate": str(TFDS_RATES[name]),
        "shape": {"dimensions": ["-1"]},
    }
    text = {"dtype": "string", "encoding": "none", "shape": {}}
    features_json = {
        "audio": {"audio": audio, "pythonClassName": f"{core}.audio_feature.Audio"},
        "label": {
            "classLabel": {"numClasses": str(len(TFDS_LABELS[name]))},
            "pythonClassName": f"{core}.class_label_feature.ClassLabel",
        },
        "speaker_id": {"pythonClassName": f"{core}.tensor_feature.Tensor", "tensor": text},
    }
    write_json_file(
        folder / "features.json",
        {"featuresDict": {"features": features_json}, "pythonClassName": f"{core}.features_dict.FeaturesDict"},
    )
    write_json_file(
        folder / "dataset_info.json",
        {
            "description": "An emotion recognition dataset.",
            "fileFormat": "array_record",
            "moduleName": f"tensorflow_datasets.datasets.{name}.{name}_dataset_builder",
            "name": name,
            "splits": [
                {
                    "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                    "name": split,
                    "numBytes": str(sum(len(samples) for samples, _, _ in members)),
                    "shardLengths": [str(len(members) // 2), str(len(members) - len(members) // 2)],
                }
                for split, members in examples.items()
            ],
            "supervisedKeys": {"tuple": {"items": [{"featureKey": "audio"}, {"featureKey": "label"}]}},
            "version": "1.0.0",
        },
    )
    return folder


def write_json_file(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=4))
