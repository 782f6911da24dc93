"""How good a model is: loss, dynamic evaluation, baselines, memorisation."""
