"""The paper, written out; run from a clone by ``python -m reference``, not installed with `mcl_triton`.

formulas: the paper's and the official code's loss, the oracles of the tests.
model: the two-stream network and its backbones.
datasets: sources of labelled images and their transforms.
training: settings, recipes, the loop, checkpoints, evaluation.
channels: where the channels of a class look, in numbers.
figures: the same in pictures.
experiments: comparisons of several runs.
commands: the options of every command.
"""
