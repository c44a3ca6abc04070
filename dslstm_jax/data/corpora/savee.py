"""SAVEE (Haq and Jackson, AVSP 2009), its sound alone: 4 speakers."""

import re

from dslstm_jax.config import CorpusConfig
from dslstm_jax.data.corpora.base import About, Corpus, Utterance, corpus_root, make_corpus

ABOUT = About(
    license="free for research",
    source="University of Surrey, on registration",
    root="the folder with AudioData/, or AudioData itself",
)
# The names' letters, in class order: the paper's four, then the others.
_EMOTIONS = {
    "h": "happy",
    "n": "neutral",
    "a": "angry",
    "sa": "sad",
    "d": "disgust",
    "f": "fearful",
    "su": "surprised",
}
_NAME = re.compile(r"(?P<emotion>sa|su|[adfhn])\d\d\.wav")


def load(config: CorpusConfig) -> Corpus:
    """Reads names such as `DC/sa01.wav`: speaker, emotion, number; other folders and files are left out.

    Args:
      config: `root` is the folder that holds `AudioData/`, or `AudioData/` itself.

    Raises:
      CorpusError: no such folder, or no utterance in it.
    """
    root = corpus_root("savee", config.root)
    folder = root / "AudioData" if (root / "AudioData").is_dir() else root
    utterances = [
        Utterance(str(path), _EMOTIONS[name["emotion"]], speaker)
        for speaker in ("DC", "JE", "JK", "KL")
        for path in folder.glob(f"{speaker}/*")
        if (name := _NAME.fullmatch(path.name))
    ]
    hint = f"looked in {folder} for names like DC/sa01.wav (speakers DC, JE, JK and KL; emotion, number)"
    return make_corpus("savee", tuple(_EMOTIONS.values()), utterances, hint)
