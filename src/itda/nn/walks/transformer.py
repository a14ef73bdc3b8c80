"""A Transformer decoder under way in a search: keys and values written in place, beams as queries to one store."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from itda.nn.interface import Decoded, Engine, Memory, Walk
from itda.nn.multihead import CrossAttention, KeyValues, SelfAttention
from itda.nn.product import Linear, linear_plus
from itda.nn.ssru import SSRU
from itda.nn.walks.looking import Bias, Places, Values, attend, no_fewer
from itda.nn.walks.slots import FIRST, Slots

if TYPE_CHECKING:
    from itda.nn.transformer import DecoderLayer, Residual, TransformerDecoder

IDENTITY = nn.Identity()


class TransformerEngine(Engine):
    """Walks a Transformer decoder; nothing needs laying out."""

    def __init__(self, decoder: TransformerDecoder) -> None:
        self.decoder = decoder

    def start(self, memory: Memory, *, weights: bool) -> TransformerWalk:
        """Project the memory for each layer; nothing is written yet."""
        return TransformerWalk(self.decoder, memory, weights)


class TransformerWalk(Walk):
    """Where a Transformer decoder stands in a search."""

    def __init__(self, decoder: TransformerDecoder, memory: Memory, weights: bool) -> None:
        self.decoder, self.memory, self.weights = decoder, memory, weights
        self.slots, self.places = Slots(memory.states), Places()
        self.pasts = [_past(layer, memory) for layer in decoder.layers]
        # Read again at each step, so laid out once in the order in which they are read.
        self.keys = [tuple(map(_laid_out, layer.cross.keys(memory.states))) for layer in decoder.layers]
        self._lay_out_padding()

    def step(self, previous: Int[Tensor, " rows"]) -> Decoded:
        """One position: only what is new is computed."""
        decoder, slots = self.decoder, self.slots
        values = decoder.entrance(decoder.embed(previous)[:, None], slots.position)
        values = values.view(len(self.memory.mask), self.width, -1)
        new, alpha = slots.advance(self._keep), None
        biases: dict[int, Bias] = {}
        for number, (layer, past, keys) in enumerate(zip(decoder.layers, self.pasts, self.keys, strict=True)):
            first, second, third = layer.residuals
            values = _leave(first, values, *past.step(first.enter(values), slots, new, biases))
            look = self.weights and number == len(self.pasts) - 1
            answer, alpha = self._look(layer.cross, second.enter(values), keys, look)
            values = _leave(second, values, layer.cross.output, answer)
            feed_forward = layer.feed_forward
            values = _leave(third, values, feed_forward.output, feed_forward.widen(third.enter(values)))
        features = decoder.output(decoder.norm(values)).flatten(0, 1)[:, None]
        if alpha is None:
            return Decoded(features)
        contexts = (alpha @ self.memory.states).flatten(0, 1)[:, None]
        return Decoded(features, alpha.flatten(0, 1)[:, None], contexts)

    def reorder(self, rows: Int[Tensor, " rows"]) -> None:
        """Let row i go on from what row `rows[i]` was."""
        self.slots.reorder(rows)
        for past in self.pasts:
            past.reorder(rows)

    def select(self, sentences: Int[Tensor, " kept"]) -> None:
        """Keep some sentences."""
        self.memory = self.memory.select(sentences)
        self.slots.select(sentences)
        self.keys = [(key.index_select(0, sentences), value.index_select(0, sentences)) for key, value in self.keys]
        self._lay_out_padding()
        for past in self.pasts:
            past.select(sentences, self.width)

    def widen(self, width: int) -> None:
        """Give each sentence `width` rows."""
        self.width = width
        self.slots.widen(width, self._keep)
        for past in self.pasts:
            past.widen(width)

    def _look(self, cross: CrossAttention, values: Values, keys: KeyValues, look: bool) -> tuple[Values, Tensor | None]:
        """Attend to the memory: what its map of answers is to read, and alpha."""
        answer, weights = attend(cross.queries(values), *keys, keys[0].shape[2], self.padding, self.places)
        if not look:
            return answer, None
        alpha = weights.view(len(values), cross.num_heads, *values.shape[1:2], -1).mean(dim=1)
        return answer, alpha[:, :, : self.memory.mask.shape[1]]

    def _lay_out_padding(self) -> None:
        """Keep the bias of padding as the scores are laid out; None where there is no padding."""
        mask, (heads, places) = self.memory.mask, self.keys[0][0].shape[1:3]
        self.padding: Bias | None = None
        if mask.shape[1] < places or not bool(mask.all()):
            bias = self.memory.states.new_full((len(mask), places), -torch.inf)
            bias[:, : mask.shape[1]].masked_fill_(mask, 0.0)
            self.padding = bias.repeat_interleave(heads, dim=0)[:, None]

    def _keep(self, order: Int[Tensor, "sentences kept"] | None, room: int) -> None:
        for past in self.pasts:
            past.keep(order, room)


class Written:
    """The keys and values that one self-attention has written: a slot of a store for each row and position."""

    def __init__(self, attention: SelfAttention, like: Float[Tensor, "sentences src dim"], room: int) -> None:
        self.attention, shape = attention, (len(like), attention.num_kv_heads, room, attention.head_dim)
        dtype = attention.map.weight.dtype
        # What was not written yet may be looked at, with a weight of 0, so it must be a number.
        self.key, self.value = like.new_zeros(shape, dtype=dtype), like.new_zeros(shape, dtype=dtype)

    def step(self, values: Values, slots: Slots, new: slice, biases: dict[int, Bias]) -> tuple[nn.Module, Values]:
        """Write what each row adds, and let it look at its past: the map of answers, and what it is to read."""
        attention = self.attention
        query, key, value = attention.project_rows(values, slots.position - 1)
        self.key[:, :, new], self.value[:, :, new] = key, value
        if attention.num_heads not in biases:
            biases[attention.num_heads] = _for_heads(slots.bias, attention.num_heads, attention.num_kv_heads)
        bias = biases[attention.num_heads]
        answer, _ = attend(query, self.key, self.value, slots.looked_at, bias, slots.places)
        return attention.output, answer

    def reorder(self, rows: Int[Tensor, " rows"]) -> None:
        """Leave all where it is: the slots know whose it is."""

    def widen(self, width: int) -> None:
        """The same."""

    def select(self, sentences: Int[Tensor, " kept"], width: int) -> None:
        """Keep some sentences."""
        self.key, self.value = self.key.index_select(0, sentences), self.value.index_select(0, sentences)

    def keep(self, order: Int[Tensor, "sentences kept"] | None, room: int) -> None:
        """Move what is kept to the front of a store with this room."""
        self.key, self.value = _moved(self.key, order, room), _moved(self.value, order, room)


class Recurrence:
    """What an SSRU carries: one vector a row."""

    def __init__(self, mixer: SSRU, like: Float[Tensor, "sentences src dim"]) -> None:
        self.mixer, self.cache = mixer, mixer.start(like[:, :1])

    def step(self, values: Values, slots: Slots, new: slice, biases: dict[int, Bias]) -> tuple[nn.Module, Values]:
        """One more position; its answer is the branch's."""
        answer, self.cache = self.mixer.step(values.reshape(-1, 1, values.shape[2]), self.cache)
        return IDENTITY, answer.view(values.shape)

    def reorder(self, rows: Int[Tensor, " rows"]) -> None:
        """Let row i go on from what row `rows[i]` was."""
        self.cache = self.cache.index_select(0, rows)

    def widen(self, width: int) -> None:
        """Give each sentence `width` rows."""
        self.cache = self.cache.repeat_interleave(width, dim=0)

    def select(self, sentences: Int[Tensor, " kept"], width: int) -> None:
        """Keep some sentences."""
        self.cache = self.cache.unflatten(0, (-1, width)).index_select(0, sentences).flatten(0, 1)

    def keep(self, order: Int[Tensor, "sentences kept"] | None, room: int) -> None:
        """Nothing is stored by position."""


