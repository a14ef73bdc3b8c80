"""Recipes: frozen dataclasses read once from TOML, strict about every key and value."""

from itda.config.check import notices, problems, validate
from itda.config.explain import describe_settings, explain
from itda.config.fields import (
    FORMAT,
    AttentionConfig,
    Config,
    DataConfig,
    DecodeConfig,
    DecoderConfig,
    EncoderConfig,
    GuidedAlignmentConfig,
    MinimumRiskConfig,
    ModelConfig,
    TeacherForcingConfig,
    TokenizerConfig,
    TrainConfig,
    TransformerConfig,
)
from itda.config.find import recipe_names, recipe_path
from itda.config.read import load, override, parse, read_text, with_budget
from itda.config.write import dumps

__all__ = [
    "FORMAT",
    "AttentionConfig",
    "Config",
    "DataConfig",
    "DecodeConfig",
    "DecoderConfig",
    "EncoderConfig",
    "GuidedAlignmentConfig",
    "MinimumRiskConfig",
    "ModelConfig",
    "TeacherForcingConfig",
    "TokenizerConfig",
    "TrainConfig",
    "TransformerConfig",
    "describe_settings",
    "dumps",
    "explain",
    "load",
    "notices",
    "override",
    "parse",
    "problems",
    "read_text",
    "recipe_names",
    "recipe_path",
    "validate",
    "with_budget",
]
