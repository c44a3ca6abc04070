import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trees import real_data

from dslstm_jax.config import CorpusConfig
from dslstm_jax.data.corpora.acted import RAVDESS
from dslstm_jax.data.corpora.base import Utterance
from dslstm_jax.data.splits import Split, check_disjoint, choose_fold, describe, make_folds
from dslstm_jax.errors import CorpusError

LABELS = ("anger", "joy", "neutral", "sadness")


def speak(counts: Mapping[str, Mapping[str, int]], sessions: int | None = None) -> list[Utterance]:
    """Utterances from {speaker: {label: count}}; speakers are shared out to the sessions in pairs."""
    return [
        Utterance(
            f"{speaker}/{label}_{take:02d}.wav", label, speaker, None if sessions is None else f"Session{number // 2}"
        )
        for number, (speaker, labels) in enumerate(counts.items())
        for label, count in labels.items()
        for take in range(count)
    ]


def speakers(number: int, **counts: int) -> dict[str, dict[str, int]]:
    return {f"s{index:02d}": counts or dict.fromkeys(LABELS, 3) for index in range(number)}


# Speakers x labels of the Berlin database's four classes, as uneven as real corpora are.
UNEVEN = {
    f"{name:02d}": dict(zip(LABELS, counts, strict=True))
    for name, counts in {
        3: (14, 7, 11, 7),
        8: (12, 11, 10, 9),
        9: (13, 4, 9, 4),
        10: (10, 4, 4, 3),
        11: (11, 8, 9, 7),
        12: (12, 2, 4, 4),
        13: (12, 10, 9, 5),
        14: (16, 8, 7, 10),
        15: (13, 6, 11, 4),
        16: (14, 11, 5, 9),
    }.items()
}
PROTOCOLS = {"speaker5": 5, "speaker3": 3, "speaker": 10, "session": 5, "random5": 5, "random10": 10}


def paths(utterances: Sequence[Utterance], split: Split) -> tuple[frozenset[str], ...]:
    sides = (split.train, split.validation, split.test)
    return tuple(frozenset(utterances[index].path for index in side) for side in sides)


@pytest.mark.parametrize(("protocol", "number"), PROTOCOLS.items())
def test_every_utterance_is_tested_once_and_validates_once(protocol: str, number: int) -> None:
    utterances = speak(UNEVEN, sessions=5)
    folds = make_folds(utterances, protocol, seed=0)
    assert len(folds) == number
    everyone = list(range(len(utterances)))
    assert sorted(index for split in folds for index in split.test) == everyone
    for split, following in zip(folds, folds[1:] + folds[:1], strict=True):
        assert sorted(split.train + split.validation + split.test) == everyone
        assert split.validation == following.test
        for side in (split.train, split.validation, split.test):
            assert side
            assert list(side) == sorted(side)


@pytest.mark.parametrize("protocol", [name for name in PROTOCOLS if not name.startswith("random")])
def test_no_speaker_is_on_two_sides(protocol: str) -> None:
    utterances = speak(UNEVEN, sessions=5)
    for split in make_folds(utterances, protocol, seed=3):
        sides = [
            {utterances[index].speaker for index in side} for side in (split.train, split.validation, split.test)
        ]
        assert sum(map(len, sides)) == len(set.union(*sides)) == len(UNEVEN)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@given(order=st.randoms(use_true_random=False), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=10, deadline=None)
def test_the_order_of_the_utterances_changes_nothing(protocol: str, order: random.Random, seed: int) -> None:
    utterances = speak(UNEVEN, sessions=5)
    shuffled = list(utterances)
    order.shuffle(shuffled)
    expected = [paths(utterances, split) for split in make_folds(utterances, protocol, seed)]
    assert [paths(shuffled, split) for split in make_folds(shuffled, protocol, seed)] == expected


def test_ties_between_folds_do_not_depend_on_the_order() -> None:
    # Small counts give many folds that suit a speaker equally well, up to the rounding of a sum.
    for trial in range(300):
        draw = random.Random(trial)
        counts = {f"s{index}": {label: draw.randint(1, 3) for label in LABELS} for index in range(9)}
        utterances = speak(counts)
        shuffled = draw.sample(utterances, len(utterances))
        expected = [paths(utterances, split) for split in make_folds(utterances, "speaker3", seed=0)]
        assert [paths(shuffled, split) for split in make_folds(shuffled, "speaker3", seed=0)] == expected


def test_the_place_of_the_corpus_changes_nothing() -> None:
    here = speak(UNEVEN)
    there = [Utterance(f"/data/corpora/{one.path}", one.label, one.speaker) for one in here]
    assert make_folds(here, "random5", seed=1) == make_folds(there, "random5", seed=1)