def _past(layer: DecoderLayer, memory: Memory) -> Written | Recurrence:
    mixer = layer.mixer
    return (
        Written(mixer, memory.states, FIRST) if isinstance(mixer, SelfAttention) else Recurrence(mixer, memory.states)
    )


def _leave(
    residual: Residual, values: Values, output: nn.Module, answer: Float[Tensor, "sentences width inner"]
) -> Values:
    """The sum of a branch's input and its answer, mapped by `output`: one product where it can be."""
    if isinstance(output, Linear):
        total = linear_plus(answer, output.weight, output.bias, values)
    else:
        total = values + output(answer)
    return total if residual.norm_first else residual.norm(total)


def _laid_out(keys: Tensor) -> Tensor:
    """A store as wide as what is looked at; beyond the memory it holds zeros."""
    sentences, heads, places, size = keys.shape
    made = keys.new_empty(sentences, heads, no_fewer(places), size)
    made[:, :, :places] = keys
    made[:, :, places:] = 0.0
    return made


def _for_heads(bias: Float[Tensor, "#sentences width places"], num_heads: int, num_kv_heads: int) -> Bias:
    """Repeat what holds for a row for each of its heads, in the order of the scores."""
    if bias.shape[1] == 1:  # the same for all
        return bias
    sentences, width, places = bias.shape
    wanted = (sentences, num_kv_heads, num_heads // num_kv_heads, width, places)
    return bias[:, None, None].expand(wanted).reshape(sentences * num_kv_heads, -1, places)


def _moved(store: Tensor, order: Tensor | None, room: int) -> Tensor:
    """A store with this room that begins with some slots of another."""
    made = store.new_zeros(*store.shape[:2], room, store.shape[3])
    if order is None:
        made[:, :, : min(room, store.shape[2])] = store[:, :, :room]
        return made
    index = order[:, None, :, None].expand(-1, store.shape[1], -1, store.shape[3])
    made[:, :, : order.shape[1]] = store.gather(2, index)
    return made
