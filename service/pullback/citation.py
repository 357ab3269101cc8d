"""How to cite Pullback and the paper that defines the method, as BibTeX."""

import pullback

PAPER_KEY = "wang2021geometry"
"""The key of the paper's entry."""

_PAPER = f"""\
@inproceedings{{{PAPER_KEY},
  title     = {{The geometry of deep generative image models and its applications}},
  author    = {{Wang, Binxu and Ponce, Carlos R.}},
  booktitle = {{International Conference on Learning Representations}},
  year      = {{2021}},
  url       = {{https://arxiv.org/abs/2101.06006}}
}}
"""


def software() -> str:
    """Return the entry of this version of the software."""
    version = pullback.__version__
    key = "pullback" + "".join(each if each.isalnum() else "_" for each in version)
    return f"""\
@software{{{key},
  title   = {{Pullback: the pull-back metric of image generators}},
  author  = {{{{The Pullback authors}}}},
  version = {{{version}}},
  license = {{Apache-2.0}}
}}
"""


def paper() -> str:
    """Return the entry of the paper that defines the method."""
    return _PAPER


def bibtex() -> str:
    """Return both entries, the software's first."""
    return f"{software()}\n{paper()}"
