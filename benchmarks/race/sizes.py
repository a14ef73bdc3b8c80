"""The sizes of a row in the words of each peer: used by its side, and by its own command line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from race.child import RATE


def embedding_dim(sizes: Mapping[str, Any]) -> int:
    """Give the size of embeddings: the model's own, where a row says nothing else."""
    return int(sizes.get("embedding", sizes["dim"]))


def opennmt_arguments(sizes: Mapping[str, Any], job: Mapping[str, Any]) -> list[str]:
    """Write sizes, and the learning rate of a job, as options of onmt_train."""
    dim, embedding, dropout = str(sizes["dim"]), str(embedding_dim(sizes)), str(sizes["dropout"])
    found = ["--hidden_size", dim, "--word_vec_size", embedding, "--dropout", dropout, "--max_grad_norm", "1"]
    found += ["--optim", "adam", "--learning_rate", str(job.get("learning_rate", RATE)), "--normalization", "tokens"]
    if sizes["family"] == "rnn":
        attention = {"additive": "mlp", "general": "general"}[sizes["attention"]]
        found += ["--encoder_type", "brnn", "--decoder_type", "rnn", "--rnn_type", "LSTM", "--layers", "1"]
        found += ["--global_attention", attention, "--input_feed", "1", "--attention_dropout", "0"]
    else:
        found += ["--encoder_type", "transformer", "--decoder_type", "transformer", "--layers", str(sizes["layers"])]
        found += ["--transformer_ff", str(sizes["ffn"]), "--heads", str(sizes["heads"]), "--attention_dropout", "0"]
        found += ["--position_encoding", "--param_init", "0", "--param_init_glorot"]
    if sizes["tie"] == "all":
        found += ["--share_vocab", "--share_embeddings", "--share_decoder_embeddings"]
    return found


def joeynmt_model(sizes: Mapping[str, Any]) -> dict[str, Any]:
    """Write sizes as the model section of a JoeyNMT configuration."""
    dim, dropout = sizes["dim"], sizes["dropout"]
    embeddings = {"embedding_dim": embedding_dim(sizes), "scale": sizes["family"] == "transformer", "dropout": dropout}
    tied = {"tied_embeddings": sizes["tie"] == "all", "tied_softmax": sizes["tie"] == "all"}
    if sizes["family"] == "transformer":
        part = {"type": "transformer", "num_layers": sizes["layers"], "num_heads": sizes["heads"], "hidden_size": dim}
        part |= {"ff_size": sizes["ffn"], "dropout": dropout, "layer_norm": "pre", "embeddings": embeddings}
        return {"encoder": dict(part), "decoder": dict(part), **tied, "initializer": "xavier_uniform"}
    encoder = {"type": "recurrent", "rnn_type": "lstm", "hidden_size": dim // 2, "bidirectional": True}
    attention = {"additive": "bahdanau", "general": "luong"}[sizes["attention"]]
    decoder = {"type": "recurrent", "rnn_type": "lstm", "hidden_size": dim, "attention": attention}
    decoder |= {"input_feeding": True, "init_hidden": "bridge", "hidden_dropout": dropout}
    shared = {"num_layers": 1, "dropout": dropout, "embeddings": embeddings}
    return {"encoder": encoder | shared, "decoder": decoder | shared, **tied}
