"""RAVDESS, speech part (Livingstone and Russo, PLoS ONE 2018): 24 actors."""

import re

from dslstm_jax.config import CorpusConfig
from dslstm_jax.data.corpora.base import About, Corpus, Utterance, corpus_root, make_corpus

ABOUT = About(
    license="CC BY-NC-SA 4.0",
    source="zenodo.org/records/1188976",
    root="the folder with Actor_01/ to Actor_24/",
)
# The names' third field, in class order: the paper's four, then the others.
_EMOTIONS = {
    "03": "happy",
    "01": "neutral",
    "05": "angry",
    "04": "sad",
    "02": "calm",
    "06": "fearful",
    "07": "disgust",
    "08": "surprised",
}
_NAME = re.compile(r"03-01-(?P<emotion>0[1-8])-\d\d-\d\d-\d\d-(?P<speaker>\d\d)\.wav")  # audio only, speech


def load(config: CorpusConfig) -> Corpus:
    """Reads names such as `03-01-05-02-01-01-07.wav`; songs, video and other files are left out.

    The fields are modality, channel, emotion, intensity, statement, repetition and actor.

    Args:
      config: `root` is the folder that holds `Actor_01/` to `Actor_24/`.

    Raises:
      CorpusError: no such folder, or no utterance in it.
    """
    root = corpus_root("ravdess", config.root)
    utterances = [
        Utterance(str(path), _EMOTIONS[name["emotion"]], name["speaker"])
        for path in root.glob("Actor_*/*")
        if (name := _NAME.fullmatch(path.name))
    ]
    hint = f"looked in {root} for Actor_NN/03-01-EE-II-SS-RR-NN.wav (audio-only speech)"
    return make_corpus("ravdess", tuple(_EMOTIONS.values()), utterances, hint)
