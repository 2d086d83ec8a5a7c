"""Drawn H&E glands with exact masks, made from a seed: numpy and scipy. Knows no file and no data set."""
