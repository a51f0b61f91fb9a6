#!/usr/bin/env bash
# Which tokenizer, which pattern, which units? The same 3 M-parameter body hears the same 4 hours through each of them,
# in as many steps; then all are asked the same. docs/study.md says what came out. Run again, it goes on where it
# stopped. `run.sh runs/study 1` trains all once more with seed 1, over the same tokens, and compares methods over seeds.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=${1:-runs/study} seed=${2:-0}
again=$([ "$seed" = 0 ] || echo "-seed$seed")
export HF_HUB_OFFLINE=${HF_HUB_OFFLINE:-1} TOKENIZERS_PARALLELISM=false

run() { printf '\033[36m$ %s\033[0m\n' "$*"; "$@"; }

codec2=codec2-700c whisper=configs/tokenizers/whisper-tiny.en-l3-k100.yaml logmel=configs/tokenizers/logmel-kmeans.yaml
run python -m eval.minimal_pairs --out "$out/synthetic" --minutes 60 --tokenizer "$codec2" "$whisper" "$logmel"

# tokens NAME TOKENIZER
tokens() { run python tokenize_corpus.py --audio "$out/synthetic/corpus/manifest.jsonl" --tokenizer "$2" --out "$out/tokens/$1"; }
tokens codec2 "$codec2"
tokens whisper "$whisper"
tokens logmel "$logmel"

# lm NAME TOKENS ROWS OPTION...: rows of 256 positions, so many that a step hears about 80 s
lm() {
  local name=$1 corpus=$2 rows=$3
  shift 3
  run python train_lm.py --config configs/study/lm.yaml --data "$out/tokens/$corpus" --out "$out/lm/$name$again" --rows_per_batch "$rows" --seed "$seed" "$@"
}
depth='{model_type: llama, hidden_size: 128, intermediate_size: 352, num_hidden_layers: 2, num_attention_heads: 2, num_key_value_heads: 2, max_position_embeddings: 8}'
lm codec2-delay codec2 8 --pattern.name delay
lm codec2-parallel codec2 8 --pattern.name parallel
lm codec2-depth codec2 8 --pattern.name parallel --model.depth "$depth"
lm codec2-flat codec2 32 --pattern.name flat
lm whisper-frames whisper 16 --pattern.name flat
lm whisper-dedup whisper 9 --pattern.name flat --dedup true
lm logmel-dedup logmel 12 --pattern.name flat --dedup true

run python eval/run.py --model "$out"/lm/*/final --benchmarks swuggy,sblimp --data "$out/synthetic" --out "$out/results/models"
run python eval/run.py --tokenizer codec2-700c,codec2-1300,codec2-3200 --benchmarks reconstruction --data tests/data/speech/en --out "$out/results/tokenizers"
run python -m eval.report "$out/results/models" "$out/results/tokenizers" --out "$out/report"
