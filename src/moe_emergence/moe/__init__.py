"""The layer: router, experts, their losses and balance, and the oracle they are tested against."""
