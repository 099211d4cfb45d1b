"""The paper, written out; run from a clone, not installed with `mcl_triton`.

What the tests compare with: `loss`, `official`.
The two-stream network: `network`, `backbones`, `base_networks`.
Its images: `datasets`, `transforms`, `batches`.
What is trained, and how: `settings`, `recipes`, `build`.
Training: `train`, `run`, `evaluate`, `checkpoint`, `logs`, `interrupt`, `distributed`.
Where channels look: `overlap`, `localise`, `views`; drawn by `panels`, `views_figure`, `demo_figures`.
Comparisons of several runs: `several`, `spread`, `environment`, and the ablation's plan, results, table and figure.
Programs, ``python -m reference.NAME --help``: train, validate, predict, explain, overlap_curve, ablation, demo.
"""
