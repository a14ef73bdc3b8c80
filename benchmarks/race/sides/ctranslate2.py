"""CTranslate2: its engine runs the very weights of itda's Transformer, written into its format."""

from __future__ import annotations

import sys
import tempfile
import time
from typing import Any

import ctranslate2
import numpy as np
from ctranslate2.specs import TransformerSpec

from race.child import BOS, EOS, PAD, Job, Result, decoded, most_steps, read_sources, run

Arrays = dict[str, np.ndarray]
LAYOUTS = ((1, 2), (2, 1))  # batches at a time, threads for each; both are tried on two threads


def linear(spec: Any, arrays: Arrays, name: str) -> None:
    """Set the weights of a linear map."""
    spec.weight, spec.bias = arrays[f"{name}.weight"], arrays[f"{name}.bias"]


def norm(spec: Any, arrays: Arrays, name: str) -> None:
    """Set the weights of a layer norm."""
    spec.gamma, spec.beta = arrays[f"{name}.weight"], arrays[f"{name}.bias"]


def positions(count: int, dim: int) -> np.ndarray:
    """Make itda's sinusoidal positions: sines at even places, cosines at odd ones."""
    angles = np.arange(count)[:, None] * 10_000.0 ** (-np.arange(0, dim, 2) / dim)
    return np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(count, dim).astype(np.float32)


def make_spec(arrays: Arrays, sizes: dict[str, Any]) -> TransformerSpec:
    """Lay out itda's weights as CTranslate2 wants them."""
    spec = TransformerSpec.from_config((sizes["layers"], sizes["layers"]), sizes["heads"], pre_norm=True)
    table, bias = arrays["encoder.embed.table.weight"], arrays["head.bias"].copy()
    bias[[PAD, BOS]] = -1e9  # they never follow
    spec.encoder.embeddings[0].weight = spec.decoder.embeddings.weight = table
    spec.decoder.projection.weight, spec.decoder.projection.bias = table, bias
    for side, name in ((spec.encoder, "encoder"), (spec.decoder, "decoder")):
        side.position_encodings.encodings = positions(512, sizes["dim"])
        norm(side.layer_norm, arrays, f"{name}.norm")
        for number, layer in enumerate(side.layer):
            _layer(layer, arrays, f"{name}.layers.{number}", name == "decoder")
    return spec


def _layer(layer: Any, arrays: Arrays, name: str, decoder: bool) -> None:
    own = f"{name}.{'mixer' if decoder else 'attention'}"
    for place, part in enumerate(("map", "output")):
        linear(layer.self_attention.linear[place], arrays, f"{own}.{part}")
    norm(layer.self_attention.layer_norm, arrays, f"{name}.residuals.0.norm")
    if decoder:
        for place, part in enumerate(("query_map", "memory_map", "output")):
            linear(layer.attention.linear[place], arrays, f"{name}.cross.{part}")
        norm(layer.attention.layer_norm, arrays, f"{name}.residuals.1.norm")
    linear(layer.ffn.linear_0, arrays, f"{name}.feed_forward.map")
    linear(layer.ffn.linear_1, arrays, f"{name}.feed_forward.output")
    norm(layer.ffn.layer_norm, arrays, f"{name}.residuals.{2 if decoder else 1}.norm")


def write_model(job: Job, folder: str) -> None:
    """Write the model of a job into a folder."""
    with np.load(job["weights"]) as file:
        spec = make_spec(dict(file), job["model"])
    tokens = ["<blank>", "<unk>", "<s>", "</s>", *(f"t{number}" for number in range(4, job["vocab_size"]))]
    spec.register_source_vocabulary(tokens)
    spec.register_target_vocabulary(tokens)
    spec.validate()
    spec.optimize(quantization=None if job.get("type", "float32") == "float32" else job["type"])
    spec.save(folder)


def decoding(job: Job) -> Result:
    """Decode the prepared sources, with the better of the two ways to use two threads."""
    names = ["<blank>", "<unk>", "<s>", "</s>", *(f"t{number}" for number in range(4, job["vocab_size"]))]
    numbers = {name: number for number, name in enumerate(names)}
    sources = read_sources(job["sources"])
    texts = [[names[token] for token in ids] for ids in sources]

    def decode(translator: ctranslate2.Translator, places: list[int], size: int) -> list[list[int]]:
        found = translator.translate_batch(
            [texts[place] for place in places], beam_size=job["beam"], max_batch_size=size, length_penalty=1.0,
            max_decoding_length=most_steps(job),
        )  # fmt: skip
        return [[*(numbers[name] for name in one.hypotheses[0]), EOS][: most_steps(job)] for one in found]

    with tempfile.TemporaryDirectory() as folder:
        write_model(job, folder)
        candidates = []
        for at_once, threads in LAYOUTS:
            translator = ctranslate2.Translator(
                folder, compute_type=job.get("type", "float32"), inter_threads=at_once, intra_threads=threads
            )
            few = list(range(min(len(sources), 4 * job["batches"][0])))
            decode(translator, few, job["batches"][0])
            start = time.perf_counter()
            decode(translator, few, job["batches"][0])
            candidates.append((time.perf_counter() - start, at_once, translator))
    _, at_once, translator = min(candidates, key=lambda each: each[:2])
    candidates.clear()
    return decoded(sources, job, lambda places, size: decode(translator, places, size)) | {"batches_at_once": at_once}


if __name__ == "__main__":
    run({"decoding": decoding}, sys.argv[1])
