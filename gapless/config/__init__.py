"""One typed tree that YAML files and arguments fill; importing it never imports torch."""

from gapless.config.data import AugmentationConfig, DataConfig
from gapless.config.files import (
    Flat,
    check_types,
    config_file,
    config_hash,
    flatten,
    load_config,
    load_tree,
    parser_of,
    read_arguments,
    with_changes,
)
from gapless.config.plan import EvalPlan, EvalTask
from gapless.config.tree import (
    CheckpointConfig,
    Config,
    EvalConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    Ramp,
    TrackingConfig,
    TrainConfig,
)

__all__ = [
    "AugmentationConfig",
    "CheckpointConfig",
    "Config",
    "DataConfig",
    "EvalConfig",
    "EvalPlan",
    "EvalTask",
    "Flat",
    "LossConfig",
    "ModelConfig",
    "OptimConfig",
    "Ramp",
    "TrackingConfig",
    "TrainConfig",
    "check_types",
    "config_file",
    "config_hash",
    "flatten",
    "load_config",
    "load_tree",
    "parser_of",
    "read_arguments",
    "with_changes",
]