@pytest.mark.parametrize("protocol", ["speaker5", "random5"])
def test_the_seed_deals_anew_and_always_the_same(protocol: str) -> None:
    utterances = speak(UNEVEN)
    dealt = [make_folds(utterances, protocol, seed) for seed in range(6)]
    assert dealt == [make_folds(utterances, protocol, seed) for seed in range(6)]
    assert len({frozenset(split.test for split in folds) for folds in dealt}) >= 4


def test_leaving_one_out_goes_by_name_and_not_by_seed() -> None:
    utterances = speak(UNEVEN, sessions=5)
    for protocol in ("speaker", "session"):
        assert make_folds(utterances, protocol, seed=0) == make_folds(utterances, protocol, seed=1)
    tested = [describe(utterances, split)["test"]["speakers"] for split in make_folds(utterances, "session", seed=0)]
    assert tested == [["03", "08"], ["09", "10"], ["11", "12"], ["13", "14"], ["15", "16"]]


def test_random_folds_are_stratified_to_one_utterance() -> None:
    utterances = speak(UNEVEN)
    folds = make_folds(utterances, "random5", seed=0)
    totals = Counter(utterance.label for utterance in utterances)
    for split in folds:
        found = Counter(utterances[index].label for index in split.test)
        for label, total in totals.items():
            assert total // 5 <= found[label] <= -(-total // 5)
    sizes = [len(split.test) for split in folds]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("seed", range(20))
def test_speaker_folds_are_balanced_in_every_label(seed: int) -> None:
    utterances = speak(UNEVEN)
    totals = Counter(utterance.label for utterance in utterances)
    folds = make_folds(utterances, "speaker5", seed)
    assert all(len(describe(utterances, split)["test"]["speakers"]) == 2 for split in folds)
    # Dealt without regard to labels, one seed in five strays further than this from the even share of a fifth.
    shares = [
        count / totals[label] for s in folds for label, count in describe(utterances, s)["test"]["counts"].items()
    ]
    assert min(shares) > 0.1
    assert max(shares) < 0.31


def test_a_speaker_with_much_more_than_the_others_has_a_fold_alone() -> None:
    counts = speakers(9) | {"loud": dict.fromkeys(LABELS, 40)}
    utterances = speak(counts)
    for seed in range(5):
        tested = [
            describe(utterances, split)["test"]["speakers"] for split in make_folds(utterances, "speaker4", seed)
        ]
        assert ["loud"] in tested
        assert sorted(map(len, tested)) == [1, 3, 3, 3]


def test_speakers_of_a_rare_label_are_spread_over_the_folds() -> None:
    counts = speakers(12)
    for name in ("s01", "s05", "s09"):
        counts[name] = counts[name] | {"fear": 1}
    for seed in range(10):
        utterances = speak(counts)
        folds = make_folds(utterances, "speaker4", seed)
        assert max(describe(utterances, split)["test"]["counts"]["fear"] for split in folds) == 1


def test_no_fold_is_empty_when_every_speaker_has_one_label() -> None:
    counts = {f"s{index}": {LABELS[index % 3]: 5} for index in range(9)}
    for seed in range(10):
        assert all(split.test for split in make_folds(speak(counts), "speaker5", seed))


@pytest.mark.parametrize(
    ("protocol", "message"),
    [
        ("spekaer5", "did you mean speaker5"),
        ("speakers10", "did you mean speaker10"),
        ("sesion", "did you mean session"),
        ("random", "did you mean random5"),
        ("", r"There are speakerK \(such as speaker5\), speaker, session, corpus and randomK"),
        ("speaker-5", "did you mean speaker5"),
        ("speaker2", "use speaker3 or more"),
        ("random1", "use random3 or more"),
    ],
)
def test_a_protocol_that_makes_no_sense(protocol: str, message: str) -> None:
    with pytest.raises(CorpusError, match=f"^--split.protocol {protocol}: .*{message}"):
        make_folds(speak(UNEVEN), protocol, seed=0)


def error_of(utterances: Sequence[Utterance], protocol: str) -> str:
    with pytest.raises(CorpusError) as caught:
        make_folds(utterances, protocol, seed=0)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_too_few_speakers_or_sessions() -> None:
    assert error_of(speak(speakers(1)), "speaker5") == (
        "corpus has one speaker (s00): a speaker-disjoint split needs at least three; use --split.protocol random5"
    )
    assert "corpus has 2 speakers (s00, s01)" in error_of(speak(speakers(2)), "speaker")
    assert error_of(speak(speakers(4)), "speaker5") == (
        "corpus has 4 speakers, too few for the 5 folds of speaker5; use --split.protocol speaker4"
    )
    assert error_of(speak(speakers(4), sessions=2), "session") == (
        "corpus has 2 sessions (Session0, Session1): leaving one session out needs at least three; "
        "use --split.protocol speaker5"
    )


