"""EmoDB, the Berlin Database of Emotional Speech (Burkhardt et al., Interspeech 2005): 10 speakers."""

import re

from dslstm_jax.config import CorpusConfig
from dslstm_jax.data.corpora.base import About, Corpus, Utterance, corpus_root, make_corpus

ABOUT = About(
    license="free for research",
    source="TU Berlin's EmoDB site (Burkhardt et al., 2005)",
    root="the folder with wav/, or wav itself",
)
# The German names' first letters, in class order: the paper's four, then the others.
_EMOTIONS = {
    "F": "happy",
    "N": "neutral",
    "W": "angry",
    "T": "sad",
    "L": "bored",
    "E": "disgust",
    "A": "fearful",
}
_NAME = re.compile(r"(?P<speaker>\d\d)[ab]\d\d(?P<emotion>[FNWTLEA])[a-z]\.wav")


def load(config: CorpusConfig) -> Corpus:
    """Reads names such as `03a01Fa.wav`: speaker, text, emotion, version; other files are left out.

    Args:
      config: `root` is the folder that holds `wav/`, or `wav/` itself.

    Raises:
      CorpusError: no such folder, or no utterance in it.
    """
    root = corpus_root("emodb", config.root)
    folder = root / "wav" if (root / "wav").is_dir() else root
    utterances = [
        Utterance(str(path), _EMOTIONS[name["emotion"]], name["speaker"])
        for path in folder.iterdir()
        if (name := _NAME.fullmatch(path.name))
    ]
    hint = f"looked in {folder} for names like 03a01Fa.wav (speaker, text, emotion, version)"
    return make_corpus("emodb", tuple(_EMOTIONS.values()), utterances, hint)
