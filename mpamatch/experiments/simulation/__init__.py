"""The queue's strategies side by side: an oracle answers from hidden masks, rounds train, and clicks are counted."""
