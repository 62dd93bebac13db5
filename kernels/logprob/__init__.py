"""Log-probability of chosen tokens and entropy, from hidden states and the output head, without the whole logits."""
