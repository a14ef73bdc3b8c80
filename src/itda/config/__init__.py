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
from itda.config.inherit import Base, starting_point
from itda.config.read import assemble, load, override, parse, read_text, with_base, with_budget
from itda.config.unread import changed_keys
from itda.config.write import dumps

__all__ = [
    "FORMAT",
    "AttentionConfig",
    "Base",
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
    "assemble",
    "changed_keys",
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
    "starting_point",
    "validate",
    "with_base",
    "with_budget",
]
