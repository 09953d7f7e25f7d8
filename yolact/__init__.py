"""YOLACT and YOLACT++: model, post-processing, checkpoints and the training engine."""
