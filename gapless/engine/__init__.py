"""What every training run does, whatever it trains: the loop, devices, checkpoints, tracking. It knows no task."""
