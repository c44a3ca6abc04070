"""IEMOCAP (Busso et al., Language Resources and Evaluation 2008), in its usual four classes: 10 speakers."""

import re

from dslstm_jax.config import CorpusConfig
from dslstm_jax.data.corpora.base import About, Corpus, Utterance, corpus_root, make_corpus
from dslstm_jax.errors import CorpusError, first_three

ABOUT = About(
    license="by request", source="USC SAIL (sail.usc.edu/iemocap)", root="the folder with Session1/ to Session5/"
)
# The release's names, in class order; excited counts as happy, and turns of any other label are left out.
_EMOTIONS = {"hap": "happy", "exc": "happy", "neu": "neutral", "ang": "angry", "sad": "sad"}
# [6.2901 - 8.2357]	Ses01F_impro01_F000	neu	[2.5000, 2.5000, 2.5000]
_TURN = re.compile(r"\[[\d.]+ - [\d.]+\]\s+((Ses\d\d)[FM]_\S+_([FM])\w+)\s+([a-z]{3})\s")


def load(config: CorpusConfig) -> Corpus:
    """Reads the annotation of every dialog: `Ses01F_impro01_M003` is a turn of speaker `Ses01M` in session `1`.

    Args:
      config: `root` is the folder IEMOCAP_full_release, which holds `Session1/` to `Session5/`, or the one above it.

    Raises:
      CorpusError: a session without annotation, an annotated turn without its recording, or no such folder.
    """
    root = corpus_root("iemocap", config.root)
    if (root / "IEMOCAP_full_release").is_dir():
        root = root / "IEMOCAP_full_release"
    utterances, no_annotation, no_sound = [], [], []
    for session in "12345":
        folder = root / f"Session{session}"
        # A name that starts with Ses: archives unpacked on macOS add ._Ses*.txt, which is no text.
        dialogs = sorted(folder.glob("dialog/EmoEvaluation/Ses*.txt"))
        if not dialogs:
            no_annotation.append(f"Session{session}/dialog/EmoEvaluation/Ses*.txt")
        for dialog in dialogs:
            for line in dialog.read_text(encoding="utf-8", errors="replace").splitlines():
                turn = _TURN.match(line)
                if not turn or turn[4] not in _EMOTIONS:
                    continue
                path = folder / "sentences" / "wav" / dialog.stem / f"{turn[1]}.wav"
                utterances.append(Utterance(str(path), _EMOTIONS[turn[4]], turn[2] + turn[3], session))
                if not path.is_file():
                    no_sound.append(str(path.relative_to(root)))
    if no_annotation:
        raise CorpusError(
            f"corpus 'iemocap': {root} lacks the annotation of {len(no_annotation)} of 5 sessions: "
            f"{first_three(no_annotation)}; give the folder IEMOCAP_full_release"
        )
    if no_sound:
        raise CorpusError(
            f"corpus 'iemocap': {root} lacks the recordings of {len(no_sound)} annotated turns: "
            f"{first_three(no_sound)}; unpack the release anew"
        )
    labels = tuple(dict.fromkeys(_EMOTIONS.values()))
    return make_corpus("iemocap", labels, utterances, f"looked in {root} for turns in dialog/EmoEvaluation/Ses*.txt")
