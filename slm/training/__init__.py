"""What the training loop (train_lm.py) is made of: optimizer, checkpoints, evaluation, metrics."""