def test_unknown_speakers_and_sessions() -> None:
    utterances = [*speak(speakers(6)), Utterance("lost.wav", "joy")]
    assert error_of(utterances, "speaker5") == (
        "lost.wav has no speaker; use --split.protocol random5 or name the speaker column "
        "(--corpus.columns speaker=NAME)"
    )
    assert error_of(utterances, "session").startswith(
        "s00/anger_00.wav has no session; use --split.protocol speaker5"
    )
    assert len(make_folds(utterances, "random3", seed=0)) == 3


def test_labels_that_are_too_rare() -> None:
    utterances = [*speak(speakers(6)), Utterance("s00/sad.wav", "sad", "s00")]
    assert error_of(utterances, "random5") == (
        "label 'sad' has 1 utterance; random5 needs at least 5 of each label: add more of it or leave the label out"
    )
    assert "label 'sad' has 1 utterance; speaker5 needs" in error_of(utterances, "speaker5")
    assert "label 'sad' has 1 utterance; speaker needs" in error_of(utterances, "speaker")
    few = speak(speakers(4, joy=2, sad=1))
    assert "label 'sad' has 4 utterances; random5 needs at least 5 of each label: use --split.protocol random4" in (
        error_of(few, "random5")
    )
    assert len(make_folds(few, "random4", seed=0)) == 4


def test_a_label_that_training_would_lack() -> None:
    counts = speakers(6)
    counts["s02"] = counts["s02"] | {"sad": 4}
    assert error_of(speak(counts), "speaker") == (
        "label 'sad' is missing from the training part of fold 1 of speaker: "
        "only one speaker of the corpus has it; leave the label out"
    )
    assert error_of(speak(counts), "speaker3").endswith("only one speaker of the corpus has it; leave the label out")
    counts["s03"] = counts["s03"] | {"sad": 4}
    message = error_of(speak(counts), "speaker3")
    assert message.startswith("label 'sad' is missing from the training part of fold ")
    assert message.endswith("only 2 speakers of the corpus have it; try another --split.seed or leave the label out")


def test_a_recording_that_is_listed_twice_and_none_at_all() -> None:
    utterances = speak(speakers(6))
    assert error_of([*utterances, utterances[7]], "random5") == (
        "s00/neutral_01.wav is listed 2 times; list each recording once"
    )
    assert error_of([], "random5") == "the corpus has no utterances to split"


def test_a_speaker_in_two_sessions_is_refused() -> None:
    utterances = speak(speakers(6), sessions=3)
    utterances[0] = Utterance(utterances[0].path, utterances[0].label, "s05", utterances[0].session)
    assert error_of(utterances, "session") == (
        "speaker 's05' is in both train and test; a split by speakers (--split.protocol speaker5) keeps them apart"
    )


def test_disjointness_is_checked_between_all_sides() -> None:
    utterances = speak(speakers(3, joy=2))
    check_disjoint(utterances, Split((0, 1), (2, 3), (4, 5)))
    for split in (Split((0,), (1, 2), (4,)), Split((0,), (2,), (1, 4)), Split((4,), (0,), (1,))):
        with pytest.raises(CorpusError, match="speaker 's00' is in both"):
            check_disjoint(utterances, split)
    nameless = [Utterance(f"{take}.wav", "joy") for take in range(3)]
    check_disjoint(nameless, Split((0,), (1,), (2,)))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_would_validate_can_train(protocol: str) -> None:
    utterances = speak(speakers(10), sessions=5)
    for held, free in zip(
        make_folds(utterances, protocol, seed=3),
        make_folds(utterances, protocol, seed=3, validation=False),
        strict=True,
    ):
        assert free.test == held.test
        assert free.validation == () != held.validation
        assert list(free.train) == sorted({*held.train, *held.validation})


def test_choosing_a_fold() -> None:
    folds = make_folds(speak(UNEVEN), "speaker5", seed=0)
    assert choose_fold(folds, 4) is folds[4]
    for fold in (5, -1):
        with pytest.raises(CorpusError, match=f"^--split.fold {fold}: there are 5 folds, 0 to 4$"):
            choose_fold(folds, fold)


