"""Do the experts of a Mixture of Experts really specialise? A laboratory instrument to find out."""

__version__ = "0.1.0"
