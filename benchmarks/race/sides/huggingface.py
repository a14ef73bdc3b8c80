"""Hugging Face transformers: MarianMT, an encoder-decoder Transformer, in the plain loop of its documentation."""

from __future__ import annotations

import sys

import torch
from transformers import MarianConfig, MarianMTModel

from race.child import (
    BOS,
    EOS,
    PAD,
    RATE,
    Job,
    Laps,
    Result,
    by_length,
    decoded,
    most_steps,
    read_batches,
    read_sources,
    run,
    trained,
)


def make_model(job: Job) -> MarianMTModel:
    """Build a MarianMT of the sizes of a job, its three embeddings tied."""
    torch.manual_seed(1)
    sizes = job["model"]
    layers, heads, ffn = sizes["layers"], sizes["heads"], sizes["ffn"]
    config = MarianConfig(
        vocab_size=job["vocab_size"], d_model=sizes["dim"], encoder_layers=layers, decoder_layers=layers,
        encoder_attention_heads=heads, decoder_attention_heads=heads, encoder_ffn_dim=ffn, decoder_ffn_dim=ffn,
        dropout=sizes["dropout"], attention_dropout=0.0, activation_dropout=0.0, activation_function="relu",
        pad_token_id=PAD, bos_token_id=BOS, eos_token_id=EOS, decoder_start_token_id=BOS, forced_eos_token_id=None,
        share_encoder_decoder_embeddings=True, tie_word_embeddings=True, scale_embedding=True,
        max_position_embeddings=256, attn_implementation="sdpa",
    )  # fmt: skip
    return MarianMTModel(config)


def training(job: Job) -> Result:
    """Train on the prepared batches."""
    model = make_model(job).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=job.get("learning_rate", RATE), fused=True)
    prepared, laps, losses = read_batches(job["batches"]), Laps(), []
    for pairs in prepared:
        src, tgt = torch.from_numpy(pairs.src), torch.from_numpy(pairs.tgt)
        laps.lap()
        wanted = tgt[:, 1:].masked_fill(tgt[:, 1:] == PAD, -100)
        inputs = tgt[:, :-1].masked_fill(tgt[:, :-1] == EOS, PAD)
        mask = (src != PAD).long()
        loss = model(input_ids=src, attention_mask=mask, decoder_input_ids=inputs, labels=wanted).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    laps.lap()
    return trained(laps, job, prepared, losses, sum(p.numel() for p in model.parameters()))


@torch.inference_mode()
def decoding(job: Job) -> Result:
    """Decode the prepared sources by `generate`."""
    model = make_model(job).eval()
    if job.get("steps"):
        model.final_logits_bias[0, EOS] = -1e4
    sources = read_sources(job["sources"])
    return decoded(sources, job, lambda places, size: decode(model, sources, places, size, job))


def decode(model: MarianMTModel, sources: list[list[int]], places: list[int], size: int, job: Job) -> list[list[int]]:
    """Decode in batches of similar length."""
    outputs: dict[int, list[int]] = {}
    for cut in by_length(sources, places, size):
        rows = [torch.tensor(sources[place]) for place in cut]
        src = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        found = model.generate(
            input_ids=src, attention_mask=(src != PAD).long(), num_beams=job["beam"], do_sample=False,
            max_new_tokens=most_steps(job),
        )  # fmt: skip
        for place, ids in zip(cut, found[:, 1:].tolist(), strict=True):
            outputs[place] = [token for token in ids if token != PAD]
    return [outputs[place] for place in places]


if __name__ == "__main__":
    run({"training": training, "decoding": decoding}, sys.argv[1])