def test_the_description_says_who_is_where() -> None:
    utterances = [*speak(speakers(2, joy=2)), Utterance("lost.wav", "sad")]
    description = describe(utterances, Split((0, 1), (4,), (2, 3)))
    assert json.loads(json.dumps(description)) == {
        "train": {
            "speakers": ["s00"],
            "counts": {"joy": 2, "sad": 0},
            "utterances": ["s00/joy_00.wav", "s00/joy_01.wav"],
        },
        "validation": {"speakers": [], "counts": {"joy": 0, "sad": 1}, "utterances": ["lost.wav"]},
        "test": {
            "speakers": ["s01"],
            "counts": {"joy": 2, "sad": 0},
            "utterances": ["s01/joy_00.wav", "s01/joy_01.wav"],
        },
    }


def write_folds(path: Path, *folds: object, **more: object) -> str:
    path.write_text(json.dumps({"source": "ours", "folds": list(folds)} | more))
    return str(path)


def sides_of(utterances: Sequence[Utterance], split: Split) -> list[list[str]]:
    description = describe(utterances, split)
    return [description[side]["speakers"] for side in ("test", "validation", "train")]


def test_a_fold_file_says_who_is_tested_and_validates_and_the_rest_train(tmp_path: Path) -> None:
    utterances = speak(speakers(5, joy=2, sad=1))
    file = write_folds(
        tmp_path / "random5.json",  # a name means nothing
        {"test": ["s03", "s00"], "validation": ["s01"]},
        {"validation": ["s03"], "test": ["s04"]},
    )
    folds = make_folds(utterances, file, seed=0)
    assert [sides_of(utterances, split) for split in folds] == [
        [["s00", "s03"], ["s01"], ["s02", "s04"]],
        [["s04"], ["s03"], ["s00", "s01", "s02"]],
    ]
    assert folds[0] == Split((6, 7, 8, 12, 13, 14), (3, 4, 5), (0, 1, 2, 9, 10, 11))
    assert make_folds(utterances, file, seed=7) == folds
    reversed_folds = make_folds(utterances[::-1], file, seed=0)
    assert [paths(utterances[::-1], s) for s in reversed_folds] == [paths(utterances, s) for s in folds]


def test_a_fold_file_may_lie_at_home_and_begin_with_a_byte_order_mark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    folds = {"folds": [{"test": ["Zoë"], "validation": ["s01"]}]}
    (tmp_path / "mine.json").write_text(json.dumps(folds, ensure_ascii=False), encoding="utf-8-sig")
    utterances = speak(speakers(3) | {"Zoë": dict.fromkeys(LABELS, 1)})
    (split,) = make_folds(utterances, "~/mine.json", seed=0)
    assert sides_of(utterances, split) == [["Zoë"], ["s01"], ["s00", "s02"]]


@pytest.mark.parametrize(
    ("folds", "message"),
    [
        (
            [{"test": ["s0"], "validation": ["s01"]}],
            "fold 0 names speaker 's0', but the corpus has s00, s01, s02 and 2",
        ),
        (
            [{"test": ["s00"], "validation": ["s01"]}, {"test": ["s00"], "validation": ["9"]}],
            "fold 1 names speaker '9'",
        ),
        (
            [{"test": ["s00", "s01"], "validation": ["s01"]}],
            "fold 0 names speaker 's01' 2 times; leave it in test or",
        ),
        ([{"test": ["s00", "s00"], "validation": ["s01"]}], "fold 0 names speaker 's00' 2 times"),
        ([{"test": [], "validation": ["s01"]}], "fold 0: test is empty; name at least one speaker"),
        ([{"test": ["s00"], "validation": []}], "fold 0: validation is empty; name at least one speaker"),
        (
            [{"test": ["s00", "s01", "s02"], "validation": ["s03", "s04"]}],
            "fold 0 leaves no speaker to train; name fewer",
        ),
        ([{"test": ["s00", 2], "validation": ["s01"]}], "fold 0: test has 2; write a list of strings"),
        ([{"test": "s00", "validation": ["s01"]}], "fold 0: test has 's00'; write a list of strings"),
        ([{"test": ["s00"]}], "fold 0 must hold test and validation only, the rest train; write {"),
        ([{"test": ["s00"], "validation": ["s01"], "train": ["s02"]}], "fold 0 must hold test and validation only"),
        ([["s00"]], "fold 0 must hold test and validation only"),
        ([], 'not a fold file; write {"source":'),
    ],
)
def test_a_fold_file_that_does_not_fit(tmp_path: Path, folds: list[object], message: str) -> None:
    file = write_folds(tmp_path / "ours.json", *folds)
    found = error_of(speak(speakers(5)), file)
    assert found.startswith(f"--split.protocol {file}: {message}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"folds": [', "not JSON in UTF-8 (Expecting value: line 1 column 12 (char 11)); write {"),
        (b"", "not JSON"),
        (b'{"folds": "\xff"}', "not JSON in UTF-8"),
        (b"[" * 200_000, "cannot read it: "),
        (b'[{"test": ["s00"], "validation": ["s01"]}]', "not a fold file; write {"),
        (b'{"folds": {"test": ["s00"]}}', "not a fold file; write {"),
        (b'{"source": "ours"}', "not a fold file; write {"),
        (b'{"folds": [{"test": ["s00"], "validation": ["s01"]}], "seed": 3}', "not a fold file; write {"),
        (None, "cannot read it: No such file or directory; give the path of a fold file or the name of one in the "),
    ],
)
def test_a_fold_file_that_is_none(tmp_path: Path, content: bytes | None, message: str) -> None:
    file = tmp_path / "ours.json"
    if content is not None:
        file.write_bytes(content)
    assert error_of(speak(speakers(5)), str(file)).startswith(f"--split.protocol {file}: {message}")


