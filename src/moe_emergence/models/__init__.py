"""Dense bases, upcycling, and the registered GPT-2 Mixture of Experts."""
