"""From a trained encoder to a model repository that Triton and the gateway serve."""
