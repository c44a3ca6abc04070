"""Which recordings there are, how they become batches, and who is in training, validation and test."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from dslstm_jax.config.checks import AT_LEAST_0, AT_LEAST_1, POSITIVE, check
from dslstm_jax.errors import ConfigError


@dataclass(frozen=True)
class SyntheticConfig:
    """The synthetic corpus: source-filter voices made in numpy, the same on every machine."""

    speakers: int = 15
    """Number of voices."""
    utterances_per_emotion: int = 5
    """Utterances of each voice in each of the four emotions."""
    overlap: float = 0.3
    """0: the emotions are far apart; 1: the same distribution for all four, so that nothing can be learned."""
    seed: int = 0
    """Draws the voices and the utterances."""

    def __post_init__(self) -> None:
        counts = dict.fromkeys(("speakers", "utterances_per_emotion"), AT_LEAST_1)
        check("corpus.synthetic", self, {**counts, "overlap": (0, 1, "in [0, 1]"), "seed": AT_LEAST_0})


@dataclass(frozen=True)
class CorpusConfig:
    """Which recordings to learn from."""

    name: str = "synthetic"
    """The corpus, by a name that `dslstm corpora` lists."""
    root: str | None = None
    """Folder of the corpus. For a manifest: where its relative paths start (default: the manifest's folder).
    For synthetic: where the recordings are kept (default: the user's cache folder)."""
    parts: "tuple[CorpusConfig, ...]" = ()
    """Several corpora in one run, instead of name and root: emodb=DIR ravdess=DIR. Their speakers are kept apart;
    `label_map` and `labels` below apply to all of them, after a part's own."""
    label_map: tuple[str, ...] = ()
    """Labels under another name, FROM=TO: calm=neutral excited=happy."""
    labels: tuple[str, ...] = ()
    """The classes in their order, after the label map. Recordings of other labels are left out. Empty: all labels, in
    the corpus's order."""
    manifest: str | None = None
    """CSV or TSV file with a header row, for the corpus `manifest`."""
    columns: tuple[str, ...] = ()
    """Columns of the manifest under another name: path=file label=emotion. There are path, label, speaker and
    session; speaker and session are read if the manifest has them."""
    synthetic: SyntheticConfig = SyntheticConfig()
    """Size and difficulty of the corpus `synthetic`."""

    def __post_init__(self) -> None:
        if any(part.parts for part in self.parts):
            raise ConfigError("corpus.parts: a part has no parts of its own; list all corpora side by side")

    def with_paths(self, change: Callable[[str | None], str | None]) -> "CorpusConfig":
        """The same corpus, each of its folders and files named as `change` says."""
        return replace(
            self,
            root=change(self.root),
            manifest=change(self.manifest),
            parts=tuple(part.with_paths(change) for part in self.parts),
        )


@dataclass(frozen=True)
class SplitConfig:
    """Who is in training, validation and test."""

    protocol: str = "speaker5"
    """speakerK, speaker, session, corpus, randomK or FILE.json. speakerK: K folds that share no speaker;
    speaker: leave one speaker out; session: leave one session out; corpus: leave one of several corpora out, validate
    on speakers of the others; randomK: K folds of utterances, speakers shared; a fold file, or ravdess-actors5 of the
    package, names the test and validation speakers of each fold."""
    fold: int = 0
    """Which fold is the test set, from 0. The next one is the validation set, but a fold file names its own, and
    `corpus` takes it from the other corpora."""
    seed: int = 0
    """Deals speakers or utterances to the folds."""
    validation: bool = True
    """Holds a validation set back. Off: it trains too, so that nothing can choose the epoch (training.choose must be
    last) and no temperature is fitted."""


@dataclass(frozen=True)
class DataConfig:
    """How recordings become batches."""

    max_padding: float = 0.15
    """Largest share of padding in an epoch; 1: one length for all. Batches of like length need less
    of it, but each length is a program to compile, so there are as few lengths as this allows. With 1, batches are
    drawn from all recordings alike."""
    max_lengths: int = 8
    """Most lengths that batches are padded to, where the padding asks for more."""
    keep: Literal["files", "device"] = "files"
    """Where the recordings are between the steps. files: each is decoded again in every epoch; device: all are
    decoded once and stay in the memory of every device, 4 bytes a sample (RAVDESS: 0.34 GB), for GPUs that wait."""
    longest: float = 60.0
    """Seconds; a longer recording cannot be used: cut it into utterances."""
    on_error: Literal["stop", "skip"] = "stop"
    """Whether recordings that cannot be used stop the run or are skipped. All of them are named before the first
    step."""

    def __post_init__(self) -> None:
        least, most, _ = POSITIVE
        seconds, share = (least, most, "positive, in seconds"), (least, 1, "above 0 and at most 1")
        check("data", self, {"max_lengths": AT_LEAST_1, "max_padding": share, "longest": seconds})
