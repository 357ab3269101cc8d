"""Files of other tools: latent directions, axes of the mean metric, and metrics in the layouts of the paper.

- Directions: `direction_files` reads and writes plain arrays and the layouts of GANSpace, InterFaceGAN and
  encoder4editing; `edit_files` named edits.
- Axes: `axes` as files of directions, `axis_names` their names beside the sweep, `exports` the choice of a layout.
- Metrics: `paper_files` are those of the paper's scripts, and `imported_sweeps` the sweeps made of them.
- `tables`: tables of results as CSV.
"""
