"""Files of other tools: latent directions, axes of the mean metric, and metrics in the layouts of the paper."""
