import pytest

from moe_emergence.errors import ConfigError
from moe_emergence.training.recipe import BaseRecipe


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("heads", 3, r"heads must divide hidden_size \(128\); got 3"),
        ("eval_every", 0, "eval_every must be above 0; got 0"),
        ("warmup_steps", 0, "warmup_steps must be above 0; got 0"),
    ],
)
def test_what_cannot_be_trained_is_refused(field: str, value: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        BaseRecipe(**{field: value})
