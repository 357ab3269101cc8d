"""Forward-mode derivatives: a tape of linear steps, rules for operations, and torch's derivatives for all others."""
