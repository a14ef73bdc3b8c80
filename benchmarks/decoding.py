"""Time greedy and beam search on real sentences, and hold the time against that of the matrix products alone.

python benchmarks/decoding.py --model rnn --model tiny --steps 20
python benchmarks/decoding.py --run runs/multi30k-en-de-rnn
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from machine import ROOT, circumstances
from race.limit import Products

from itda.build import build_model
from itda.config import (
    AttentionConfig,
    Config,
    DecodeConfig,
    DecoderConfig,
    EncoderConfig,
    ModelConfig,
    TokenizerConfig,
    TransformerConfig,
)
from itda.data.catalog import locate
from itda.data.corpus import read_pairs
from itda.seq2seq import Seq2Seq
from itda.text.tokenizer import TokenizerPair, train_tokenizers

FORMAT = 1
RESULTS = ROOT / "benchmarks" / "results"
VOCAB = 8000
TRANSFORMERS = {"tiny": (4, 128, 256, 4), "base": (6, 512, 2048, 8)}  # layers, dim, ffn_dim, heads


def model_config(name: str) -> ModelConfig:
    """The sizes that the rivals were measured with."""
    if name == "rnn":
        return ModelConfig(
            embedding_dim=256,
            encoder=EncoderConfig(cell="lstm", dim=256, bidirectional=True),
            decoder=DecoderConfig(kind="luong", cell="lstm", dim=256, input_feeding=True),
            attention=AttentionConfig(kind="additive", dim=256),
        )
    layers, dim, ffn_dim, heads = TRANSFORMERS[name]
    return ModelConfig(
        embedding_dim=dim,
        encoder=EncoderConfig(kind="transformer", dim=dim, num_layers=layers),
        decoder=DecoderConfig(kind="transformer", dim=dim, num_layers=layers),
        transformer=TransformerConfig(num_heads=heads, ffn_dim=ffn_dim),
    )


def random_model(name: str, steps: int, tokenizers: TokenizerPair) -> Seq2Seq:
    """A model with random weights that writes `steps` tokens for each sentence, neither more nor fewer."""
    decode = DecodeConfig(max_length_ratio=0.0, max_length_extra=steps, min_length=steps)
    config = Config(model=model_config(name), decode=decode)
    torch.manual_seed(1)
    return Seq2Seq(config, build_model(config, VOCAB, VOCAB), tokenizers)


def corpus_tokenizers(corpus: str) -> TokenizerPair:
    """Joint byte pairs of a corpus."""
    pairs = [(pair.src, pair.tgt) for pair in read_pairs(locate(corpus))]
    config = TokenizerConfig(kind="sentencepiece", model="bpe", vocab_size=VOCAB, joint=True)
    return train_tokenizers(config, lambda: iter(pairs), 1)


def measure(model: Seq2Seq, texts: Sequence[str], beam: int, repeats: int, **asked: Any) -> dict[str, Any]:
    """Translate all texts a few times: the median, and the share of the limit that it reached."""
    model.generate(texts[:40], beam_size=beam, **asked)
    times, tokens = [], 0
    for _ in range(repeats):
        start = time.perf_counter()
        found = model.generate(texts, beam_size=beam, **asked)
        times.append(time.perf_counter() - start)
        tokens = sum(len(one.tokens) + 1 for one in found)
    seconds = statistics.median(times)
    return {
        "beam": beam,
        "seconds": round(seconds, 3),
        "sentences_per_second": round(len(texts) / seconds, 1),
        "output_tokens_per_second": round(tokens / seconds),
        "times": [round(one, 3) for one in times],
    }


def measure_limit(model: Seq2Seq, texts: Sequence[str], beam: int, cores: int, **asked: Any) -> dict[str, float]:
    """What the products of the same work take by themselves, on one core, shared out evenly."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with Products(enabled=True) as products:
        products.keep = True
        model.generate(texts, beam_size=beam, **{**asked, "workers": 1})
    alone = products.limit()
    torch.set_num_threads(before)
    seconds, gflop = alone["limit_seconds"] / cores, alone["operations"] / 1e9
    return {
        "seconds": round(seconds, 3),
        "gflop": round(gflop, 1),
        "gflop_per_second": round(gflop / seconds, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", action="append", choices=["rnn", *TRANSFORMERS], help="one with random weights")
    parser.add_argument("--run", action="append", default=[], help="a run folder")
    parser.add_argument("--corpus", default="multi30k_en_de")
    parser.add_argument("--sentences", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=20, help="tokens that a model with random weights writes")
    parser.add_argument("--beam", type=int, action="append", help="default: 1 and 5")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", type=int, help="default: as itda chooses")
    parser.add_argument("--limit", action="store_true", help="time the products alone, too")
    parser.add_argument("--out", type=Path, help="where the JSON goes; default: printed only")
    options = parser.parse_args()
    texts = [pair.src for pair in read_pairs(locate(f"{options.corpus}/test"))][: options.sentences]
    asked: dict[str, Any] = {"attention": False, "workers": options.workers}
    models = {run: Seq2Seq.load(run) for run in options.run}
    if options.model:
        tokenizers = corpus_tokenizers(f"{options.corpus}/train")
        models |= {name: random_model(name, options.steps, tokenizers) for name in options.model}
    rows = []
    for name, model in models.items():
        for beam in options.beam or (1, 5):
            row = {"model": Path(name).name, **measure(model, texts, beam, options.repeats, **asked)}
            if options.limit:
                row["limit"] = measure_limit(model, texts, beam, torch.get_num_threads(), **asked)
                row["share"] = round(row["limit"]["seconds"] / row["seconds"], 3)
            rows.append(row)
            print(json.dumps(row), flush=True)
    if options.out:
        answer = {"format": FORMAT, **circumstances(), "sentences": len(texts), "steps": options.steps, "rows": rows}
        options.out.write_text(json.dumps(answer, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
