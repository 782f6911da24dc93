"""The network in numpy: generating and scoring without torch."""
