"""Acted corpora whose files' names say who speaks and how: a row each. Their labels begin with the paper's four."""

import re
from dataclasses import dataclass

from dslstm_jax.config import CorpusConfig
from dslstm_jax.data.corpora.base import About, Corpus, Utterance, corpus_root, make_corpus


@dataclass(frozen=True)
class ActedCorpus:
    """Where the files lie below the corpus root, and what their names mean."""

    name: str
    ABOUT: About
    folder: str
    """Holds the files; `root` may name it or the folder above it."""
    path: str
    """A regular expression for their paths below `folder`, with the groups speaker and emotion."""
    emotions: dict[str, str]
    """The label of each emotion, in class order."""
    looked_for: str

    def load(self, config: CorpusConfig) -> Corpus:
        """Reads the names of the files; files with other names are left out.

        Args:
          config: `root` is the folder that ABOUT.root says.

        Raises:
          CorpusError: no such folder, or no utterance in it.
        """
        folder = root = corpus_root(self.name, config.root)
        if (root / self.folder).is_dir():
            folder = root / self.folder
        utterances = [
            Utterance(str(path), self.emotions[found["emotion"]], found["speaker"])
            for path in folder.glob("*/" * self.path.count("/") + "*")
            if (found := re.fullmatch(self.path, path.relative_to(folder).as_posix()))
        ]
        hint = f"looked in {folder} for {self.looked_for}"
        return make_corpus(self.name, tuple(self.emotions.values()), utterances, hint)


# Cao et al., IEEE Transactions on Affective Computing 2014; the sound alone: 91 actors
CREMA_D = ActedCorpus(
    "crema_d",
    About(
        license="Open Database License 1.0",
        source="github.com/CheyneyComputerScience/CREMA-D (with git lfs)",
        root="the folder with AudioWAV/, or AudioWAV itself",
    ),
    folder="AudioWAV",
    # The level is XX where none was asked for; one official file ends in _X.
    path=r"(?P<speaker>10\d\d)_[A-Z]{3}_(?P<emotion>HAP|NEU|ANG|SAD|DIS|FEA)_(LO|MD|HI|XX?)\.wav",
    emotions={"HAP": "happy", "NEU": "neutral", "ANG": "angry", "SAD": "sad", "DIS": "disgust", "FEA": "fearful"},
    looked_for="names like 1001_DFA_ANG_XX.wav (actor, sentence, emotion, level)",
)

# Berlin Database of Emotional Speech, Burkhardt et al., Interspeech 2005: 10 speakers; the letters are German
EMODB = ActedCorpus(
    "emodb",
    About(
        license="free for research",
        source="TU Berlin's EmoDB site (Burkhardt et al., 2005)",
        root="the folder with wav/, or wav itself",
    ),
    folder="wav",
    path=r"(?P<speaker>\d\d)[ab]\d\d(?P<emotion>[FNWTLEA])[a-z]\.wav",
    emotions={"F": "happy", "N": "neutral", "W": "angry", "T": "sad", "L": "bored", "E": "disgust", "A": "fearful"},
    looked_for="names like 03a01Fa.wav (speaker, text, emotion, version)",
)

# Livingstone and Russo, PLoS ONE 2018; the speech without songs and video: 24 actors
RAVDESS = ActedCorpus(
    "ravdess",
    About(
        license="CC BY-NC-SA 4.0", source="zenodo.org/records/1188976", root="the folder with Actor_01/ to Actor_24/"
    ),
    folder="",
    # modality (03: audio only), channel (01: speech), emotion, intensity, statement, repetition, actor
    path=r"Actor_.*/03-01-(?P<emotion>0[1-8])-\d\d-\d\d-\d\d-(?P<speaker>\d\d)\.wav",
    emotions={
        **{"03": "happy", "01": "neutral", "05": "angry", "04": "sad"},
        **{"02": "calm", "06": "fearful", "07": "disgust", "08": "surprised"},
    },
    looked_for="Actor_NN/03-01-EE-II-SS-RR-NN.wav (audio-only speech)",
)

# Haq and Jackson, AVSP 2009; the sound alone: 4 speakers
SAVEE = ActedCorpus(
    "savee",
    About(
        license="free for research",
        source="University of Surrey, on registration",
        root="the folder with AudioData/, or AudioData itself",
    ),
    folder="AudioData",
    path=r"(?P<speaker>DC|JE|JK|KL)/(?P<emotion>sa|su|[adfhn])\d\d\.wav",
    emotions={
        **{"h": "happy", "n": "neutral", "a": "angry", "sa": "sad"},
        **{"d": "disgust", "f": "fearful", "su": "surprised"},
    },
    looked_for="names like DC/sa01.wav (speakers DC, JE, JK and KL; emotion, number)",
)
