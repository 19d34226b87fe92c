"""What the tests share: tiny checkpoints, a driver of the loop, a scripted model and a slow oracle."""