def test_a_fold_file_that_is_a_folder_or_nobodys(tmp_path: Path) -> None:
    (tmp_path / "ours.json").mkdir()
    assert "cannot read it: Is a directory; " in error_of(speak(speakers(3)), str(tmp_path / "ours.json"))
    assert "cannot read it: Could not determine home" in error_of(speak(speakers(3)), "~no-such-user/ours.json")


def test_a_fold_file_needs_speakers_and_every_label_in_training(tmp_path: Path) -> None:
    file = write_folds(tmp_path / "ours.json", {"test": ["s00"], "validation": ["s01"]})
    counts = speakers(4)
    assert error_of([*speak(counts), Utterance("lost.wav", "joy")], file).startswith("lost.wav has no speaker; ")
    counts["s00"] = counts["s00"] | {"sad": 4}
    missing = f"label 'sad' is missing from the training part of fold 0 of {file}: "
    assert error_of(speak(counts), file) == f"{missing}only one speaker of the corpus has it; leave the label out"
    counts["s01"] = counts["s01"] | {"sad": 1}
    assert error_of(speak(counts), file) == (
        f"{missing}only 2 speakers of the corpus have it; let one of them train or leave the label out"
    )
    assert error_of([], file) == "the corpus has no utterances to split"


def test_unknown_protocols_name_the_fold_files_of_the_package() -> None:
    assert error_of(speak(UNEVEN), "ravdess-actors") == (
        "--split.protocol ravdess-actors: unknown; did you mean ravdess-actors5? There are speakerK "
        "(such as speaker5), speaker, session, corpus and randomK (such as random5), and fold files: FILE.json, "
        "or by name ravdess-actors5"
    )
    assert ": unknown; " in error_of(speak(UNEVEN), "../fold_files/ravdess-actors5")


def test_the_published_folds_of_ravdess_need_its_actors() -> None:
    assert error_of(speak(UNEVEN), "ravdess-actors5").startswith(
        "--split.protocol ravdess-actors5: fold 0 names speaker '02', but the corpus has 03, 08, 09 and 7 more; "
    )
    # As in get_kth_fold_inds of the ResLSTM authors' train.ipynb.
    published = [
        ([2, 5, 14, 15, 16], [3, 6]),
        ([3, 6, 7, 13, 18], [10, 11]),
        ([10, 11, 12, 19, 20], [8, 17]),
        ([8, 17, 21, 23, 24], [1, 14]),
        ([1, 4, 9, 22], [2, 5]),
    ]
    utterances = speak({f"{actor:02d}": {"joy": 1, "sad": 2} for actor in range(1, 25)})
    found = [sides_of(utterances, split)[:2] for split in make_folds(utterances, "ravdess-actors5", seed=0)]
    assert found == [[[f"{actor:02d}" for actor in side] for side in fold] for fold in published]


@pytest.mark.corpus
def test_the_published_folds_of_the_real_ravdess() -> None:
    corpus = RAVDESS.load(CorpusConfig("ravdess", root=str(real_data("data/ravdess"))))
    folds = make_folds(corpus.utterances, "ravdess-actors5", seed=0)
    assert [[len(split.test), len(split.validation), len(split.train)] for split in folds] == [
        [60 * tested, 120, 60 * (22 - tested)] for tested in (5, 5, 5, 5, 4)
    ]
    tested = [actor for split in folds for actor in describe(corpus.utterances, split)["test"]["speakers"]]
    assert sorted(tested) == [f"{actor:02d}" for actor in range(1, 25)]
    assert sorted(index for split in folds for index in split.test) == list(range(1440))
    for split in folds:
        assert sorted(split.train + split.validation + split.test) == list(range(1440))
