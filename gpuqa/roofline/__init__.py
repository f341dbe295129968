"""What a card allows at best: the checkpoint's shape, the load of a pass, and the bounds that follow."""
