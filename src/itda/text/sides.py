"""The two sides of a recipe's data: words, their features, and tags, learned from its pairs."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from itda.config import DataConfig, TokenizerConfig
from itda.config.extras import factor_specs, tag_names
from itda.errors import UserError
from itda.text.annotation import Annotation, count_values, learn_factors
from itda.text.factors import FactoredTokenizer
from itda.text.tags import TaggedTokenizer, check_language, split_tag
from itda.text.tokenizer import Tokenizer, TokenizerPair, train_tokenizers

Numbered = tuple[str, str, str]  # where a pair stands ("FILE, line 7"), its source and its target


def annotated_as(data: DataConfig) -> tuple[Annotation, Annotation]:
    """Read from a recipe how the texts of source and target are annotated."""
    specs = (
        factor_specs(data.source_factors, "data.source_factors"),
        factor_specs(data.target_factors, "data.target_factors", summed_only=True),
    )
    src, tgt = (Annotation(tuple(spec.name for spec in one), data.factor_separator) for one in specs)
    return src, tgt


def learn_sides(
    data: DataConfig, config: TokenizerConfig, pairs: Callable[[], Iterable[Numbered]], seed: int
) -> TokenizerPair:
    """Learn the vocabularies of words and of features from pairs, which are read several times.

    The first time, every line is held against the recipe: a UserError names the first whose features or whose tag are
    not what the recipe says. A factor keeps as many values as the words may have, the most frequent.
    """
    languages, (src, tgt) = tag_names(data.tags), annotated_as(data)
    if not (languages or src.names or tgt.names):
        return train_tokenizers(config, lambda: ((one, other) for _, one, other in pairs()), seed)
    counts: tuple[defaultdict[str, Counter[str]], ...] = (defaultdict(Counter), defaultdict(Counter))
    for where, *texts in pairs():
        try:
            texts[0] = untagged(texts[0], languages)
            for text, side, counted in zip(texts, (src, tgt), counts, strict=True):
                count_values(side, text, counted)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None

    def seen() -> Iterator[tuple[str, str]]:
        for _, one, other in pairs():
            yield src.seen(untagged(one, languages)), tgt.seen(other)

    learned = train_tokenizers(config, seen, seed)
    sides: list[Tokenizer] = [learned.src, learned.tgt]
    for place, (side, counted) in enumerate(zip((src, tgt), counts, strict=True)):
        if side.names:
            sides[place] = FactoredTokenizer(sides[place], side, learn_factors(side, counted, config.vocab_size))
    if languages:
        sides[0] = TaggedTokenizer(sides[0], languages)
    return replace(learned, src=sides[0], tgt=sides[1])


def untagged(text: str, languages: tuple[str, ...]) -> str:
    """Take the tag off a source, where the recipe has tags; UserError where it lacks one."""
    if not languages:
        return text
    language, rest = split_tag(text)
    if not language:
        raise UserError(
            f"the source has no tag, and data.tags is {', '.join(languages)}: begin it with <2{languages[0]}>, or name "
            f"the corpus <2{languages[0]}> CORPUS (all lines), or <2*> CORPUS (a third column holds the language)"
        )
    check_language(language, languages)
    return rest
