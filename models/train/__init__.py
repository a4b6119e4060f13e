"""Language models and their training: tokenizers, chat templates, weights, pretraining and what follows."""
