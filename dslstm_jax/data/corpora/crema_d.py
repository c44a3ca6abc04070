"""CREMA-D (Cao et al., IEEE Transactions on Affective Computing 2014), its sound alone: 91 actors."""

import re

from dslstm_jax.config import CorpusConfig
from dslstm_jax.data.corpora.base import About, Corpus, Utterance, corpus_root, make_corpus

ABOUT = About(
    license="Open Database License 1.0",
    source="github.com/CheyneyComputerScience/CREMA-D (with git lfs)",
    root="the folder with AudioWAV/, or AudioWAV itself",
)
# The names' third field, in class order: the paper's four, then the others.
_EMOTIONS = {
    "HAP": "happy",
    "NEU": "neutral",
    "ANG": "angry",
    "SAD": "sad",
    "DIS": "disgust",
    "FEA": "fearful",
}
# The level is XX where none was asked for; one official file ends in _X.
_NAME = re.compile(r"(?P<speaker>10\d\d)_[A-Z]{3}_(?P<emotion>HAP|NEU|ANG|SAD|DIS|FEA)_(LO|MD|HI|XX?)\.wav")


def load(config: CorpusConfig) -> Corpus:
    """Reads names such as `1001_DFA_ANG_XX.wav`: actor, sentence, emotion, level; other files are left out.

    Args:
      config: `root` is the folder that holds `AudioWAV/`, or `AudioWAV/` itself.

    Raises:
      CorpusError: no such folder, or no utterance in it.
    """
    root = corpus_root("crema_d", config.root)
    folder = root / "AudioWAV" if (root / "AudioWAV").is_dir() else root
    utterances = [
        Utterance(str(path), _EMOTIONS[name["emotion"]], name["speaker"])
        for path in folder.iterdir()
        if (name := _NAME.fullmatch(path.name))
    ]
    hint = f"looked in {folder} for names like 1001_DFA_ANG_XX.wav (actor, sentence, emotion, level)"
    return make_corpus("crema_d", tuple(_EMOTIONS.values()), utterances, hint)
