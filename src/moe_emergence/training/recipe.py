"""The recipe of a pretrained base, as a value. No torch here: its fields are options of a command."""

from dataclasses import dataclass

from moe_emergence.errors import ConfigError

EMBEDDED_MIX = "prose=90,code=5,math=5"
"""A base of web prose has seen little code and mathematics: experts are to find something left to learn."""


@dataclass(frozen=True, kw_only=True)
class BaseRecipe:
    """Everything the base's weights depend on, besides the corpora and the tokenizer."""

    layers: int = 4
    hidden_size: int = 128
    heads: int = 4
    block_size: int = 256
    batch_size: int = 16
    mix: str = ""
    """Shares of the domains in what it is trained on, as in prose=90,code=5,math=5; empty: 90 % prose for the embedded
    corpora, as much of every domain for others."""
    learning_rate: float = 2e-3
    weight_decay: float = 0.1
    warmup_steps: int = 200
    plateau_gain: float = 0.01
    """Nats of dev loss, domains weighted as in the mix; the constant phase ends when a plateau window gains less."""
    plateau_tokens: int = 2_000_000
    max_constant_steps: int = 2440
    """The constant phase ends with the first evaluation from here on, if not before."""
    decay_share: float = 0.2
    """Steps of the decay, as a share of the constant phase's."""
    eval_every: int = 122
    """Steps between dev evaluations: half a million tokens."""
    dev_blocks: int = 40
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name not in ("seed", "mix", "weight_decay", "plateau_gain") and value <= 0:
                raise ConfigError(f"{name} must be above 0; got {value}")
        if self.hidden_size % self.heads:
            raise ConfigError(f"heads must divide hidden_size ({self.hidden_size}); got {self.heads}")
