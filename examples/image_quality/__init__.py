"""How close samples of images are to real ones, by the features of a classifier that is trained on the same data."""
