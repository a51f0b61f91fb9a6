"""What comes back of a recording: tokenizers' round trips, and recordings of them beside their ground truth."""
