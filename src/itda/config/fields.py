"""The settings of a recipe, as frozen dataclasses.

Each field's metadata carries a one-line `help`, the allowed `choices` or bounds; `explain` prints them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

FORMAT = 1
# Bounds beyond which a value can only be a slip: what lies behind them would end in an overflow deep inside PyTorch.
MOST = 1_000_000_000
MOST_SEED = 2**32 - 1
MOST_DIM = 1_000_000


def setting(
    default: Any, help: str, *, choices: tuple[str, ...] = (), low: float | None = None, high: float | None = None
) -> Any:
    """Declare a field with its default, one line of help and what is allowed."""
    return field(default=default, metadata={"help": help, "choices": choices, "low": low, "high": high})


@dataclass(frozen=True)
class DataConfig:
    """Which pairs; a corpus is a path, two paths joined by a comma, or a name under ITDA_DATA."""

    kind: str = setting("text", "text, or vectors (real-valued sequences)", choices=("text", "vectors"))
    train: str = setting(
        "", "training pairs: FILE.tsv[.gz], SRC,TGT (two files), NAME/SPLIT under ITDA_DATA, or make:GENERATOR"
    )
    valid: str = setting("", "validation pairs, named in the same way; empty: none")
    test: str = setting("", "test pairs, named in the same way: what `itda evaluate RUN` measures on; never trained on")
    swap: bool = setting(False, "read the second column as source and the first as target")
    alignments: str = setting(
        "",
        "word alignments of the training pairs: a Pharaoh file (i-j: column one - column two, from 0), a line a pair, "
        "or make:GENERATOR; empty: none",
    )
    alignment_unit: str = setting(
        "words",
        "what i and j count: words between white space, characters, or the tokenizer's own tokens",
        choices=("words", "characters", "tokens"),
    )
    max_src_length: int = setting(
        200, "longest source in tokens; a longer pair is skipped in training and counted", low=1, high=100_000
    )
    max_tgt_length: int = setting(
        200, "longest target in tokens; a longer pair is skipped in training and counted", low=1, high=100_000
    )
    source_factors: str = setting(
        "",
        "features of each source word, commas between them: case (made from the word itself), or names of your own for "
        "what stands behind each word (word|NOUN|PL); NAME is added to the word's embedding, NAME:16 stands beside it",
    )
    target_factors: str = setting(
        "",
        "features predicted beside each target token, named in the same way; with case the output gets its case back",
    )
    factor_separator: str = setting("|", "what stands between a word and its features")
    tags: str = setting(
        "",
        "target languages of a many-to-many model, such as de, fr: each source begins with a tag, <2de>; where lines "
        "have none, name the corpus <2de> CORPUS (for all lines), or <2*> CORPUS (a third column holds the language)",
    )
    seed: int = setting(1, "seed of a generated corpus (make:...)", low=0, high=MOST_SEED)
    pairs: int = setting(
        0, "number of pairs of a generated corpus; 0: the generator's own default", low=0, high=100_000_000
    )
    length: int = setting(5, "positions of each generated real-valued sequence (make:normal)", low=1, high=100_000)
    src_dim: int = setting(10, "numbers at each source position, for kind = vectors", low=1, high=MOST_DIM)
    tgt_dim: int = setting(10, "numbers at each target position, for kind = vectors", low=1, high=MOST_DIM)


@dataclass(frozen=True)
class TokenizerConfig:
    """How text becomes ids."""

    kind: str = setting("sentencepiece", "unit family", choices=("sentencepiece", "characters", "words"))
    model: str = setting("bpe", "sentencepiece model", choices=("bpe", "unigram"))
    vocab_size: int = setting(
        8000, "entries of each vocabulary; lowered with a notice where the text is too small", low=8, high=10_000_000
    )
    joint: bool = setting(True, "one vocabulary for both sides (needed for tie = all)")
    normalization: str = setting(
        "nfc", "Unicode normalisation applied to both sides first", choices=("nfc", "nfd", "nfkc", "none")
    )
    character_coverage: float = setting(
        1.0, "share of characters that sentencepiece keeps as units of their own", low=0.9, high=1.0
    )
    sampling: float = setting(
        0.0, "subword sampling in training: BPE dropout rate, or unigram alpha; 0: off", low=0.0, high=1.0
    )
    min_count: int = setting(1, "rarer words or characters become <unk>", low=1, high=MOST)
    added: tuple[str, ...] = setting(
        (),
        "with train.start_from: words, characters or (sentencepiece) names and tags that become entries",
    )
    added_from_data: int = setting(
        0,
        "with train.start_from: at most this many words or characters of the new pairs that its vocabulary does not "
        "hold become entries, the most frequent first",
        low=0,
        high=10_000_000,
    )


@dataclass(frozen=True)
class EncoderConfig:
    """The encoder."""

    kind: str = setting("recurrent", "encoder family", choices=("recurrent", "transformer", "convolution"))
    cell: str = setting("lstm", "recurrent cell", choices=("lstm", "gru"))
    dim: int = setting(256, "size of a state h_i (both directions together)", low=1, high=MOST_DIM)
    num_layers: int = setting(1, "layers", low=1, high=1000)
    bidirectional: bool = setting(True, "recurrent: read in both directions")
    bidirectional_layers: int = setting(
        0, "recurrent: how many layers, from the first, read in both directions; 0: all (GNMT: 1)", low=0, high=1000
    )
    layer_norm: bool = setting(False, "recurrent: cells that are layer-normalised inside; steadier, slower")
    residual_from: int = setting(
        0,
        "recurrent: the first layer, counted from 1, whose input is added to its output; 0: none (GNMT: 3)",
        low=0,
        high=1000,
    )
    kernel_width: int = setting(
        3, "convolution: positions that a layer sees around each, an odd number", low=1, high=1001
    )


@dataclass(frozen=True)
class DecoderConfig:
    """The decoder."""

    kind: str = setting(
        "bahdanau",
        "recurrent ones (plain: no attention; bahdanau: query s_{t-1}; luong: query s_t; gnmt: query s_{t-1} of the "
        "first layer, c_t read by all), transformer, or ssru "
        "(a Transformer with a simple recurrence in place of self-attention, for quick decoding)",
        choices=("plain", "bahdanau", "luong", "gnmt", "transformer", "ssru"),
    )
    cell: str = setting("lstm", "recurrent cell", choices=("lstm", "gru"))
    dim: int = setting(256, "size of the state s_t", low=1, high=MOST_DIM)
    num_layers: int = setting(1, "layers", low=1, high=1000)
    input_feeding: bool = setting(True, "luong: the attentional vector is part of the next input")
    layer_norm: bool = setting(False, "recurrent: cells that are layer-normalised inside; steadier, slower")
    residual_from: int = setting(
        0,
        "recurrent: the first layer, counted from 1, whose input is added to its output; 0: none (GNMT: 3)",
        low=0,
        high=1000,
    )
    bridge: str = setting(
        "dense",
        "first state: dense or copy (a learned map of the encoder's last, or itself), mean (a learned map of the mean "
        "of all), zero",
        choices=("dense", "copy", "mean", "zero"),
    )


@dataclass(frozen=True)
class AttentionConfig:
    """The attention of a recurrent decoder."""

    kind: str = setting(
        "additive",
        "score e_{t,i}; several heads; or additive ones that know where they looked (location: last time; coverage: "
        "in sum)",
        choices=("additive", "dot", "general", "concat", "multihead", "location", "coverage"),
    )
    dim: int = setting(
        256,
        "size of the hidden layer of additive, concat, location and coverage, and of all heads together",
        low=1,
        high=MOST_DIM,
    )
    num_heads: int = setting(4, "multihead: heads; they share dim", low=1, high=1024)
    filters: int = setting(10, "location: filters over the last alpha", low=1, high=10_000)
    kernel_width: int = setting(7, "location: source positions that a filter sees, an odd number", low=1, high=1001)


@dataclass(frozen=True)
class TransformerConfig:
    """The layers of a Transformer (or ssru), the same in encoder and decoder."""

    num_heads: int = setting(
        4, "attention heads; they share dim, so each has dim / num_heads numbers", low=1, high=1024
    )
    num_kv_heads: int = setting(
        0, "heads of keys and values, shared by groups of query heads; 0: num_heads", low=0, high=1024
    )
    ffn_dim: int = setting(1024, "inner size of the feed-forward layer", low=1, high=MOST_DIM)
    activation: str = setting("relu", "of the feed-forward layer", choices=("relu", "gelu", "swiglu"))
    norm: str = setting("layer", "LayerNorm, or RMSNorm (no mean, no bias)", choices=("layer", "rms"))
    norm_first: bool = setting(True, "norm before each branch (pre-norm), or after its sum (post-norm, as published)")
    positions: str = setting(
        "sinusoidal",
        "sinusoidal or learned vectors added to the input, or rotary (queries and keys turned by their position)",
        choices=("sinusoidal", "learned", "rotary"),
    )
    max_length: int = setting(
        512, "learned positions: how many; what lies beyond shares the last one", low=1, high=1_000_000
    )
    attention_dropout: float = setting(0.0, "dropout rate of attention weights", low=0.0, high=0.95)


@dataclass(frozen=True)
class ModelConfig:
    """Sizes shared by the parts."""

    embedding_dim: int = setting(256, "size of a token embedding", low=1, high=MOST_DIM)
    feature_dim: int = setting(
        0, "size of what the output layer reads; 0: embedding_dim, as tied embeddings need it", low=0, high=MOST_DIM
    )
    tie: str = setting(
        "target",
        "share embeddings: none, target (input and output of the decoder), all (source too)",
        choices=("none", "target", "all"),
    )
    dropout: float = setting(0.2, "dropout rate", low=0.0, high=0.95)
    variational: bool = setting(False, "one dropout mask for all positions of a sentence")
    encoder: EncoderConfig = EncoderConfig()
    decoder: DecoderConfig = DecoderConfig()
    attention: AttentionConfig = AttentionConfig()
    transformer: TransformerConfig = TransformerConfig()


@dataclass(frozen=True)
class TeacherForcingConfig:
    """How often the decoder is shown the reference in training; evaluation of text never is."""

    ratio: float = setting(
        1.0, "probability that the decoder sees the reference; where it decays, the first value", low=0.0, high=1.0
    )
    final_ratio: float = setting(0.0, "the value that a decaying schedule ends at", low=0.0, high=1.0)
    schedule: str = setting(
        "constant",
        "how the ratio changes over training",
        choices=("constant", "linear", "inverse-sigmoid", "exponential"),
    )
    granularity: str = setting(
        "token",
        "one coin for each token, for each sequence, or for each step of the whole batch (the lecture)",
        choices=("token", "sequence", "step"),
    )
    form: str = setting(
        "exact", "exact: step by step; parallel: two passes, quicker, an approximation", choices=("exact", "parallel")
    )
    decay_updates: int = setting(0, "updates over which the ratio decays; 0: the whole budget", low=0, high=MOST)


@dataclass(frozen=True)
class GuidedAlignmentConfig:
    """Attention is taught by the alignments of data.alignments."""

    weight: float = setting(
        0.0,
        "weight of the cross-entropy between alignment and attention, beside the likelihood; 0: off",
        low=0.0,
        high=1000.0,
    )


@dataclass(frozen=True)
class MinimumRiskConfig:
    """The expected loss of what the model samples, for train.objective = minimum_risk."""

    metric: str = setting("bleu", "the risk is 1 - this, sentence by sentence", choices=("bleu", "chrf", "rouge_l"))
    samples: int = setting(16, "samples of each sentence, of which equal ones count once", low=1, high=1000)
    reference: bool = setting(True, "let the reference be a candidate too")
    sharpness: float = setting(
        0.005, "exponent on the probabilities of the candidates; 1: as they are", low=1e-6, high=100.0
    )
    likelihood: float = setting(
        0.0, "share of the likelihood in the objective; the rest is the risk", low=0.0, high=0.999
    )


@dataclass(frozen=True)
class TrainConfig:
    """Optimisation, budget, validation."""

    seed: int = setting(1, "seed of initialisation, order, dropout and coins", low=0, high=MOST_SEED)
    start_from: str = setting(
        "", "a run folder: start from its final weights and its vocabulary, with a fresh optimizer; empty: from nothing"
    )
    freeze: tuple[str, ...] = setting(
        (),
        "what stays as it starts: encoder, decoder (both without embeddings), embedding, head, or patterns of "
        "parameter names such as decoder.attention.*",
    )
    updates: int = setting(0, "budget in updates; 0: none", low=0, high=MOST)
    epochs: float = setting(0.0, "budget in epochs; 0: none", low=0.0, high=1e9)
    minutes: float = setting(
        0.0, "budget in minutes of wall clock, set-up and validation included; 0: none", low=0.0, high=1e9
    )
    batch: int = setting(64, "size of an update, in batch_unit", low=1, high=10_000_000)
    batch_unit: str = setting(
        "sentences",
        "sentences, or tokens (padded source or target positions, the larger)",
        choices=("sentences", "tokens"),
    )
    accumulate: int = setting(1, "micro-batches an update", low=1, high=100_000)
    objective: str = setting(
        "likelihood",
        "likelihood, or minimum_risk: the expected risk of samples, for a model that has learned by likelihood",
        choices=("likelihood", "minimum_risk"),
    )
    optimizer: str = setting("adam", "optimizer", choices=("adam", "adamw"))
    learning_rate: float = setting(0.002, "peak learning rate", low=0.0, high=1000.0)
    beta1: float = setting(0.9, "Adam's first moment decay", low=0.0, high=0.9999)
    beta2: float = setting(0.999, "Adam's second moment decay", low=0.0, high=0.999999)
    weight_decay: float = setting(0.0, "decoupled weight decay (adamw)", low=0.0, high=1000.0)
    schedule: str = setting(
        "constant", "learning rate over training", choices=("constant", "inverse-sqrt", "cosine", "plateau")
    )
    warmup: int = setting(0, "updates of linear warm-up", low=0, high=MOST)
    final_scale: float = setting(0.0, "share of the peak rate that cosine ends at", low=0.0, high=1.0)
    plateau_factor: float = setting(0.5, "plateau: factor on the rate", low=0.01, high=0.99)
    plateau_patience: int = setting(
        2, "plateau: validations without a better metric before the rate falls", low=1, high=MOST
    )
    label_smoothing: float = setting(0.0, "label smoothing", low=0.0, high=0.9)
    factor_weight: float = setting(
        1.0, "weight of the loss of data.target_factors beside that of the words", low=0.0, high=1000.0
    )
    r_drop: float = setting(
        0.0,
        "weight of the divergence of two passes with different dropout (R-Drop's alpha); 0: off",
        low=0.0,
        high=1000.0,
    )
    clip_norm: float = setting(1.0, "gradient norm is clipped at this; 0: off", low=0.0, high=1e9)
    autocast: str = setting("off", "mixed precision", choices=("off", "bfloat16"))
    validate_every: int = setting(500, "updates between validations, each with a checkpoint", low=1, high=MOST)
    metric: str = setting(
        "loss",
        "what keep-best, early stopping and plateau watch",
        choices=("loss", "perplexity", "token_accuracy", "bleu", "chrf", "exact_match"),
    )
    metric_sentences: int = setting(
        500, "validation pairs that are decoded (greedily) for bleu, chrf, exact_match", low=1, high=MOST
    )
    patience: int = setting(0, "validations without a better metric before training stops; 0: never", low=0, high=MOST)
    average: int = setting(
        1, "average the weights of this many of the last checkpoints at the end; 1: keep the best one", low=1, high=1000
    )
    ema: float = setting(
        0.0,
        "decay of a moving average of the weights, which is validated, saved and averaged in their place (0.999 looks "
        "back over 1,000 updates); 0: off",
        low=0.0,
        high=0.999999,
    )
    keep: int = setting(3, "checkpoints kept in the run folder", low=1, high=MOST)
    report_every: int = setting(50, "updates between progress lines where the terminal is not live", low=1, high=MOST)
    teacher_forcing: TeacherForcingConfig = TeacherForcingConfig()
    guided_alignment: GuidedAlignmentConfig = GuidedAlignmentConfig()
    minimum_risk: MinimumRiskConfig = MinimumRiskConfig()


@dataclass(frozen=True)
class DecodeConfig:
    """Search, where the command line or the call says nothing else."""

    beam_size: int = setting(5, "beam size; 1: greedy", low=1, high=1000)
    length_penalty: float = setting(
        1.0, "how much length counts in the score; see length_normalization", low=0.0, high=5.0
    )
    length_normalization: str = setting(
        "average",
        "score: average: log_prob / length ** length_penalty; gnmt: log_prob / ((5 + length) / 6) ** length_penalty; "
        "reward: log_prob + length_penalty x length",
        choices=("average", "gnmt", "reward"),
    )
    coverage_penalty: float = setting(
        0.0, "GNMT's: what it costs to leave source tokens without attention; 0: off", low=0.0, high=10.0
    )
    no_repeat_ngram: int = setting(0, "no n tokens in a row are written twice; 0: off", low=0, high=1000)
    repetition_penalty: float = setting(
        0.0, "what it costs, in nats, to write a token that was written before; 0: off", low=0.0, high=1e6
    )
    min_length: int = setting(0, "fewest tokens of an output", low=0, high=100_000)
    diverse_groups: int = setting(1, "diverse beam search: groups that share the beam; 1: off", low=1, high=1000)
    diversity: float = setting(
        0.5,
        "what a token costs, in nats, for each earlier group that writes it at the same position",
        low=0.0,
        high=1e6,
    )
    max_length_ratio: float = setting(
        2.0, "longest output: ratio x source tokens + max_length_extra", low=0.0, high=1000.0
    )
    max_length_extra: int = setting(10, "see max_length_ratio", low=1, high=100_000)
    replace_unknown: bool = setting(False, "write the most attended source token in place of <unk>")
    shortlist: str = setting(
        "off",
        "on: a sentence is written with frequent words and likely translations of its own words alone (`itda shortlist "
        "RUN` makes the list); certified: the output of a greedy search over all words, with fewer of them scored",
        choices=("off", "on", "certified"),
    )


@dataclass(frozen=True)
class Config:
    """A whole recipe."""

    format: int = setting(FORMAT, "version of this format")
    name: str = setting("run", "name of the run folder under runs/")
    about: str = setting("", "one line on what this recipe is for")
    data: DataConfig = DataConfig()
    tokenizer: TokenizerConfig = TokenizerConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    decode: DecodeConfig = DecodeConfig()
