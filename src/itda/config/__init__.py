"""Recipes: frozen dataclasses read once from TOML, strict about every key and value."""

from itda.config.check import notices, problems, validate
from itda.config.explain import explain
from itda.config.fields import (
    FORMAT,
    AttentionConfig,
    Config,
    DataConfig,
    DecodeConfig,
    DecoderConfig,
    EncoderConfig,
    ModelConfig,
    TeacherForcingConfig,
    TokenizerConfig,
    TrainConfig,
)
from itda.config.find import recipe_names, recipe_path
from itda.config.read import load, override, parse, with_budget
from itda.config.write import dumps

__all__ = [
    "FORMAT",
    "AttentionConfig",
    "Config",
    "DataConfig",
    "DecodeConfig",
    "DecoderConfig",
    "EncoderConfig",
    "ModelConfig",
    "TeacherForcingConfig",
    "TokenizerConfig",
    "TrainConfig",
    "dumps",
    "explain",
    "load",
    "notices",
    "override",
    "parse",
    "problems",
    "recipe_names",
    "recipe_path",
    "validate",
    "with_budget",
]
