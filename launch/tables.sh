#!/usr/bin/env bash
# Trains and tests what the tables of BENCHMARKS.md show, one cross-validation after the other:
#
#   launch/tables.sh EMODB RAVDESS RUNS [ROW...] [-- flags of dslstm crossval]
#
# EMODB and RAVDESS are the folders of the corpora; RUNS takes a folder for each row. A finished row is left as it is, a
# half-done one gone on with. Without ROW all are run, a day's work for one core; DRY_RUN=1 prints the commands and starts
# nothing. On a GPU, add `-- --crossval.vmap --data.keep device`. Two processes share the runs of each row with
# `-- --crossval.shard 1 2` and `-- --crossval.shard 2 2`.
set -eu
cd "$(dirname "$0")/.."

rows() { # name, corpus, config and flags
  local unseen="--protocol speaker5 --seeds 3" actors="--protocol ravdess-actors5 --seeds 3" row
  # Without an element at a time: three folds of speakers, half the epochs, and no luck of an epoch that validation chose.
  local shorter="--protocol speaker3 --seeds 3 --split.no-validation --training.choose last --training.epochs 25"
  cat <<END
emodb_recipe emodb configs/robust.py $unseen
emodb_recipe_mfcc emodb configs/robust.py $unseen --model.spectrogram-branch none
emodb_recipe_ds_lstm emodb configs/robust.py $unseen --model.no-mfcc-branch
emodb_studio emodb configs/robust.py:studio --protocol speaker5 --seeds 6
emodb_studio_refit emodb configs/robust.py:studio --protocol speaker5 --seeds 6 --training.choose refit
ravdess_recipe ravdess configs/robust.py $actors
ravdess_studio ravdess configs/robust.py:studio --protocol ravdess-actors5 --seeds 2
ravdess_recipe_mfcc ravdess configs/robust.py $actors --model.spectrogram-branch none
ravdess_recipe_ds_lstm ravdess configs/robust.py $actors --model.no-mfcc-branch
ravdess_recipe_random10 ravdess configs/robust.py:known_speakers --protocol random10 --seeds 3
with_all emodb configs/robust.py $shorter
without_third_layer emodb configs/robust.py $shorter --model.channels 16 32
without_second_direction emodb configs/robust.py $shorter --model.no-bidirectional
without_mixup emodb configs/robust.py $shorter --augmentation.mixup 0
without_speed emodb configs/robust.py $shorter --augmentation.speed 0
without_noise emodb configs/robust.py $shorter --augmentation.noise 0
with_masks emodb configs/robust.py $shorter --augmentation.frequency-masks 2 --augmentation.time-masks 2
without_gain emodb configs/robust.py $shorter --augmentation.gain 0
without_trim emodb configs/robust.py $shorter --features.trim 0
without_pitch emodb configs/robust.py $shorter --features.no-pitch
without_normalization emodb configs/robust.py $shorter --model.normalize none
corpus_normalization emodb configs/robust.py $shorter --model.normalize corpus
without_attention emodb configs/robust.py $shorter --model.pooling mean
statistics_pooling emodb configs/robust.py $shorter --model.pooling statistics
with_layer_norm emodb configs/robust.py $shorter --model.recurrent-norm layer
with_shared_norm emodb configs/robust.py $shorter --model.recurrent-norm shared
with_stretched_time emodb configs/robust.py:stretched $shorter
with_step_norm emodb configs/robust.py:step_norm $shorter
with_paper_units emodb configs/robust.py $shorter --model.hidden 200 --model.mfcc-hidden 200
with_finer_spectrograms emodb configs/robust.py:finer $shorter
without_dropout emodb configs/robust.py $shorter --model.dropout 0
without_smoothing emodb configs/robust.py $shorter --training.label-smoothing 0
without_class_weights emodb configs/robust.py $shorter --training.class-weights none
without_weight_decay emodb configs/robust.py $shorter --training.weight-decay 0
without_average emodb configs/robust.py $shorter --training.ema-decay 0
without_cosine emodb configs/robust.py $shorter --training.schedule halve --training.halve-after 8 16 --training.warmup 0
END
  for row in m_lstm cnn_lstm_512 cnn_lstm_1024 cnn_lstm_both cnn_lstm_512_plus_m_lstm cnn_lstm_both_plus_m_lstm m_ds_lstm \
    dual_level; do
    echo "paper_random5_$row emodb configs/paper.py:$row --protocol random5 --seeds 1 $(paper) --training.choose test-best"
    echo "paper_speaker5_$row emodb configs/paper.py:$row --protocol speaker5 --seeds 1 $(paper)"
  done
}

paper() { # for a corpus of 339 utterances, as configs/dual_level.py says
  echo --training.epochs 25 --training.batch-size 32
}

if (($# < 3)); then
  echo "usage: launch/tables.sh EMODB RAVDESS RUNS [ROW...] [-- flags of dslstm crossval]" >&2
  exit 2
fi
declare -A roots=([emodb]=$1 [ravdess]=$2)
runs=$3 wanted=()
shift 3
while (($#)) && [[ $1 != -- ]]; do
  if ! grep -q "^$1 " <<<"$(rows)"; then
    echo "launch/tables.sh: there is no row $1; there are: $(rows | cut -d' ' -f1 | paste -sd' ')" >&2
    exit 2
  fi
  wanted+=("$1")
  shift
done
shift $(($# > 0))

while read -r row corpus flags; do
  if ((${#wanted[@]})) && [[ ! " ${wanted[*]} " == *" $row "* ]]; then continue; fi
  read -ra flags <<<"$flags"
  command=(dslstm crossval "${flags[@]}" --corpus.name "$corpus" --corpus.root "${roots[$corpus]}" --workdir "$runs/$row" "$@")
  if [[ -e $runs/$row/crossval.json ]]; then command+=(--resume); fi
  echo "${command[*]@Q}"
  if [[ ! ${DRY_RUN:-} ]]; then "${command[@]}" </dev/null; fi
done < <(rows)
